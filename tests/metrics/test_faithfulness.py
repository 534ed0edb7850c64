import numpy as np
import pytest
import torch

from tests import reference
from tests.scenes import SIDE, control, explained, images, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.faithfulness import random_subsets
from xeval.metrics.metric import CONSTANT_MAP
from xeval.perturb.draws import image_keys
from xeval.perturb.masks import kept

METRIC = METRICS["faithcorr"]
SETTINGS = METRIC.settings()


def test_subsets_have_their_size_and_are_uniform():
    keys = image_keys([str(i) for i in range(40)])
    found = random_subsets(0, keys, 50, 7, 64)
    assert (found.sum(2) == 7).all()
    share = found.double().mean((0, 1))
    assert (share - 7 / 64).abs().max() < 5 * (7 / 64 * 57 / 64 / 2000) ** 0.5
    assert torch.equal(random_subsets(0, keys[5:6], 50, 7, 64)[0], found[5])


def test_equals_loops():
    model, x, maps = small_model(), images(3), images(3, 1, seed=5)
    scene = scene_of(model, x)
    shared = METRIC.prepare(scene, SETTINGS)
    found = METRIC.score(explained(scene, maps), SETTINGS, shared)["faithcorr.value"].value
    with torch.no_grad():
        for n in range(3):
            target, sums, drops = int(scene.targets[n]), [], []
            for draw in range(SETTINGS.n):
                where = shared.mask[n, draw].reshape(SIDE, SIDE)
                image = torch.where(where, torch.zeros(()), x[n])
                sums.append(float(maps[n, 0][where].double().sum()))
                drops.append(reference.softmax_of(model, x[n], target) - reference.softmax_of(model, image, target))
            assert found[n].item() == pytest.approx(reference.pearson(sums, drops), abs=1e-5)


def test_equals_quantus_with_the_same_draws(monkeypatch):
    """One channel, so positions are channel values; Quantus is handed the subsets drawn here."""
    import quantus

    model, x, maps = small_model(1), images(4, 1), images(4, 1, seed=5)
    scene = scene_of(model, x)
    size = kept(SETTINGS.share, SIDE * SIDE)
    subsets = random_subsets(0, scene.keys, SETTINGS.n, size, SIDE * SIDE)
    draws = iter([np.flatnonzero(subsets[n, draw].numpy()) for draw in range(SETTINGS.n) for n in range(4)])
    monkeypatch.setattr(np.random, "choice", lambda *_a, **_k: next(draws))
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=SETTINGS.n, subset_size=size, perturb_baseline=0.0, normalise=False, abs=False, return_aggregate=False,
        disable_warnings=True,
    )  # fmt: skip
    theirs = metric(model, x.numpy().copy(), scene.targets.numpy(), maps.numpy().copy(), device="cpu", softmax=True)
    ours = METRIC.score(explained(scene, maps), SETTINGS, METRIC.prepare(scene, SETTINGS))["faithcorr.value"].value
    assert next(draws, None) is None
    assert np.allclose(ours.numpy(), np.asarray(theirs), atol=1e-5)


def test_constant_map_is_undefined_and_random_near_zero():
    scene = scene_of(small_model(), images(60))
    shared, one = METRIC.prepare(scene, SETTINGS), explained(scene, images(60, 1))
    constant = METRIC.score(control(scene, "constant", one), SETTINGS, shared)["faithcorr.value"]
    assert constant.undefined[CONSTANT_MAP].all()
    random = METRIC.score(control(scene, "random", one), SETTINGS, shared)
    assert random["faithcorr.value"].value.mean().abs() < 3 * 0.1 / 60**0.5
    assert random["faithcorr.se"].value.mean().item() == pytest.approx(
        random["faithcorr.value"].value.std().item(), rel=0.3
    )
