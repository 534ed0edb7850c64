"""Chooses the numbers of a training step: the network passes images in the recipe's precision, losses stay float32.

So do BatchNorm's statistics, ExCon's maps and what it accepts by them, the validation and stored features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from xeval.engine.precision import tf32
from xeval.errors import UsageError
from xeval.training.settings import TrainingPrecision


def require_precision(precision: TrainingPrecision | None, device: torch.device) -> None:
    """Raise :class:`UsageError` for a precision that the device does not have."""
    if precision == "tf32" and device.type != "cuda":
        raise UsageError(
            f"{device.type} has no tf32", "set precision to bfloat16 or float32 in the recipe, or use a CUDA device"
        )


def exact(precision: TrainingPrecision | None) -> AbstractContextManager[None]:
    """Return a context whose float32 products are exact where the recipe names a precision.

    Where it names none they are as PyTorch has them: on CUDA the factors of convolutions are rounded to TF32, those of
    other products are not.
    """
    return nullcontext() if precision is None else tf32(on=False)


def products(precision: TrainingPrecision | None) -> AbstractContextManager[None]:
    """Return a context for forward and backward passes: float32 products in TF32 where that is the precision."""
    return tf32(on=True) if precision == "tf32" else nullcontext()


@contextmanager
def forward(precision: TrainingPrecision | None, device: torch.device) -> Iterator[None]:
    """Compute forward passes in the precision; weights stay float32, outputs in half precision are to be converted."""
    half = precision == "bfloat16"
    with products(precision), torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
        yield
