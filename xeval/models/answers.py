"""What a foreign model answers, checked once on two images, because a wrong reading changes every number silently.

:mod:`xeval.models.reading` says which answers are read as logits N×classes. Probabilities where logits are expected (a
softmax or sigmoid inside) and the reverse, answers that depend on the other images of a batch (BatchNorm without
running statistics) or that differ from call to call (dropout in evaluation mode) are told apart by evidence and
refused, each with a way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.models.frozen import frozen_eval
from xeval.models.reading import Reading
from xeval.models.watch import calls
from xeval.registry import in_one_line

SUM = 1e-3  # how far from 1 a row of probabilities may sum, and from 0 the logarithm of a row of log-probabilities
WHOLE = Reading(key="logits", whole=True)
LOUD = 1e4  # logits grow with the images, what a sigmoid gives does not
STEADY = 1e-3  # of answers to the same image, relative to the largest where that exceeds 1


@contextmanager
def as_logits(model: nn.Module, reading: Reading) -> Iterator[None]:
    """The model answers with logits for a while."""
    handle = model.register_forward_hook(reading)
    try:
        yield
    finally:
        handle.remove()


def with_logits(model: nn.Module) -> nn.Module:
    """Let a model answer with its logits from now on, where it answers with an object that has them."""
    model.register_forward_hook(_logits)
    return model


def _logits(_model: nn.Module, _given: object, answer: Any) -> Any:
    return WHOLE.part(answer) if hasattr(answer, "logits") else answer


def outputs_of(
    model: nn.Module, images: Tensor, reading: Reading, *, allow_stochastic: bool = False
) -> tuple[int, tuple[str, ...]]:
    """Return how many numbers a model gives an image, and notes on what is accepted; its answers are not read yet.

    ``images`` are two or fewer, as the model takes them.

    Raises :class:`UsageError` for a model whose answers are no logits of these images alone.
    """
    with frozen_eval(model), torch.no_grad():
        found = _numbers(model, images, reading)
        if len(found) != len(images):
            raise UsageError(
                f"the model answers {len(images)} images with {len(found)} rows of numbers",
                "wrap it in a module that keeps the images apart, N×classes",
            )
        if not allow_stochastic:
            _require_steady(found, _numbers(model, images, reading))
            _require_alone(found, torch.cat([_numbers(model, images[n : n + 1], reading) for n in range(len(images))]))
        notes = _of_probabilities(found, reading) if reading.squashed else _of_logits(model, images, found, reading)
    return found.shape[1], notes


def _numbers(model: nn.Module, images: Tensor, reading: Reading) -> Tensor:
    try:
        answer: Any = model(images)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code from elsewhere can raise anything
        shape = "×".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the model fails on images of {shape} ({in_one_line(error)})", "give images that it takes, or mend it"
        ) from error
    return reading.numbers(answer).float()


def _of_probabilities(found: Tensor, reading: Reading) -> tuple[str, ...]:
    """Return notes on what are said to be probabilities; raise :class:`UsageError` where they are none."""
    if bool(((found < -SUM) | (found > 1 + SUM)).any()):
        raise UsageError(
            f"the answers are said to be probabilities (output={str(reading)!r}) and lie outside [0, 1]",
            "leave output= out where they are logits",
        )
    if reading.meaning(found.shape[1]).link == "softmax" and not _sum_to_one(found):
        return ("the probabilities of an image do not sum to 1 and are divided by their sum",)
    return ()


def _of_logits(model: nn.Module, images: Tensor, found: Tensor, reading: Reading) -> tuple[str, ...]:
    """Return notes on what are said to be logits; raise :class:`UsageError` where they are probabilities."""
    link = reading.meaning(found.shape[1]).link
    if link == "cosine":
        return ()
    exclusive = link == "softmax"
    if exclusive and _are_log_probabilities(found):
        return ("the model answers with log-probabilities, whose softmax is the same",)
    suspect = (exclusive and _are_probabilities(found)) or _is_squashed(model, images, found, reading)
    if suspect and not _are_of_a_linear_layer(model, images):
        raise UsageError(
            "the model answers with probabilities, not logits (a softmax or sigmoid inside)",
            f'give output="{reading.probable}" to take their logarithm, or leave the last layer out',
        )
    return ()


def _apart(a: Tensor, b: Tensor) -> bool:
    """Whether answers differ beyond rounding; NaN in both is no difference."""
    return a.shape != b.shape or not torch.allclose(a, b, rtol=STEADY, atol=STEADY, equal_nan=True)


def _require_steady(found: Tensor, again: Tensor) -> None:
    if _apart(found, again):
        raise UsageError(
            "the model answers the same images differently each time (dropout in evaluation mode?)",
            "make it deterministic, or give allow_stochastic=True",
        )


def _require_alone(found: Tensor, alone: Tensor) -> None:
    if _apart(found, alone):
        raise UsageError(
            "the answer to an image depends on the other images of its batch (BatchNorm without running statistics?)",
            "use layers whose evaluation mode looks at one image alone, or give allow_stochastic=True",
        )


def _are_log_probabilities(found: Tensor) -> bool:
    return bool((found <= SUM).all()) and bool((found.logsumexp(1).abs() <= SUM).all())


def _are_probabilities(found: Tensor) -> bool:
    return bool((found >= 0).all()) and _sum_to_one(found)


def _sum_to_one(found: Tensor) -> bool:
    return bool(((found.sum(1) - 1).abs() <= SUM).all())


def _are_of_a_linear_layer(model: nn.Module, images: Tensor) -> bool:
    """Whether a linear layer makes the answers: cosines of features that are never negative look like a sigmoid's."""
    seen = calls(model, images)
    return any(isinstance(one.module, nn.Linear) and one.made is seen[-1].made for one in seen)


def _is_squashed(model: nn.Module, images: Tensor, found: Tensor, reading: Reading) -> bool:
    """Whether answers lie between 0 and 1, and stay there for far stronger images, as those of a sigmoid do."""
    if not bool(((found > 0) & (found < 1)).all()):
        return False
    loud = torch.cat([_numbers(model, sign * LOUD * images, reading) for sign in (1, -1)])
    return bool(((loud >= 0) & (loud <= 1)).all())
