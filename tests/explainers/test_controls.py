import math

import numpy as np
import pytest
import torch

from tests.scenes import control, explained, images, scene_of, small_model
from xeval.explainers import CONTROLS, cam

x = images(6)


@pytest.fixture(scope="module")
def setting():
    model = small_model()
    scene = scene_of(model, x)
    return scene, explained(scene, cam.grad_cam(model, model.pooled_layer, x, scene.targets))


@pytest.mark.parametrize("name", [name for name, about in CONTROLS.items() if about.draw])
def test_shape_finite_and_batch_independent(name, setting):
    scene, reference = setting
    found = control(scene, name, reference).maps
    assert found.shape == (6, 1, 16, 16)
    assert found.isfinite().all()
    one = scene_of(small_model(), x[4:5], ids=["image-4"])
    alone = control(one, name, explained(one, reference.native[4:5])).maps
    assert torch.allclose(found[4:5], alone, atol=1e-6)


def test_random_controls_are_drawn_anew_and_on_their_grid(setting):
    scene, reference = setting
    for name, side in (("random", 16), ("random-cam", 4)):
        one = control(scene, name, reference)
        assert one.native.shape[-1] == side
        versions = one.again("noise", scene.images[:, None].expand(-1, 3, -1, -1, -1))
        draws = torch.cat([one.maps, versions, control(scene, name, reference, draw=1).maps], 1).flatten(2)
        r = torch.corrcoef(draws[0])
        assert (r - torch.eye(5)).abs().max() < 0.7
        assert not torch.equal(one.maps[0], one.maps[1])


def test_centre_by_hand(setting):
    scene, reference = setting
    found = control(scene, "centre", reference).maps[0, 0]
    assert found[0, 0].item() == pytest.approx(math.exp(-2 * 7.5**2 / (2 * 4.0**2)), rel=1e-5)
    assert torch.equal(found, found.flip(0))
    assert torch.equal(found, found.T)


def test_edge_equals_scipy(setting):
    from scipy.ndimage import sobel

    scene, reference = setting
    found = control(scene, "edge", reference).maps[0, 0].numpy()
    grey = x[0].mean(0).numpy()
    expected = np.hypot(sobel(grey, 0, mode="nearest"), sobel(grey, 1, mode="nearest"))
    assert np.allclose(found, expected, atol=1e-5)


def test_inverse_shares_the_passes_and_mirrors_the_curve(setting):
    scene, _ = setting
    model = scene.engine.model
    reference = explained(scene, images(6, channels=1, seed=9))
    counts = [0, 64, 128, 256]
    keep, delete = reference.keeping(counts), reference.keeping(counts, lowest=True)
    before = scene.engine.passes
    inverse = reference.inverted()
    assert torch.equal(inverse.keeping(counts), delete)
    assert torch.equal(inverse.keeping(counts, lowest=True), keep)
    assert scene.engine.passes == before
    fresh = explained(scene_of(model, x), -reference.native)
    assert torch.allclose(fresh.keeping(counts), delete, atol=1e-9)  # no ties in these maps
