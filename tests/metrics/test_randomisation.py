import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from tests.scenes import SIDE, control, explained, images, live, scene_of, small_model
from xeval.explainers import cam
from xeval.metrics import METRICS
from xeval.metrics.metric import CONSTANT_MAP
from xeval.metrics.randomisation import histogram_entropy, signed_ssim
from xeval.models.frozen import reinitialized

MPRT, LOGIT = METRICS["mprt"], METRICS["logit"]


# ---- the network with fresh weights ----------------------------------------------------------------------------------


def test_the_model_and_the_random_state_stay_as_they_are():
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    fresh = reinitialized(model, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not fresh.training
    weights = [name for name, value in before.items() if name.endswith("weight") and value.ndim > 1]
    assert all(not torch.equal(fresh.state_dict()[name], before[name]) for name in weights)
    again, other = reinitialized(model, 0).state_dict(), reinitialized(model, 1).state_dict()
    assert all(torch.equal(fresh.state_dict()[name], again[name]) for name in before)
    assert not torch.equal(other[weights[0]], again[weights[0]])


def test_learned_statistics_are_forgotten_and_stray_parameters_shuffled():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)
            self.token = nn.Parameter(torch.arange(50.0).reshape(5, 10))

    model = Token()
    model.norm.running_mean += 3
    fresh = reinitialized(model, 0)
    assert fresh.norm.running_mean.abs().sum() == 0
    assert not torch.equal(fresh.token, model.token)
    assert torch.equal(fresh.token.flatten().sort().values, model.token.flatten())


# ---- efficient MPRT --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [2, 10, 100])
def test_histogram_entropy_equals_numpy(bins):
    maps = images(6, 1, seed=3)
    maps[4] = maps[4].clamp_min(0)
    maps[5] = 0.3
    for n, found in enumerate(histogram_entropy(maps, bins)):
        counts, _ = np.histogram(maps[n].abs().double().numpy(), bins=bins)
        assert found.item() == pytest.approx(scipy.stats.entropy(counts), abs=1e-9)
    assert torch.allclose(histogram_entropy(8 * maps, bins), histogram_entropy(maps, bins))


def test_rise_equals_quantus_with_the_same_random_network(monkeypatch):
    """Quantus draws each layer from one and the same seed; it is handed the network drawn here."""
    import quantus
    from quantus.helpers.utils import PyTorchModel

    scene = scene_of(small_model(), images(5))
    one = live(scene)
    fresh = MPRT.prepare(scene, MPRT.settings())
    monkeypatch.setattr(PyTorchModel, "get_random_layer_generator", lambda *_, **__: iter([("all", fresh)]))
    monkeypatch.setattr(PyTorchModel, "random_layer_generator_length", 1)

    def explain(model, inputs, targets, **_):
        native = cam.grad_cam(model, model.pooled_layer, torch.as_tensor(inputs), torch.as_tensor(targets))
        return cam.upsample(native, (SIDE, SIDE)).double().numpy()

    theirs = quantus.EfficientMPRT(disable_warnings=True, abs=True)(
        scene.engine.model, scene.images.numpy(), scene.targets.numpy(), explain_func=explain, device="cpu"
    )
    ours = MPRT.score(one, MPRT.settings(), fresh)["mprt.rise"].value
    assert np.allclose(ours.numpy(), theirs, atol=1e-5)
    assert ours.abs().min() > 0


def test_a_map_that_does_not_know_the_network_does_not_rise():
    one = live(scene_of(small_model(), images(4)))
    fresh = MPRT.prepare(one.scene, MPRT.settings())
    for name in ("centre", "edge", "random"):
        found = MPRT.score(control(one.scene, name, one), MPRT.settings(), fresh)["mprt.rise"]
        assert found.value.abs().max() == 0, name
    flat = MPRT.score(control(one.scene, "constant", one), MPRT.settings(), fresh)["mprt.rise"]
    assert flat.undefined[CONSTANT_MAP].all()


# ---- random logit ----------------------------------------------------------------------------------------------------


def test_signed_ssim_equals_scikit_image():
    from skimage.metrics import structural_similarity

    x, y = images(5, 1, seed=1), 0.5 * images(5, 1, seed=1) + 3 * images(5, 1, seed=2)
    for n, found in enumerate(signed_ssim(x, y)):
        a, b = x[n, 0].double().numpy(), y[n, 0].double().numpy()
        span = max(a.max(), b.max()) - min(a.min(), b.min())
        assert found.item() == pytest.approx(structural_similarity(a, b, win_size=7, data_range=span), abs=1e-9)
    assert torch.allclose(signed_ssim(9 * x, 9 * y), signed_ssim(x, y), atol=1e-9)


def test_random_logit_equals_quantus_on_planes(monkeypatch):
    """Stock Quantus compares flattened maps with a 1-D window: it is handed the other classes drawn here and its own
    similarity, with the planes put back into shape.
    """
    import quantus
    from quantus.functions.similarity_func import ssim

    scene = scene_of(small_model(classes=6), images(5))
    one, other = live(scene), LOGIT.prepare(scene, LOGIT.settings())
    place = (other - (other > scene.targets).long()).numpy()  # the number of the class among the others
    monkeypatch.setattr(np.random, "seed", lambda _: None)
    monkeypatch.setattr(np.random, "randint", lambda *_: place)

    def explain(model, inputs, targets, **_):
        native = cam.grad_cam(model, model.pooled_layer, torch.as_tensor(inputs), torch.as_tensor(targets))
        return cam.upsample(native, (SIDE, SIDE)).double().numpy()

    def planes(a, b, **_):
        return [ssim(p.reshape(SIDE, SIDE), q.reshape(SIDE, SIDE)) for p, q in zip(a, b, strict=True)]

    metric = quantus.RandomLogit(
        similarity_func=planes, num_classes=6, normalise=False, abs=False, disable_warnings=True
    )
    theirs = metric(
        scene.engine.model, scene.images.numpy(), scene.targets.numpy(), one.maps.double().numpy(),
        explain_func=explain, device="cpu",
    )  # fmt: skip
    ours = LOGIT.score(one, LOGIT.settings(), other)["logit.ssim"].value
    assert np.allclose(ours.numpy(), theirs, atol=1e-5)


def test_a_map_that_does_not_know_the_class_has_1():
    scene = scene_of(small_model(), images(3))
    found = LOGIT.score(explained(scene, images(3, 1)), LOGIT.settings(), LOGIT.prepare(scene, LOGIT.settings()))
    assert torch.allclose(found["logit.ssim"].value, torch.ones(3).double())


def test_both_belong_to_the_sanity_group_and_run_on_request_only():
    assert {name for name, metric in METRICS.items() if metric.group == "sanity"} == {"mprt", "logit"}
    assert not MPRT.default
    assert not LOGIT.default
