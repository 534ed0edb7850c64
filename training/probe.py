"""Fits the linear probe, a classifier on stored features, in the same way for every encoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ITERATIONS = 2000


class Probe(NamedTuple):
    """A fitted linear classifier: ``weight`` is classes×K and ``bias`` (classes,), float32 on the features' device.

    ``bias`` is None for a head that has none.
    """

    weight: Tensor
    bias: Tensor | None


def lbfgs(features: Tensor, labels: Tensor, classes: int, *, weight_decay: float = 1e-4, biased: bool = True) -> Probe:
    """Fit multinomial logistic regression to convergence, with the same result every time.

    The fit starts at 0 and the problem is convex, so it is deterministic. It minimises mean cross-entropy +
    weight_decay/2 · ‖W‖² (the bias, where there is to be one, is not penalised) with L-BFGS in float64. ``features``
    are N×K, ``labels`` (N,).
    """
    if features.device.type == "mps":  # this device has no float64
        found = lbfgs(features.cpu(), labels.cpu(), classes, weight_decay=weight_decay, biased=biased)
        bias = None if found.bias is None else found.bias.to(features.device)
        return Probe(found.weight.to(features.device), bias)
    inputs = features.double()
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=inputs.device, requires_grad=biased)
    solver = torch.optim.LBFGS(
        [weight, bias] if biased else [weight],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(inputs, weight, bias), labels) + weight_decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(objective)  # type: ignore[no-untyped-call]
    return Probe(weight.detach().float(), bias.detach().float() if biased else None)


def full_batch(
    features: Tensor,
    labels: Tensor,
    start: Probe,
    *,
    steps: int = 100,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> Probe:
    """Make ``steps`` steps of SGD on all features at once, from the head ``start`` (the probe of the clxai recipes)."""
    weight = start.weight.detach().clone().requires_grad_()
    bias = None if start.bias is None else start.bias.detach().clone().requires_grad_()
    learned = [weight] if bias is None else [weight, bias]
    optimizer = torch.optim.SGD(learned, lr, momentum=momentum, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(F.linear(features, weight, bias), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Probe(weight.detach(), None if bias is None else bias.detach())
