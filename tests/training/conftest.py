"""A small recipe and batches of real digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xeval.data import open_dataset
from xeval.training.batches import Batch, Pool, make_pool
from xeval.training.learner import Learner, fresh_learner
from xeval.training.recipe import Recipe, load_recipe

SMALL = ["image_size=8", "epochs=2", "batch_size=16", "excon.explain_from_epoch=0", "head.epochs=2"]


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """``recipe(method, *overrides)``: the digits recipe, made small."""
    return lambda method="excon", *overrides: load_recipe("digits", method, [*SMALL, *overrides])


@pytest.fixture
def learner(recipe: Callable[..., Recipe]) -> Callable[..., Learner]:
    """``learner(*overrides)`` for the method excon."""

    def make(*overrides: str) -> Learner:
        settings = recipe("excon", *overrides)
        return fresh_learner(settings, open_dataset("digits", None, settings.image_size).info, seed=0)

    return make


@pytest.fixture(scope="session")
def pool() -> Pool:
    """The first 24 digits of train at 8 px."""
    split = open_dataset("digits", None, 8).split("train")
    return make_pool(split, np.arange(24), torch.device("cpu"))


@pytest.fixture(scope="session")
def batch(pool: Pool) -> Batch:
    """All of the pool."""
    return pool.take(torch.arange(24))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for runs."""
    return tmp_path / "runs"
