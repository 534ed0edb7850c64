"""Read the weights of attention, whichever library computes it, and find out which tokens a score reads.

Libraries compute attention by fused kernels, which never hold its weights. In :func:`attention_of`, every call of
torch's ``scaled_dot_product_attention`` is computed in the open, also inside torch's own module, and every softmax
along the last of three or more axes is watched, by which networks write attention out. It is torch's own way to look at
calls (``TorchFunctionMode``): no setting of the network or of a library is changed, and nothing of it outlives the
pass, also if that fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xeval.errors import UsageError
from xeval.models.layout import Evidence, Grid, taken
from xeval.models.watch import calls_and_slopes, two_examples

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
INSTEAD = "use a class activation map or integrated-gradients"


@dataclass(frozen=True)
class Reading:
    """How many tokens a network has at its end, the share of each in what the score reads (T,), and their patches."""

    tokens: int
    shares: Tensor
    grid: Grid

    def map(self, flow: Tensor) -> Tensor:
        """Return how much the score reads of each patch, N×1×h×w, if token i has got ``flow`` N×T×T [i, j] of j."""
        return self.grid((self.shares.to(flow) @ flow).unsqueeze(-1))


def reading_of(model: nn.Module, images: Tensor) -> Reading:
    """Return which tokens the score reads: those of the last tokens at which its gradient on an example is not 0.

    Class and distillation tokens, or all tokens that are averaged, count alike.

    Raises:
        UsageError: the network has no tokens of a known grid.
    """
    two = two_examples(images)
    seen, slopes = calls_and_slopes(model, two)
    evidence = Evidence(model, two)
    for call in reversed(seen):
        if call.made.ndim == 3 and len(call.made) == len(two) and id(call.made) in slopes:
            tokens = call.made.shape[1]
            found = evidence.embedded(tokens)
            if len(found) == 1:
                read = (slopes[id(call.made)] != 0).any(0).any(-1).to(images.dtype)
                return Reading(tokens, read / read.sum(), taken(next(iter(found))))
    raise UsageError("the network has no attention between tokens of a known grid", INSTEAD)


def attention_of(model: nn.Module, images: Tensor, tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Return the logits and the weights of all attention N×H×T×T in the order of the pass, parts of one graph.

    Raises:
        UsageError: the network has no attention, or some that is not between all of the same ``tokens``.
    """
    with _Open() as opened:
        logits = model(images)
    weights = list(map(by_head, opened.weights))
    if not weights:
        raise UsageError("the network has no attention between all of its tokens", INSTEAD)
    for one in weights:
        if (len(one), *one.shape[2:]) != (len(images), tokens, tokens):
            sides = "×".join(map(str, one.shape[-2:]))
            raise UsageError(
                f"the network has attention of {sides}, within parts of an image or between other tokens than the "
                f"{tokens} at its end",
                INSTEAD,
            )
    return logits, opened.weights


def by_head(weights: Tensor) -> Tensor:
    """Return weights N×H×T×T, also where attention has no heads."""
    return weights.unsqueeze(1) if weights.ndim == 3 else weights


class _Open(TorchFunctionMode):
    """Computes attention so that its weights can be kept; they require a gradient where gradients are enabled."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._of_products(*args, **named)
        if func is F.multi_head_attention_forward:
            return self._of_heads(args, named)
        found = func(*args, **named)
        return self._kept(found) if func in SOFTMAX and _is_of_rows(found, *args[1:2], **named) else found

    def _of_products(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Return softmax(QKᵀ·scale + mask) V; in evaluation mode there is no dropout."""
        del dropout_p
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(groups, -3) for part in (key, value))
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        mask = torch.ones_like(scores, dtype=torch.bool).tril() if is_causal else attn_mask
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return self._kept(scores.softmax(-1)) @ value

    def _of_heads(self, args: Any, named: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return what torch's module gives: it calls the function above, and the weights if they are asked for."""
        with _products_by(self._of_products):
            output, _ = F.multi_head_attention_forward(*args, **{**named, "need_weights": False})
        if not named.get("need_weights", True):
            return output, None
        return output, self.weights[-1].mean(1) if named.get("average_attn_weights", True) else self.weights[-1]

    def _kept(self, weights: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not weights.requires_grad:
            weights.requires_grad_()
        self.weights.append(weights)
        return weights


def _is_of_rows(found: Tensor, dim: int | None = None, **_named: Any) -> bool:
    """Return whether a softmax along ``dim`` has made matrices whose rows add up to 1."""
    return found.ndim > 2 and dim in (-1, found.ndim - 1)


@contextmanager
def _products_by(function: Any) -> Iterator[None]:
    """Let torch's module call a function of ours: inside of it no mode is at work."""
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = function
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before
