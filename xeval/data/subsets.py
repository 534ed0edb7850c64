"""Choose images in a seeded, stratified way, in the order of a hash of (seed, position) that no library can change."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xeval.data.base import Ints
from xeval.errors import UsageError


def shuffled(count: int, seed: int) -> Ints:
    """Return 0 … count-1 in the order of their hash: splitmix64 (Steele et al., 2014) of seed and position."""
    state = np.full(count, seed % 2**64, dtype=np.uint64)
    return np.argsort(_mix(_mix(state) ^ np.arange(count, dtype=np.uint64)), kind="stable")


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def stratified(labels: np.ndarray, limit: int, seed: int) -> Ints:
    """Return a sample of ``limit`` positions (sorted) with equally many images of every class.

    Counts differ by at most one between classes that have enough images. A class with too few gives all it has, and the
    others fill up. ``limit >= N`` gives all positions. The sample of a larger limit contains that of a smaller one.
    """
    if limit < 1:
        raise UsageError(f"a sample of {limit} images was asked for", "ask for at least 1")
    order = shuffled(len(labels), seed)
    rank = np.empty(len(labels), dtype=np.int64)  # the rank of each image within its class, in drawing order
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    first = order[np.argsort(rank[order], kind="stable")][:limit]
    return np.sort(first)


def holdout(labels: np.ndarray, share: float, seed: int) -> tuple[Ints, Ints]:
    """Return two disjoint, sorted sets of positions (fit, held) that cover all; ``share`` of every class is held out.

    The held count is ⌈share·N⌉, dealt to the classes by largest remainder, and every class keeps one image to fit.
    """
    if not 0 < share < 1:
        raise UsageError(f"a held-out share of {share} was asked for", "choose a share between 0 and 1")
    classes, counts = np.unique(labels, return_counts=True)
    quota = share * counts
    held_counts = np.floor(quota + 1e-9).astype(np.int64)
    missing = math.ceil(share * len(labels) - 1e-9) - int(held_counts.sum())
    held_counts[np.argsort(held_counts - quota, kind="stable")[:missing]] += 1
    held_counts = np.minimum(held_counts, counts - 1)
    order = shuffled(len(labels), seed)
    chosen = [order[labels[order] == label][:count] for label, count in zip(classes, held_counts, strict=True)]
    held = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), held), held
