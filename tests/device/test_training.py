"""Steps of every method on the accelerator, in float32 and in lower precision, against those on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.conftest import SMALL
from xeval.data import open_dataset
from xeval.training.batches import make_pool
from xeval.training.learner import make_learner
from xeval.training.methods import METHODS
from xeval.training.precision import exact, products
from xeval.training.recipe import load_recipe
from xeval.training.schedule import make_optimizer
from xeval.training.settings import Optimizer

pytestmark = pytest.mark.device
CPU = torch.device("cpu")


def step(method: str, precision: str, where: torch.device) -> tuple[float, Tensor]:
    """The loss of the first step on 24 digits, and its gradient as one vector of unit length, on the CPU."""
    recipe = load_recipe("digits", method, [*SMALL, f"precision={precision}"])
    split = open_dataset("digits", None, 8).split("train")
    learner = make_learner(recipe, split.info, 0, where)
    batch = make_pool(split, np.arange(24), where).take(torch.arange(24))
    with exact(recipe.precision):
        loss = METHODS[method].step(learner.train(), batch, 1).loss
        with products(recipe.precision):
            loss.backward()
    gradients = [one.grad.flatten().cpu() for one in learner.parameters() if one.grad is not None]
    return loss.item(), torch.nn.functional.normalize(torch.cat(gradients), dim=0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_in_float32_is_that_of_the_cpu(method: str, device: torch.device) -> None:
    (loss, gradient), (expected, theirs) = (step(method, "float32", where) for where in (device, CPU))
    assert loss == pytest.approx(expected, rel=1e-3)
    assert gradient @ theirs > 0.999


@pytest.mark.parametrize(("precision", "most"), [("tf32", 5e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("method", ["ce", "excon"])
def test_a_step_in_lower_precision_is_near(method: str, precision: str, most: float, device: torch.device) -> None:
    if precision == "tf32" and device.type != "cuda":
        pytest.skip(f"{device.type} has no tf32")
    (loss, gradient), (expected, theirs) = (step(method, *how) for how in ((precision, device), ("float32", CPU)))
    assert loss == pytest.approx(expected, rel=most)
    assert gradient @ theirs > 0.95


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_cuda_steps_in_one_kernel(name: str, device: torch.device) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, device=device))
    optimizer = make_optimizer([parameter], Optimizer(name=name))
    assert optimizer.param_groups[0]["fused"] is (True if device.type == "cuda" else None)
