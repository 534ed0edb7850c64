import numpy as np
import pytest
import torch

from tests.scenes import SIDE, images, scene_of, small_model
from xeval.explainers import cam
from xeval.metrics import METRICS, Explained
from xeval.metrics.continuity import ssim
from xeval.metrics.metric import EMPTY_MAP
from xeval.perturb.draws import normal, uniform


def live(n: int, channels: int = 3) -> Explained:
    model, x = small_model(channels), images(n, channels) * 0.5
    scene = scene_of(model, x)

    def maps(versions, _number, **_):
        return cam.grad_cam(model, model.pooled_layer, versions, scene.targets)

    return Explained(scene, maps(x, 0), maps)


@pytest.mark.parametrize("side", [7, 8, 16, 33])
def test_ssim_equals_scikit_image(side):
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand(4, side, side, generator=generator).double(),
        torch.rand(4, side, side, generator=generator).double(),
    )
    b = 0.7 * a + 0.3 * b
    expected = [
        structural_similarity(p.numpy(), q.numpy(), win_size=7, data_range=1) for p, q in zip(a, b, strict=True)
    ]
    assert np.allclose(ssim(a, b).numpy(), expected, atol=1e-9)
    assert torch.allclose(ssim(a, a), torch.ones(4).double())


def test_noise_is_added_in_pixel_space_and_clamped_there():
    one = live(5)
    scene, metric = one.scene, METRICS["ssim"]
    shared = metric.prepare(scene, metric.settings())
    pixels = shared.images / scene.pixel + scene.mean
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    clean = (scene.images / scene.pixel + scene.mean).unsqueeze(1)
    noise = 0.02 * normal(0, "ssim", scene.keys, 10, 3 * SIDE * SIDE).reshape(5, 10, 3, SIDE, SIDE)
    inside = ((clean + noise) > 0) & ((clean + noise) < 1) & (clean >= 0) & (clean <= 1)
    assert torch.allclose(pixels[inside], (clean + noise)[inside], atol=1e-5)
    assert inside.double().mean() > 0.5


def test_ssim_value_equals_a_loop():
    from skimage.metrics import structural_similarity

    one, metric = live(3), METRICS["ssim"]
    shared = metric.prepare(one.scene, metric.settings())
    found = metric.score(one, metric.settings(), shared)

    def shown(map_):
        a = np.maximum(map_, 0)
        return (a - a.min()) / (a.max() - a.min())

    model = one.scene.engine.model
    for n in range(3):
        clean, values, flips = shown(one.maps[n, 0].double().numpy()), [], []
        for draw in range(10):
            x, target = shared.images[n, draw][None], one.scene.targets[n : n + 1]
            map_ = cam.upsample(cam.grad_cam(model, model.pooled_layer, x, target), (SIDE, SIDE))[0, 0]
            values.append(structural_similarity(clean, shown(map_.double().numpy()), win_size=7, data_range=1))
            flips.append(int(model(x).argmax()) != int(target))
        assert found["ssim.value"].value[n].item() == pytest.approx(np.mean(values), abs=1e-5)
        assert found["ssim.flipped"].value[n].item() == pytest.approx(np.mean(flips))


def test_sensitivity_equals_captum_with_the_same_noise():
    from captum.metrics import sensitivity_max

    one, metric = live(4), METRICS["sensitivity"]
    scene, settings = one.scene, metric.settings()
    shared = metric.prepare(scene, settings)
    model = scene.engine.model

    def explanation(inputs, target):
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        return (cam.upsample(cam.grad_cam(model, model.pooled_layer, x, target), (SIDE, SIDE)),)

    oracle = sensitivity_max(
        explanation,
        scene.images,
        perturb_func=lambda *_: shared.flatten(0, 1),
        n_perturb_samples=settings.n,
        target=scene.targets,
    )
    found = metric.score(one, settings, shared)
    assert torch.allclose(found["sensitivity.max"].value, oracle.double(), atol=1e-5)
    assert (found["sensitivity.avg"].value <= found["sensitivity.max"].value).all()


def test_ball_has_the_radius_in_pixel_units():
    one, metric = live(3), METRICS["sensitivity"]
    step = (metric.prepare(one.scene, metric.settings()) - one.scene.images.unsqueeze(1)) / one.scene.pixel
    assert step.abs().max() <= 0.02 + 1e-6
    assert step.abs().max() > 0.0199
    u = uniform(0, "sensitivity", one.scene.keys, 10, 3 * SIDE * SIDE)
    assert torch.allclose(step.flatten(2), 0.04 * u - 0.02, atol=1e-6)


def test_empty_maps_are_counted_not_averaged():
    one = live(2)
    empty = Explained(one.scene, -torch.ones(2, 1, 4, 4), lambda _x, _n, **_: -torch.ones(2, 1, 4, 4))
    metric = METRICS["ssim"]
    found = metric.score(empty, metric.settings(), metric.prepare(one.scene, metric.settings()))
    assert found["ssim.value"].undefined[EMPTY_MAP].all()
