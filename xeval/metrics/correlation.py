"""Correlations over the draws of a perturbation, and tests for the cases in which they are undefined."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return the Pearson correlation along the last axis in float64; 0 where either side does not vary."""
    x, y = x.double(), y.double()
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    norm = x.norm(dim=-1) * y.norm(dim=-1)
    r = (x * y).sum(-1) / norm.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(norm > 0, r.clamp(-1, 1), torch.zeros_like(r))


def flat(values: Tensor) -> Tensor:
    """Return where sums over a map do not vary beyond float32 rounding: bool (N,) for values (N, draws)."""
    values = values.double()
    return values.std(-1, correction=0) <= 1e-6 * values.abs().amax(-1)


def unmoved(probabilities: Tensor) -> Tensor:
    """Return where perturbed probabilities (N, draws) do not vary beyond what float32 logits resolve: bool (N,).

    The bound is 1e-5 · p(1 − p), because a logit error of 1e-5 moves p by that much.
    """
    resolution = 1e-5 * (probabilities * (1 - probabilities)).amax(-1)
    return probabilities.std(-1, correction=0) <= resolution
