"""Counted, packed passes."""

import pytest
import torch

from tests.scenes import images, scene_of, small_model
from xeval.engine import Engine, pick_device, probe_batch_size, softmax64
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS


def test_class_probability_equals_one_pass_per_perturbation():
    model, x = small_model(), images(3)
    scene = scene_of(model, x, batch_size=7)
    shifts = torch.linspace(-1, 1, 5)
    found = scene.engine.class_probability(lambda n, j: x[n] + shifts[j][:, None, None, None], 5, scene.targets)
    with torch.no_grad():
        for n in range(3):
            for j in range(5):
                expected = softmax64(model(x[n : n + 1] + shifts[j]))[0, scene.targets[n]]
                assert found[n, j].item() == pytest.approx(expected.item(), abs=1e-6)


def test_passes_are_counted_whoever_makes_them():
    model, x = small_model(), images(4)
    engine, targets = Engine(model, batch_size=3), torch.tensor([0, 1, 2, 3])
    engine.logits(x)
    assert engine.passes == 4
    engine.class_probability(lambda n, _j: x[n], 6, targets)
    assert engine.passes == 4 + 24
    engine.explain(EXPLAINERS["grad-cam"], model.pooled_layer, x, targets)
    assert engine.passes == 4 + 24 + 4
    engine.explain(EXPLAINERS["integrated-gradients"], model.pooled_layer, x, targets)
    assert engine.passes >= 32 + 4 * 50
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_float64_softmax_separates_what_float32_ties():
    logits = torch.tensor([[25.0, 0.0], [26.0, 0.0]])
    assert softmax64(logits, single=True)[0, 0] == softmax64(logits, single=True)[1, 0] == 1
    assert softmax64(logits)[0, 0] < softmax64(logits)[1, 0] < 1


def test_the_batch_size_is_found_by_probing():
    assert probe_batch_size(small_model(), images(1), largest=64) in (16, 32, 64)


def test_devices():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="cannot be used"):
        pick_device("abacus")
