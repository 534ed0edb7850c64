from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.scenes import SIDE, explained, images, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.drop import drop_increase
from xeval.perturb.fills import FILLS

probability = st.floats(1e-6, 1 - 1e-6)


def column(p0, p1, name):
    return drop_increase(torch.tensor([p0], dtype=torch.float64), torch.tensor([p1], dtype=torch.float64))[name].item()


def test_by_hand():
    assert column(0.8, 0.2, "drop.rate") == 1
    assert column(0.8, 0.2, "drop.mag") == pytest.approx(0.75)
    assert column(0.8, 0.2, "increase.mag") == 0
    assert column(0.2, 0.5, "increase.rate") == 1
    assert column(0.2, 0.5, "increase.mag") == pytest.approx(1.5)  # unbounded by 1
    assert column(0.5, 0.5 + 5e-7, "drop.tie") == 1
    assert column(0.5, 0.5 + 5e-7, "increase.rate") == 0


@given(probability, probability)
@settings(max_examples=200, deadline=None)
def test_properties(p0, p1):
    drop, increase, tie = (column(p0, p1, f"{name}") for name in ("drop.rate", "increase.rate", "drop.tie"))
    assert drop + increase + tie == 1
    assert 0 <= column(p0, p1, "drop.mag") <= drop
    assert column(p0, p1, "increase.mag") <= 1 / p0 - 1 + 1e-9


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_a_loop_over_images(channels):
    model, x = small_model(channels), images(6, channels)
    fill = 0.3 * images(6, channels, seed=4)
    scene = scene_of(model, x, fill=fill)
    maps = images(6, 1, seed=8)  # tie-free
    metric = METRICS["drop"]
    settings_ = metric.settings(thresholds=(0.15, 0.3, 0.45, 0.77))
    found = metric.score(explained(scene, maps), settings_, None)
    with torch.no_grad():
        for n in range(6):
            for q in settings_.thresholds:
                expected = reference.drop_increase(model, x[n], fill[n], maps[n, 0], int(scene.targets[n]), q)
                for name, value in expected.items():
                    assert found[f"{name}@{q:g}"].value[n].item() == pytest.approx(value, abs=1e-6)


def test_keeping_nothing_and_everything_are_short_cut():
    scene = scene_of(small_model(), images(3))
    before = scene.engine.passes
    one = explained(scene, images(3, 1))
    found = METRICS["drop"].score(one, METRICS["drop"].settings(thresholds=(0.0, 1.0)), None)
    assert scene.engine.passes - before == 3  # the fill image, once an image
    assert found["drop.tie@1"].value.sum() == 3
    p_fill = scene.engine.probabilities(torch.zeros(3, 3, SIDE, SIDE)).gather(1, scene.targets[:, None])[:, 0]
    assert torch.allclose(found["drop.mag@0"].value, ((scene.p0 - p_fill) / scene.p0).clamp_min(0))


def test_thresholds_share_the_curve_s_passes():
    scene = scene_of(small_model(), images(4))
    one = explained(scene, images(4, 1))
    METRICS["insertion"].score(one, METRICS["insertion"].settings(steps=32), None)
    before = scene.engine.passes
    METRICS["drop"].score(one, METRICS["drop"].settings(thresholds=(0.25, 0.5)), None)  # both on the grid
    assert scene.engine.passes == before
    METRICS["drop"].score(one, METRICS["drop"].settings(), None)
    assert scene.engine.passes == before + 3 * 4


def shown(map_):
    """Min-max of one H×W map."""
    return (map_ - map_.min()) / (map_.max() - map_.min())


@pytest.mark.parametrize("mask", ["soft", "cutoff"])
def test_other_masks_equal_a_loop_over_images(mask):
    model, x, maps = small_model(), images(5), images(5, 1, seed=8)
    fill = 0.3 * images(5, seed=4)
    scene = scene_of(model, x, fill=fill)
    metric = METRICS["drop"]
    settings_ = metric.settings(mask=mask, thresholds=(0.3, 0.5))
    found = metric.score(explained(scene, maps), settings_, None)
    assert set(found) == {column.name for column in metric.columns(settings_)}
    with torch.no_grad():
        for n in range(5):
            target, weight = int(scene.targets[n]), shown(maps[n, 0])
            p0 = reference.softmax_of(model, x[n], target)
            for name in ("soft",) if mask == "soft" else ("0.3", "0.5"):
                keep = weight if mask == "soft" else (weight > float(name)).float()
                p1 = reference.softmax_of(model, keep * x[n] + (1 - keep) * fill[n], target)
                assert found[f"drop.mag@{name}"].value[n].item() == pytest.approx(max(0, p0 - p1) / p0, abs=1e-6)
                assert found[f"increase.mag@{name}"].value[n].item() == pytest.approx(max(0, p1 - p0) / p0, abs=1e-6)
                assert found[f"drop.kept@{name}"].value[n].item() == pytest.approx(float(keep.mean()), abs=1e-6)


@pytest.mark.parametrize("mask", ["soft", "cutoff"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_other_masks_of_flat_maps_keep_nothing(mask, value):
    scene = scene_of(small_model(), images(3))
    settings_ = METRICS["drop"].settings(mask=mask)
    found = METRICS["drop"].score(explained(scene, torch.full((3, 1, SIDE, SIDE), value)), settings_, None)
    name = next(iter(settings_.names))
    assert found[f"drop.kept@{name}"].value.sum() == 0
    assert torch.allclose(
        found[f"drop.mag@{name}"].value, ((scene.p0 - scene.p_fill) / scene.p0).clamp_min(0), atol=1e-6
    )


def test_a_sentence_for_every_mask():
    convention = METRICS["drop"].convention
    sentences = {convention(METRICS["drop"].settings(mask=mask)) for mask in ("topk", "soft", "cutoff")}
    assert len(sentences) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_road_equals_a_loop_with_the_imputer_of_pytorch_grad_cam(channels):
    """The whole way: rankings, masks of all images and thresholds solved in one batch, each image its own noise."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    model, x, maps = small_model(channels), images(4, channels), images(4, 1, seed=8)
    scene = scene_of(model, x)
    fill = FILLS["road"].make(x, scene.mean, scene.pixel, scene.keys, 0)
    scene = replace(scene, fill=fill, compose=FILLS["road"].compose)
    found = METRICS["drop"].score(explained(scene, maps), METRICS["drop"].settings(), None)
    with torch.no_grad():
        for n in range(4):
            p0 = reference.softmax_of(model, x[n], int(scene.targets[n]))
            for q in (0.15, 0.3, 0.45):
                kept = torch.zeros(SIDE, SIDE)
                for place in reference.most_relevant(maps[n, 0], int(q * SIDE * SIDE)):
                    kept[place] = 1
                imputed = NoisyLinearImputer(noise=0)(x[n].clone(), kept).float() + (1 - kept) * fill[n]
                p1 = reference.softmax_of(model, imputed, int(scene.targets[n]))
                assert found[f"drop.mag@{q:g}"].value[n].item() == pytest.approx(max(0, p0 - p1) / p0, abs=1e-5)
