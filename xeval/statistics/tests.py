"""Exact tests beside an estimate, and what a family of comparisons may claim.

With few seeds an exact test has few outcomes, so each states the smallest p it could have given. Checks are printed
beside the estimates of :mod:`xeval.statistics.intervals` and never replace them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from xeval.statistics.intervals import (
    ROUNDING,
    SEEDS_FOR_P,
    Array,
    no_variance,
    scalars,
    scale_of,
)

LARGEST_SPREAD_RATIO = 3.0
LARGEST_ENUMERATION = 200_000  # splits; 10 against 10 seeds make 184 756
EQUAL_SPREAD = "assumes equal spread"
UNEQUAL_SPREAD = f"one standard deviation exceeds {LARGEST_SPREAD_RATIO:g} times the other"


@dataclass(frozen=True)
class ExactTest:
    """The p of an exact test, or None and the reason in ``note``, and the smallest p that its sample sizes allow."""

    p: float | None
    smallest_p: float
    note: str = ""


def permutation_check(a: ArrayLike, b: ArrayLike) -> ExactTest:
    """Return the exact two-sided permutation p of Welch's t between two sets of seed values, over all their splits.

    It is twice the smaller tail over all C(n_a + n_b, n_a) splits. It is exact only where both methods spread alike, so
    there is no p when one standard deviation exceeds three times the other; none either below 5 seeds on a side,
    without variance, or beyond 200 000 splits. NaN is left out. Raises :class:`DataError` for an infinite value.
    """
    a, b = scalars(a), scalars(b)
    smallest = smallest_permutation_p(len(a), len(b))
    reason = _no_permutation(a, b)
    if reason:
        return ExactTest(None, smallest, reason)
    pool = np.concatenate([a, b])
    z = (pool - pool.mean()) / pool.std()
    first, second = _splits(len(a), len(b))
    t = _welch_statistic(z[first], z[second])
    tail = min(float((t >= t[0]).mean()), float((t <= t[0]).mean()))
    return ExactTest(min(1.0, 2 * tail), smallest, EQUAL_SPREAD)


@lru_cache(maxsize=8)
def _splits(n_a: int, n_b: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the positions of the first and of the second group, one row a split; row 0 is the observed split."""
    first = np.array(list(combinations(range(n_a + n_b), n_a)), dtype=np.uint8)
    rest = np.ones((len(first), n_a + n_b), dtype=bool)
    np.put_along_axis(rest, first.astype(np.intp), False, axis=1)
    return first, np.nonzero(rest)[1].reshape(-1, n_b).astype(np.uint8)


def _no_permutation(a: Array, b: Array) -> str:
    """Say why there is no permutation p; empty where there is one."""
    if min(len(a), len(b)) < SEEDS_FOR_P:
        return f"the permutation check needs at least {SEEDS_FOR_P} seeds"
    low, high = sorted((float(a.std(ddof=1)), float(b.std(ddof=1))))
    if high <= ROUNDING * scale_of(a, b):
        return no_variance(float(a.mean() - b.mean()), scale_of(a, b))
    if high > LARGEST_SPREAD_RATIO * low:
        return UNEQUAL_SPREAD
    if math.comb(len(a) + len(b), len(a)) > LARGEST_ENUMERATION:
        return f"more than {LARGEST_ENUMERATION} splits to enumerate"
    return ""


def _welch_statistic(x: Array, y: Array) -> Array:
    """Return Welch's t of each row, in standard units; it is finite, and largest, where both sides are constant.

    Rounded, as the order of summation must not tell apart splits that tie.
    """
    variance = x.var(1, ddof=1) / x.shape[1] + y.var(1, ddof=1) / y.shape[1]
    found: Array = np.round((x.mean(1) - y.mean(1)) / np.sqrt(np.maximum(variance, ROUNDING**2)), 9)
    return found


def smallest_permutation_p(n_a: int, n_b: int) -> float:
    """Return the smallest two-sided p of a permutation check: 2 / C(n_a + n_b, n_a), at most 1."""
    return min(1.0, 2 / math.comb(n_a + n_b, n_a))


def largest_family(n_a: int, n_b: int, alpha: float = 0.05) -> int:
    """Return how many comparisons a family may hold for the smallest permutation p to pass Holm's first step, α/m."""
    return int(alpha / smallest_permutation_p(n_a, n_b) + 1e-9)


def family_limit(n_a: int, n_b: int, comparisons: int, alpha: float = 0.05) -> str:
    """Say that the permutation check cannot serve a family with these seeds; empty where it can."""
    if comparisons <= largest_family(n_a, n_b, alpha):
        return ""
    seeds = " and ".join(str(n) for n in sorted({n_a, n_b}))
    noun = "comparison" if comparisons == 1 else "comparisons"
    return f"with {seeds} seeds the permutation check cannot reach {alpha:g} for {comparisons} {noun}"


def holm(p: ArrayLike) -> Array:
    """Adjust the p of a family: max over j ≤ k of (m − j + 1)·p₍ⱼ₎, at most 1 (S. Holm, Scand. J. Statist. 6, 1979).

    Controls the chance of any false alarm under every dependence. NaN stands for a comparison without p: it stays NaN
    and counts in m. Raises ValueError for a p outside [0, 1].
    """

    def step_down(values: Array) -> Array:
        order = np.argsort(values, kind="stable")
        adjusted = np.empty_like(values)
        adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
        return np.minimum(adjusted, 1.0)

    return _adjusted(p, step_down)


def benjamini_yekutieli(p: ArrayLike) -> Array:
    """Adjust p to control the false discovery rate under every dependence (Ann. Statist. 29, 2001).

    NaN stays NaN and counts in the family. Raises ValueError for a p outside [0, 1].
    """
    return _adjusted(p, lambda values: np.asarray(stats.false_discovery_control(values, method="by")))


def _adjusted(p: ArrayLike, adjust: Callable[[Array], Array]) -> Array:
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or (values < 0).any() or (values > 1).any():
        raise ValueError("a list of p values between 0 and 1 is needed")
    missing = np.isnan(values)
    return np.where(missing, np.nan, adjust(np.where(missing, 1.0, values))) if len(values) else values
