"""Linear imputation replaces each removed pixel by the weighted mean of its neighbours; it runs on the device.

Source: Y. Rong et al., "A consistent and efficient evaluation strategy for attribution methods" (ROAD), ICML 2022.
Every removed pixel equals Σ w u / Σ w over its neighbours inside the image, with w = 1/6 for the four direct and 1/12
for the four diagonal ones; kept pixels are fixed. All removed pixels are solved for at once: the system is symmetric
and positive definite as soon as one pixel is kept, and conjugate gradients solve it for a whole batch of images and
masks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def neighbour_sum(values: Tensor) -> Tensor:
    """Return the weighted sum over the eight neighbours inside the image, for N×C×H×W.

    The weights are those of [1 2 1]ᵀ [1 2 1] / 12 without its centre 1/3.
    """
    padded = F.pad(values, (0, 0, 1, 1))
    down = padded[..., :-2, :] + 2 * values + padded[..., 2:, :]
    padded = F.pad(down, (1, 1))
    return (padded[..., :-2] + 2 * down + padded[..., 2:]) / 12 - values / 3


def linear_imputation(images: Tensor, keep: Tensor) -> Tensor:
    """Impute the pixels of ``images`` N×C×H×W outside ``keep`` (bool N×1×H×W); return 0 where nothing at all is kept.

    The system is solved in float64, because far from all kept pixels neighbours differ by less than float32 resolves.
    The number of steps is fixed by the image's side, so that nothing is read back from the device. It suffices for a
    mask that keeps one corner only, to an error of 1e-4; scattered masks need far fewer steps.
    """
    height, width = images.shape[-2:]
    known = images.masked_fill(~keep, 0).double()
    weight = neighbour_sum(torch.ones_like(known[:1, :1]))

    def system(u: Tensor) -> Tensor:
        return (weight * u - neighbour_sum(u)).masked_fill(keep, 0)

    solution = conjugate_gradients(system, neighbour_sum(known).masked_fill(keep, 0), 4 * max(height, width))
    return (known + solution).to(images.dtype)


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, steps: int) -> Tensor:
    """Solve ``system(u) = right``, one symmetric positive system for each N×C, with ``steps`` iterations; return u."""
    tiny = torch.finfo(right.dtype).tiny
    solution = torch.zeros_like(right)
    residual = direction = right
    power = (right * right).sum((-2, -1), keepdim=True)
    for _ in range(steps):
        image = system(direction)
        length = power / (direction * image).sum((-2, -1), keepdim=True).clamp_min(tiny)
        solution = solution + length * direction
        residual = residual - length * image
        before, power = power, (residual * residual).sum((-2, -1), keepdim=True)
        direction = residual + power / before.clamp_min(tiny) * direction
    return solution
