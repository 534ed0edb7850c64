"""Slow, plain re-derivations of the definitions, one image and one pixel at a time."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def softmax_of(model: nn.Module, image: Tensor, target: int) -> float:
    """Softmax probability of one class for one C×H×W image."""
    logits = model(image[None])[0].double()
    return float(torch.exp(logits[target]) / torch.exp(logits).sum())


def most_relevant(map_: Tensor, k: int) -> set[tuple[int, int]]:
    """The k positions with the largest value of a tie-free H×W map."""
    places = [(y, x) for y in range(map_.shape[0]) for x in range(map_.shape[1])]
    return set(sorted(places, key=lambda p: -float(map_[p]))[:k])


def keep_only(image: Tensor, fill: Tensor, kept: set[tuple[int, int]]) -> Tensor:
    """The image with every position outside ``kept`` replaced by the fill, all channels."""
    out = fill.clone()
    for y, x in kept:
        out[:, y, x] = image[:, y, x]
    return out


def drop_increase(
    model: nn.Module, image: Tensor, fill: Tensor, map_: Tensor, target: int, q: float
) -> dict[str, float]:
    """Drop and increase of one image, written from the definition."""
    height, width = map_.shape
    k = math.floor(Fraction(str(q)) * height * width)
    p0 = softmax_of(model, image, target)
    p1 = softmax_of(model, keep_only(image, fill, most_relevant(map_, k)), target)
    tie = abs(p1 - p0) <= 1e-6
    return {
        "drop.rate": float(p1 < p0 and not tie),
        "drop.mag": 0.0 if tie else max(0.0, p0 - p1) / p0,
        "increase.rate": float(p1 > p0 and not tie),
        "increase.mag": 0.0 if tie else max(0.0, p1 - p0) / p0,
        "drop.tie": float(tie),
    }


def deletion_auc(model: nn.Module, image: Tensor, fill: Tensor, map_: Tensor, target: int, steps: int) -> float:
    """Area under the deletion curve of one image: positions filled in order of relevance."""
    pixels = map_.numel()
    everything = {(y, x) for y in range(map_.shape[0]) for x in range(map_.shape[1])}
    curve = []
    for j in range(steps + 1):
        removed = most_relevant(map_, j * pixels // steps)
        curve.append(softmax_of(model, keep_only(image, fill, everything - removed), target))
    return sum((a + b) / 2 / steps for a, b in pairwise(curve))


def entropy(map_: np.ndarray) -> float:
    """Entropy in nats of |A| / Σ|A|."""
    total = sum(abs(float(v)) for v in map_.ravel())
    shares = [abs(float(v)) / total for v in map_.ravel()]
    return -sum(p * math.log(p) for p in shares if p > 0)


def gini(map_: np.ndarray) -> float:
    """Gini index by its definition as a mean absolute difference, on |A| + 1e-7."""
    values = [abs(float(v)) + 1e-7 for v in map_.ravel()]
    n = len(values)
    return sum(abs(a - b) for a in values for b in values) / (2 * n * sum(values))


def pearson(x: list[float], y: list[float]) -> float:
    """Pearson correlation from sums."""
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))
