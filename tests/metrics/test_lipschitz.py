import numpy as np
import pytest
import torch

from tests.scenes import SIDE, images, live, scene_of, small_model
from xeval.explainers import cam
from xeval.metrics import METRICS, Explained
from xeval.metrics.lipschitz import lipschitz
from xeval.metrics.metric import EMPTY_MAP

METRIC = METRICS["lipschitz"]
SETTINGS = METRIC.settings()


def test_by_hand():
    clean, perturbed = torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]])
    step = torch.tensor([[[[[2.0, 0.0]]], [[[0.1, 0.0]]]]])
    assert lipschitz(clean, perturbed, step).item() == pytest.approx(10)  # 5/2 and 1/0.1


def test_equals_a_loop_over_draws():
    one = live(scene_of(small_model(), images(3) * 0.5))
    shared = METRIC.prepare(one.scene, SETTINGS)
    found = METRIC.score(one, SETTINGS, shared)["lipschitz.value"].value
    model = one.scene.engine.model
    for n in range(3):
        clean, ratios = one.maps[n, 0].double(), []
        for draw in range(SETTINGS.n):
            x, target = shared[n, draw][None], one.scene.targets[n : n + 1]
            map_ = cam.upsample(cam.grad_cam(model, model.pooled_layer, x, target), (SIDE, SIDE))[0, 0].double()
            length = (x[0] - one.scene.images[n]).double().pow(2).sum().sqrt()
            ratios.append(float((map_ - clean).pow(2).sum().sqrt() / clean.abs().max() / length))
        assert found[n].item() == pytest.approx(max(ratios), rel=1e-4)


def test_equals_quantus_with_the_same_draws():
    """Quantus with its normalisation off is handed the same perturbed images and maps in our units."""
    import quantus

    one = live(scene_of(small_model(), images(4) * 0.5))
    scene, shared = one.scene, METRIC.prepare(one.scene, SETTINGS)
    unit = one.maps.abs().amax((1, 2, 3), keepdim=True)
    draws = iter(range(SETTINGS.n))

    def perturb(arr, indices, **_):
        return shared[:, next(draws)].numpy().reshape(arr.shape)

    def explain(model, inputs, targets, **_):
        return (one.version(torch.as_tensor(inputs), 1) / unit).numpy()

    metric = quantus.LocalLipschitzEstimate(
        nr_samples=SETTINGS.n, perturb_func=perturb, normalise=False, abs=False, disable_warnings=True
    )
    theirs = metric(
        scene.engine.model, scene.images.numpy(), scene.targets.numpy(), (one.maps / unit).numpy(),
        explain_func=explain, device="cpu",
    )  # fmt: skip
    ours = METRIC.score(one, SETTINGS, shared)["lipschitz.value"].value
    assert np.allclose(ours.numpy(), np.asarray(theirs), rtol=1e-5)


def test_it_is_free_of_the_map_s_scale_and_shares_the_maps_of_the_sensitivity():
    one = live(scene_of(small_model(), images(3)))
    shared = METRIC.prepare(one.scene, SETTINGS)
    found = METRIC.score(one, SETTINGS, shared)["lipschitz.value"].value
    larger = Explained(one.scene, 7 * one.native, lambda x, number, **_: 7 * one._again(x, number))
    assert torch.allclose(METRIC.score(larger, SETTINGS, shared)["lipschitz.value"].value, found, rtol=1e-5)
    before = one.scene.engine.passes
    METRICS["sensitivity"].score(one, METRICS["sensitivity"].settings(), shared)
    assert one.scene.engine.passes == before
    assert len(one._explained_again) == 1


def test_empty_maps_are_undefined():
    scene = scene_of(small_model(), images(2))
    zero = Explained(scene, torch.zeros(2, 1, 4, 4), lambda *_, **__: torch.zeros(2, 1, 4, 4))
    found = METRIC.score(zero, SETTINGS, METRIC.prepare(scene, SETTINGS))["lipschitz.value"]
    assert found.undefined[EMPTY_MAP].all()
    assert found.value.isfinite().all()
