from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import reference
from tests.scenes import SIDE, explained, images, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.pixelflip import features, flipping_curve, mean_area
from xeval.quantus_bridge.runtime import quantus_runtime

METRIC = METRICS["pixelflip"]


def tie_free(maps: torch.Tensor, channels: int) -> torch.Tensor:
    """The maps in several channels, each a little below the one before: no ties, positions stay together."""
    gaps = maps.flatten(1).sort(1).values.diff(dim=1).amin(1)[:, None, None, None]
    return maps.double() - gaps.double() / (2 * channels) * torch.arange(channels).reshape(-1, 1, 1)


def stock(scene, maps: np.ndarray, step: int, **options):
    import quantus

    metric = quantus.PixelFlipping(features_in_step=step, disable_warnings=True, **options)
    with quantus_runtime(0):
        curve = metric(scene.engine.model, scene.images.numpy(), scene.labels.numpy(), maps, device="cpu")
        metric.return_auc_per_sample = True
        area = metric(scene.engine.model, scene.images.numpy(), scene.labels.numpy(), maps, device="cpu")
    return torch.tensor(np.asarray(curve)).double(), torch.tensor(np.asarray(area)).double()


@pytest.mark.parametrize("channels", [1, 3])
def test_semantics_0_6_equal_stock_quantus_on_tie_free_maps(channels):
    scene, maps = scene_of(small_model(channels), images(5, channels)), images(5, 1, seed=3)
    settings = METRIC.settings(semantics="0.6", step=32)
    curve = flipping_curve(explained(scene, maps), settings)
    theirs, area = stock(scene, tie_free(maps, channels).numpy(), 32)  # with its own normalisation
    assert curve.shape == (5, channels * SIDE * SIDE // 32)
    assert torch.allclose(curve, theirs, atol=1e-5)
    ours = METRIC.score(explained(scene, maps), settings, None)["pixelflip.auc"].value
    assert torch.allclose(ours, area / (curve.shape[1] - 1), atol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_legacy_order_equals_stock_quantus_with_its_arbitrary_ties(ties):
    """One map for three channels: Quantus flips colour values one by one, in the order its sort happens to give."""
    scene, maps = scene_of(small_model(), images(5)), images(5, 1, seed=3)
    maps = maps.clamp_min(0) if ties else maps
    settings = METRIC.settings(semantics="0.6", step=32, legacy_order=True)
    theirs, _ = stock(scene, maps.numpy(), 32, normalise=False)
    assert torch.allclose(flipping_curve(explained(scene, maps), settings), theirs, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("step", [32, 48])  # 256 positions: 8 whole steps; 5 and a rest
def test_semantics_0_5_equal_a_loop_over_positions(channels, legacy, step):
    model, x, maps = small_model(channels), images(3, channels), images(3, 1, seed=3)
    scene = scene_of(model, x)
    scene = replace(scene, labels=(scene.targets + 1) % 4)  # the true class counts, not the explained one
    curve = flipping_curve(explained(scene, maps), METRIC.settings(semantics="0.5", step=step, legacy_order=legacy))
    everything = {(y, x) for y in range(SIDE) for x in range(SIDE)}
    with torch.no_grad():
        for n in range(3):
            black = torch.full_like(x[n], float(x[n].min()))
            for j in range(curve.shape[1]):
                flipped = reference.most_relevant(maps[n, 0], min((j + 1) * step, SIDE * SIDE))
                image = reference.keep_only(x[n], black, everything - flipped)
                expected = reference.softmax_of(model, image, int(scene.labels[n]))
                assert curve[n, j].item() == pytest.approx(expected, abs=1e-6)
    assert curve.shape[1] == -(-SIDE * SIDE // step)


def test_channels_of_a_position_follow_one_another():
    scene, maps = scene_of(small_model(), images(2)), images(2, 1, seed=3)
    one = explained(scene, maps)
    place = features(one, METRIC.settings(semantics="0.6"))
    assert torch.equal(place[:, 0] // 3, one.ranking)
    assert torch.equal(place - place[:, :1], torch.tensor([0, 1, 2]).reshape(1, 3, 1, 1).expand_as(place))


def test_area_by_hand():
    assert mean_area(torch.tensor([[1.0, 0.5, 0.0]])).item() == pytest.approx(0.5)
    assert mean_area(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.5)
    assert mean_area(torch.tensor([[0.3]])).item() == pytest.approx(0.3)
