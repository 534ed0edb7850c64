from dataclasses import replace

import numpy as np
import torch

from tests.scenes import SIDE, control, explained, images, live, scene_of, small_model
from xeval.explainers import CONTROLS, cam
from xeval.metrics import METRICS
from xeval.metrics.contrastivity import random_other
from xeval.metrics.metric import EMPTY_MAP, EMPTY_OTHER
from xeval.perturb.draws import image_keys

METRIC = METRICS["contrast"]
SETTINGS = METRIC.settings()
COLUMNS = ("contrast.other", "contrast.runnerup", "contrast.least")


def test_the_random_other_class_is_uniform_over_all_others():
    keys, targets = image_keys([str(i) for i in range(4000)]), torch.arange(4000) % 5
    other = random_other(0, keys, targets, 5)
    assert (other != targets).all()
    assert ((other >= 0) & (other < 5)).all()
    steps = ((other - targets) % 5).bincount(minlength=5)[1:].double()
    assert ((steps - 1000).abs() < 5 * (1000 * 0.75) ** 0.5).all()
    assert torch.equal(random_other(0, keys[7:8], targets[7:8], 5), other[7:8])
    assert random_other(0, keys[:9], targets[:9] % 2, 2).tolist() == (1 - targets[:9] % 2).tolist()


def test_classes_are_the_runner_up_and_the_least_likely():
    scene = scene_of(small_model(classes=6), images(8))
    shared, logits = METRIC.prepare(scene, SETTINGS), scene.engine.logits(scene.images)
    for n in range(8):
        order = sorted(range(6), key=lambda c: -float(logits[n, c]))
        assert order[0] == int(scene.targets[n])
        assert order[1] == int(shared.runnerup[n])
        assert order[-1] == int(shared.least[n])


def test_the_runner_up_is_the_predicted_class_where_another_one_is_explained():
    scene = scene_of(small_model(classes=6), images(8))
    other = replace(scene, targets=(scene.targets + 1) % 6)
    assert torch.equal(METRIC.prepare(other, SETTINGS).runnerup, scene.targets)


def test_equals_scikit_image_on_maps_of_the_two_classes():
    from skimage.metrics import structural_similarity

    one = live(scene_of(small_model(classes=5), images(5)))
    shared, model = METRIC.prepare(one.scene, SETTINGS), one.scene.engine.model
    found = METRIC.score(one, SETTINGS, shared)

    def shown(n, target):
        native = cam.grad_cam(model, model.pooled_layer, one.scene.images[n : n + 1], target[None])
        a = np.maximum(cam.upsample(native, (SIDE, SIDE))[0, 0].double().numpy(), 0)
        return (a - a.min()) / (a.max() - a.min()) if a.max() > a.min() else 0 * a

    compared = 0
    for name in COLUMNS:
        classes = getattr(shared, name.partition(".")[2])
        for n in range(5):
            own, other = shown(n, one.scene.targets[n]), shown(n, classes[n])
            assert bool(found[name].undefined[EMPTY_MAP][n]) == (own.max() == 0)
            if own.max() and other.max():
                expected = structural_similarity(own, other, win_size=7, data_range=1)
                assert abs(found[name].value[n].item() - expected) < 1e-6
                compared += 1
            elif own.max():
                assert found[name].undefined[EMPTY_OTHER][n]
    assert compared > 5


def test_a_map_that_does_not_know_the_class_has_1():
    one = live(scene_of(small_model(), images(4)))
    shared = METRIC.prepare(one.scene, SETTINGS)
    for name, about in CONTROLS.items():
        if about.draw is not None:
            for values in METRIC.score(control(one.scene, name, one), SETTINGS, shared).values():
                assert torch.allclose(values.value, torch.ones(4).double()), name


def test_pairs_with_an_empty_map_are_counted_by_side():
    scene = scene_of(small_model(), images(3))
    own, other = torch.rand(3, 1, SIDE, SIDE), torch.rand(3, 1, SIDE, SIDE)
    own[0], other[1], own[2], other[2] = -1, -1, -1, -1

    def maps(_x, _number, *, targets=None, **_):
        return own if targets is None else other

    found = METRIC.score(explained(scene, own, maps), SETTINGS, METRIC.prepare(scene, SETTINGS))
    for name in COLUMNS:
        assert found[name].undefined[EMPTY_MAP].tolist() == [True, False, True]
        assert found[name].undefined[EMPTY_OTHER].tolist() == [False, True, False]
