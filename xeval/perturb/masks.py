"""Turn maps and boxes into masks: how many pixels are kept, in which order, and min-max scaling."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from xeval.errors import UsageError
from xeval.perturb.draws import bits


def kept(fraction: float, pixels: int) -> int:
    """Return ⌊fraction · pixels⌋ in exact decimal arithmetic: 0.15 of 1024 pixels is 153, 0.29 of 100 is 29."""
    if not 0 <= fraction <= 1:
        raise UsageError(f"the keep fraction {fraction:g} lies outside [0, 1]", "use a fraction such as 0.15")
    return int(Fraction(repr(fraction)) * pixels)


def tie_break(seed: int, keys: Tensor, pixels: int) -> Tensor:
    """Return a random order of the pixels of each image, int64 (N, pixels), which decides between equal map values."""
    return bits(seed, "tie-break", keys, 1, pixels)[:, 0].argsort(dim=1)


def ranking(maps: Tensor, order: Tensor) -> Tensor:
    """Return the rank of each pixel, 0 for the most relevant; the seeded ``order`` decides between equal values.

    ``maps`` is N×1×H×W and ``order`` comes from :func:`tie_break`. The result, int64 N×H×W, is deterministic and
    does not depend on the batch.
    """
    flat = maps.flatten(1).gather(1, order)
    descending = order.gather(1, flat.argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(descending)
    return torch.empty_like(descending).scatter_(1, descending, places).reshape(maps.shape[0], *maps.shape[-2:])


def legacy_ranking(maps: Tensor) -> Tensor:
    """Return ranks by numpy's default argsort of −A on the host, as published code does; ties have arbitrary order."""
    flat = maps.flatten(1)
    order = torch.from_numpy(np.argsort(-flat.cpu().numpy(), axis=1)).to(maps.device)
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(maps.shape[0], *maps.shape[-2:])


def cut_ties(maps: Tensor, k: int) -> Tensor:
    """Return the share of pixels equal to the last kept value if the cut at ``k`` splits ties, else 0: float64 (N,)."""
    flat = maps.flatten(1)
    pixels = flat.shape[1]
    if k in (0, pixels):
        return torch.zeros(len(flat), dtype=torch.float64, device=maps.device)
    ordered = flat.sort(dim=1, descending=True).values
    tied = (flat == ordered[:, k - 1 : k]).sum(1).double() / pixels
    return torch.where(ordered[:, k - 1] == ordered[:, k], tied, torch.zeros_like(tied))


def minmax(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1] on its own; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))


def cam_minmax(maps: Tensor) -> Tensor:
    """Scale each map as pytorch-grad-cam does: (A − min A) / (1e-7 + max(A − min A)).

    A constant map becomes 0, and a map whose range is not far above 1e-7 ends well below 1.
    """
    above = maps - maps.amin((-2, -1), keepdim=True)
    return above / (1e-7 + above.amax((-2, -1), keepdim=True))


def complement(maps: Tensor) -> Tensor:
    """Turn each map over: (max A − A) / (1e-7 + max A − min A), in [0, 1]; a constant map becomes 0."""
    return cam_minmax(-maps)


def cutoff_mask(maps: Tensor, cutoff: float) -> Tensor:
    """Return a boolean mask of the pixels whose min-max scaled value exceeds ``cutoff`` (ExCon's training mask)."""
    return minmax(maps) > cutoff


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return boxes (N, 4) x0, y0, x1, y1, inclusive, as masks: bool N×1×H×W."""
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    across = (x >= boxes[:, 0:1]) & (x <= boxes[:, 2:3])
    down = (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:4])
    return (down[:, :, None] & across[:, None, :]).unsqueeze(1)
