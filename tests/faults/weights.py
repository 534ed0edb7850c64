"""Weight files of a small network for digits, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.commands import here
from tests.data.makers import snapshot
from xeval.checkpoints import load as checkpoints
from xeval.data import open_dataset
from xeval.models import ModelSpec, build

INFO = open_dataset("digits").info
DIGITS = ("--dataset", "digits")


def state(arch: str = "cnn-tiny", classes: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in our names with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(ModelSpec(arch=arch, num_classes=classes, in_channels=1, image_size=16)).state_dict()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def load(path: Path) -> checkpoints.LoadedModel:
    return checkpoints.load_model(path, describe=lambda: INFO)


def parameters(loaded: checkpoints.LoadedModel) -> list[Tensor]:
    return list(loaded.model.parameters())


def refused(capsys: pytest.CaptureFixture[str], path: Path, status: int = 4) -> str:
    """The message of ``xeval score`` on a file; nothing beside it is touched or made."""
    before = snapshot(path.parent)
    found, _, message = here(capsys, "score", str(path), *DIGITS)
    assert found == status, message
    assert snapshot(path.parent) == before
    return message
