import pytest
import torch

from tests import reference
from tests.scenes import SIDE, MeanOfPixels, explained, images, region, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.deletion import area, deletion_curve, grid, insertion_curve


def test_grid_is_exact():
    assert grid(32, 1024) == [32 * j for j in range(33)]
    assert grid(4, 10) == [0, 2, 5, 7, 10]


def test_area_by_hand():
    assert area(torch.tensor([[1.0, 0.5, 0.0]])).item() == pytest.approx(0.5)
    assert area(torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(0.25)


def test_equals_a_loop_over_images():
    model, x, maps = small_model(), images(4), images(4, 1, seed=3)
    scene = scene_of(model, x)
    found = METRICS["deletion"].score(explained(scene, maps), METRICS["deletion"].settings(steps=8), None)
    with torch.no_grad():
        for n in range(4):
            expected = reference.deletion_auc(model, x[n], torch.zeros_like(x[n]), maps[n, 0], int(scene.targets[n]), 8)
            assert found["deletion.auc"].value[n].item() == pytest.approx(expected, abs=1e-6)
            assert found["deletion.relative"].value[n].item() == pytest.approx(expected / scene.p0[n].item(), abs=1e-5)


def test_curves_end_where_they_must_and_mirror_each_other():
    scene = scene_of(small_model(), images(4))
    one = explained(scene, images(4, 1, seed=3))
    keep, delete = insertion_curve(one, 32), deletion_curve(one, 32)
    assert torch.equal(keep[:, -1], scene.p0)
    assert torch.equal(delete[:, 0], scene.p0)
    assert torch.equal(keep[:, 0], delete[:, -1])
    inverse = explained(scene, -one.native)
    assert torch.allclose(deletion_curve(inverse, 32).flip(1), keep, atol=1e-9)


def test_planted_curve_by_hand():
    """Deleting the region first takes the score down linearly and then leaves it: known in closed form."""
    scene = scene_of(MeanOfPixels(region(), gain=4.0), torch.ones(1, 3, SIDE, SIDE))
    oracle = explained(scene, region().expand(1, 1, SIDE, SIDE) + 0)
    curve = deletion_curve(oracle, 32)[0]
    removed = torch.arange(33, dtype=torch.float64) / 32
    expected = torch.sigmoid(4 * (1 - 4 * removed).clamp_min(0))
    assert torch.allclose(curve, expected, atol=1e-6)


def test_pixel_flipping_of_quantus_is_the_same_curve_on_one_channel():
    """Same baseline, tie-free maps, one channel: Quantus's curve is the deletion curve without its clean point."""
    import quantus

    from xeval.quantus_bridge.runtime import quantus_runtime

    model, x, maps = small_model(1), images(5, 1), images(5, 1, seed=3)
    scene = scene_of(model, x)
    ours = deletion_curve(explained(scene, maps), 32)
    metric = quantus.PixelFlipping(
        features_in_step=SIDE * SIDE // 32, perturb_baseline=0.0, normalise=False, abs=False, disable_warnings=True
    )
    with quantus_runtime(0):
        theirs = metric(model, x.numpy().copy(), scene.targets.numpy(), maps.numpy().copy(), device="cpu")
    assert torch.allclose(ours[:, 1:], torch.tensor(theirs, dtype=torch.float64), atol=1e-5)
