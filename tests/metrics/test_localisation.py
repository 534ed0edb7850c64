from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import reference
from tests.scenes import SIDE, explained, images, scene_of, small_model
from xeval.metrics import METRICS, Explained
from xeval.metrics.localisation import pointing_hit, relevance_mass, top_iou
from xeval.metrics.metric import EMPTY_MAP, NO_MASK
from xeval.perturb.draws import image_keys
from xeval.perturb.masks import ranking, tie_break

NAMES = ("pointing", "relevance", "topk")


def score(name: str, one: Explained):
    (values,) = METRICS[name].score(one, METRICS[name].settings(), None).values()
    return values


def random_masks(n: int, seed: int = 1) -> torch.Tensor:
    """Blobs of different sizes; none is empty."""
    smooth = torch.nn.functional.avg_pool2d(images(n, 1, seed=seed), 5, 1, 2)
    return smooth > smooth.flatten(1).quantile(0.7, dim=1)[:, None, None, None]


def test_by_hand():
    maps = torch.tensor([[[[0.5, -1.0], [2.0, 1.5]]]])
    mask = torch.tensor([[[[True, True], [True, False]]]])
    order = ranking(maps, tie_break(0, image_keys(["x"]), 4))
    assert pointing_hit(order, mask).item() == 1
    assert relevance_mass(maps, mask).item() == pytest.approx(2.5 / 4)
    assert top_iou(order, mask).item() == pytest.approx(2 / 4)  # three most relevant: 2.0, 1.5, 0.5; two of them inside
    assert top_iou(order, ~mask).item() == 0


def test_equal_loops():
    maps, masks = images(6, 1, seed=4), random_masks(6)
    order = ranking(maps, tie_break(0, image_keys(list("abcdef")), SIDE * SIDE))
    for n in range(6):
        inside = {(y, x) for y in range(SIDE) for x in range(SIDE) if masks[n, 0, y, x]}
        (peak,) = reference.most_relevant(maps[n, 0], 1)
        top = reference.most_relevant(maps[n, 0], len(inside))
        positive = maps[n, 0].double().clamp_min(0)
        assert pointing_hit(order, masks)[n].item() == float(peak in inside)
        assert top_iou(order, masks)[n].item() == pytest.approx(len(top & inside) / len(top | inside))
        mass = sum(float(positive[p]) for p in inside) / float(positive.sum())
        assert relevance_mass(maps, masks)[n].item() == pytest.approx(mass)


def test_equal_quantus_where_it_is_right():
    """On whole masks and tie-free maps; its own top-k share turns into the overlap of two equally large sets."""
    import quantus

    x, maps, masks = images(8, 1), images(8, 1, seed=4), random_masks(8)
    options = {"normalise": False, "abs": False, "disable_warnings": True}
    arguments = (None, x.numpy(), np.zeros(8, int), maps.double().numpy())
    order = ranking(maps, tie_break(0, image_keys(list("abcdefgh")), SIDE * SIDE))
    hits = quantus.PointingGame(**options)(*arguments, s_batch=masks.numpy())
    assert np.array_equal(pointing_hit(order, masks).numpy(), np.asarray(hits, float))
    positive = (*arguments[:3], maps.double().clamp_min(0).numpy())
    for oracle in (quantus.RelevanceMassAccuracy, quantus.AttributionLocalisation):
        mass = oracle(**options)(*positive, s_batch=masks.numpy())
        assert np.allclose(relevance_mass(maps, masks).numpy(), mass, atol=1e-6)
    for n in range(8):
        k = int(masks[n].sum())
        one = [part if part is None else part[n : n + 1] for part in arguments]
        share = quantus.TopKIntersection(k=k, **options)(*one, s_batch=masks[n : n + 1].numpy())[0]
        assert top_iou(order, masks)[n].item() == pytest.approx(share / (2 - share), abs=1e-9)


def test_of_tied_maxima_quantus_takes_any_and_pointing_one():
    import quantus

    n = 40
    maps, masks = torch.zeros(n, 1, SIDE, SIDE), torch.zeros(n, 1, SIDE, SIDE, dtype=torch.bool)
    maps[:, 0, 3, 3] = maps[:, 0, 9, 9] = 1
    masks[:, 0, :6, :6] = True
    x, options = images(n, 1), {"normalise": False, "abs": False, "disable_warnings": True}
    theirs = quantus.PointingGame(**options)(None, x.numpy(), np.zeros(n, int), maps.numpy(), s_batch=masks.numpy())
    order = ranking(maps, tie_break(0, image_keys([str(i) for i in range(n)]), SIDE * SIDE))
    assert np.asarray(theirs, float).tolist() == [1.0] * n
    assert 0.25 < pointing_hit(order, masks).mean() < 0.75


@pytest.mark.parametrize("name", NAMES)
def test_images_without_an_object_and_empty_maps_are_undefined(name):
    scene = scene_of(small_model(), images(3))
    scene.masks[1] = False
    maps = images(3, 1)
    maps[2] = -1
    found = score(name, explained(scene, maps)).undefined
    assert found[NO_MASK].tolist() == [False, True, False]
    assert found[EMPTY_MAP].tolist() == [False, False, True]


@pytest.mark.parametrize("name", NAMES)
def test_without_any_masks_nothing_is_defined(name):
    scene = replace(scene_of(small_model(), images(2)), masks=None)
    assert score(name, explained(scene, images(2, 1))).undefined[NO_MASK].all()
    assert METRICS[name].needs == {"masks"}
    assert METRICS[name].group == "localisation"


def test_ties_are_broken_by_the_seed_so_a_constant_map_hits_as_often_as_the_mask_is_large():
    scene = scene_of(small_model(), images(400), ids=[str(i) for i in range(400)])
    share = scene.masks[0].double().mean().item()
    hits = score("pointing", explained(scene, torch.ones(400, 1, SIDE, SIDE))).value.mean().item()
    assert abs(hits - share) < 4 * (share * (1 - share) / 400) ** 0.5
