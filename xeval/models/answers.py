"""What a foreign model answers, checked once on two images, because a wrong reading changes every number silently.

A model answers with logits N×classes, or with an object that has them under this name, as those of transformers do.
Probabilities (a softmax or sigmoid inside), answers that depend on the other
images of a batch (BatchNorm without running statistics) or that differ from call to call (dropout in evaluation mode)
are told apart by evidence and refused, each with a way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.models.frozen import frozen_eval
from xeval.models.watch import calls
from xeval.registry import in_one_line

Output: TypeAlias = Literal["logits", "probabilities"]
SUM = 1e-3  # how far from 1 a row of probabilities may sum, and from 0 the logarithm of a row of log-probabilities
LOUD = 1e4  # logits grow with the images, what a sigmoid gives does not
STEADY = 1e-3  # of answers to the same image, relative to the largest where that exceeds 1


@contextmanager
def as_logits(model: nn.Module, output: Output) -> Iterator[None]:
    """The model answers with logits for a while: log p where its ``output`` are probabilities."""
    handles = [model.register_forward_hook(_logits)]
    if output == "probabilities":
        handles.append(model.register_forward_hook(lambda _module, _inputs, found: _log(found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_logits(model: nn.Module) -> nn.Module:
    """Let a model answer with its logits from now on, where it answers with an object that has them."""
    model.register_forward_hook(_logits)
    return model


def _logits(_model: nn.Module, _given: object, answer: Any) -> Any:
    found = getattr(answer, "logits", None)
    return found if isinstance(found, Tensor) else answer


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def classes_of(model: nn.Module, images: Tensor, *, allow_stochastic: bool = False) -> tuple[int, tuple[str, ...]]:
    """Return the number of classes and notes on what is accepted; ``images`` are two or fewer, as the model takes them.

    Raises :class:`UsageError` for a model whose answers are no logits of these images alone.
    """
    with frozen_eval(model), torch.no_grad():
        found = _answer(model, images)
        if not allow_stochastic:
            _require_steady(found, _answer(model, images))
            _require_alone(found, torch.cat([_answer(model, images[n : n + 1]) for n in range(len(images))]))
        if _are_log_probabilities(found):
            return found.shape[1], ("the model answers with log-probabilities, whose softmax is the same",)
        suspect = _are_probabilities(found) or _is_squashed(model, images, found)
        if suspect and not _are_of_a_linear_layer(model, images):
            raise UsageError(
                "the model answers with probabilities, not logits (a softmax or sigmoid inside)",
                'give output="probabilities" to take their logarithm, or leave the last layer out',
            )
    return found.shape[1], ()


def _answer(model: nn.Module, images: Tensor) -> Tensor:
    try:
        found: Any = model(images)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code from elsewhere can raise anything
        shape = "×".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the model fails on images of {shape} ({in_one_line(error)})", "give images that it takes, or mend it"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise UsageError("the model does not return logits N×classes", "wrap it in a module that does")
    if found.shape[1] < 2:
        raise UsageError("the model has one output", "wrap it in a module that returns a logit for each class")
    return found.float()


def _apart(a: Tensor, b: Tensor) -> bool:
    """Whether answers differ beyond rounding; NaN in both is no difference."""
    return not torch.allclose(a, b, rtol=STEADY, atol=STEADY, equal_nan=True)


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
    return bool((found >= 0).all()) and bool(((found.sum(1) - 1).abs() <= SUM).all())


def _are_of_a_linear_layer(model: nn.Module, images: Tensor) -> bool:
    """Whether a linear layer makes the answers: cosines of features that are never negative look like a sigmoid's."""
    seen = calls(model, images)
    return any(isinstance(one.module, nn.Linear) and one.made is seen[-1].made for one in seen)


def _is_squashed(model: nn.Module, images: Tensor, found: Tensor) -> bool:
    """Whether answers lie between 0 and 1, and stay there for far stronger images, as those of a sigmoid do."""
    if not bool(((found > 0) & (found < 1)).all()):
        return False
    loud = torch.cat([_answer(model, sign * LOUD * images) for sign in (1, -1)])
    return bool(((loud >= 0) & (loud <= 1)).all())
