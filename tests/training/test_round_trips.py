"""A step of training never waits for the device: on the meta device, reading a value back is an error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.conftest import SMALL
from xeval.data import DatasetInfo
from xeval.training.batches import Pool
from xeval.training.learner import fresh_learner
from xeval.training.methods import METHODS
from xeval.training.recipe import load_recipe

META = torch.device("meta")
EVERY_VIEW = [
    "views.crop=[0.2, 1.0]",
    "views.pad=1",
    "views.flip=0.5",
    "views.jitter=[0.4, 0.4, 0.4, 0.1]",
    "views.jitter_p=0.8",
    "views.grey=0.2",
    "views.blur=3",
]


class Copies(TorchDispatchMode):
    """Notes every copy from the host to the device, and whether the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[bool] = []

    def __torch_dispatch__(self, function: Any, _types: Any, given: Any = (), more: Any = None) -> Any:
        result, more = function(*given, **(more or {})), more or {}
        if function is torch.ops.aten._to_copy.default and given[0].device.type == "cpu" and result.device == META:
            self.waits.append(not more.get("non_blocking", False))
        return result


def on_meta(pool: Pool) -> Pool:
    """The pool in three channels on the meta device; what decides the draws stays on the CPU, as on an accelerator."""
    assert pool.resident is not None
    images = pool.resident.repeat(1, 3, 1, 1).to(META)
    return replace(pool, device=META, labels=pool.labels.to(META), resident=images)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "exconb"])
def test_a_step_reads_nothing_back_and_waits_for_no_copy(method: str, pool: Pool) -> None:
    """ExConB reads how many images are background, once: the sizes of its tensors depend on it."""
    recipe = load_recipe("digits", method, [*SMALL, *EVERY_VIEW])
    info = DatasetInfo("digits", pool.split.info.classes, (0.5,) * 3, (0.2,) * 3, 3, 8)
    with META:
        learner = fresh_learner(recipe, info, 0)
    images = on_meta(pool)
    with Copies() as copies:
        loss: Tensor = METHODS[method].step(learner.train(), images.take(torch.arange(24)), 1).loss
        loss.backward()
    assert loss.device == META
    assert len(copies.waits) > 10
    assert not any(copies.waits)
