"""Metrics, explainers, precision and memory on the accelerator give the numbers of the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.explainers.networks import OF_ATTENTION
from tests.scenes import SIDE, explained, images, scene_of, small_model
from xeval.engine import Engine, deterministic
from xeval.engine.folding import forms_of, in_precision
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS
from xeval.models import frozen_eval

pytestmark = pytest.mark.device
CPU = torch.device("cpu")
NATIVE = [name for name in METRICS if not name.startswith("quantus:")]
OF_IMAGES = [name for name in EXPLAINERS if name not in OF_ATTENTION]
CLOSE = {"atol": 2e-4, "rtol": 2e-4}  # what another order of additions changes in float32


def values(name: str, where: torch.device) -> dict[str, Tensor]:
    """Every column of a metric. Maps have the size of the images and no ties: both devices order pixels alike."""
    x, maps = images(4).to(where), images(4, channels=1, side=SIDE, seed=1).to(where)
    model, metric = small_model().to(where), METRICS[name]
    settings = metric.settings()
    with torch.device(where), deterministic():
        scene = scene_of(model, x)
        one = explained(scene, maps, lambda given, _number, **_: maps[: len(given)] + 0.1 * given.mean(1, keepdim=True))
        found = metric.score(one, settings, metric.prepare(scene, settings))
    return {column: value.value for column, value in found.items()}


@pytest.mark.parametrize("name", NATIVE)
def test_a_metric_has_the_values_of_the_cpu(name: str, device: torch.device) -> None:
    ours, theirs = values(name, device), values(name, CPU)
    assert ours.keys() == theirs.keys()
    for column, found in ours.items():
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu().double(), theirs[column].double(), equal_nan=True, **CLOSE)


def maps_of(name: str, where: torch.device) -> Tensor:
    model = small_model().to(where)
    with deterministic(), frozen_eval(model):
        targets = torch.tensor([0, 1, 2], device=where)
        return EXPLAINERS[name].explain(model, "backbone.layer3", images(3).to(where), targets)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_an_explainer_has_the_maps_of_the_cpu(name: str, device: torch.device) -> None:
    ours, theirs = maps_of(name, device), maps_of(name, CPU)
    scale = theirs.abs().amax().clamp_min(1e-12)
    torch.testing.assert_close(ours.cpu() / scale, theirs / scale, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("precision", "most"), [("tf32", 1e-2), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_passes_of_lower_precision_are_near_those_of_the_cpu(precision: str, most: float, device: torch.device) -> None:
    x = images(6)
    with torch.no_grad(), deterministic():
        expected = small_model()(x)
        found = in_precision(forms_of(small_model().to(device), x[:1].to(device))[0], precision)(x.to(device))
    assert found.dtype == torch.float32
    assert (found.cpu() - expected).abs().max() <= most * expected.abs().max().clamp_min(1)


class Greedy(nn.Module):
    """Takes a quarter of the free memory for every image; a CPU, which would swap, says so instead."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.share = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else None
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.share is not None:
            torch.empty(len(x), self.share, dtype=torch.uint8, device=x.device)
        elif len(x) > 4:
            raise torch.OutOfMemoryError("out of memory")
        self.seen.append(len(x))
        return x.mean((2, 3))


def test_a_batch_that_does_not_fit_is_halved_until_it_does(device: torch.device) -> None:
    network, x = Greedy(device), images(32).to(device)
    engine = Engine(network, batch_size=32)
    torch.testing.assert_close(engine.logits(x), x.mean((2, 3)))
    assert max(network.seen) <= 4
    assert engine.batch_size <= 4
