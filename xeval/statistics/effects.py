"""How large a difference between two methods is, and how large it must be to be found.

The difference in the metric's own unit comes first (:mod:`xeval.statistics.intervals`); these numbers stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from xeval.statistics.intervals import ROUNDING, common_images, scalars, scale_of


@dataclass(frozen=True)
class Superiority:
    """A12 and the count behind it; ``value`` > 0.5 says that the first method is better."""

    value: float
    better: int
    ties: int
    pairs: int

    def __str__(self) -> str:
        ties = f", {self.ties} tied" if self.ties else ""
        return f"{self.better} of {self.pairs}{ties}"


@dataclass(frozen=True)
class ImageShare:
    """Shares of the images on which the first method, averaged over seeds, is better or the same; descriptive only."""

    better: float
    tied: float
    images: int


def hedges_g(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return the standardised difference of two sets of seed values: (mean a − mean b) / pooled SD.

    It is corrected for few seeds by Γ(ν/2) / (√(ν/2)·Γ((ν−1)/2)) with ν = n_a + n_b − 2 (L. V. Hedges, J. Educ.
    Statist. 6, 1981). NaN is left out. None below 2 seeds on a side or without variance. Raises :class:`DataError` for
    an infinite value.
    """
    a, b = scalars(a), scalars(b)
    if min(len(a), len(b)) < 2:
        return None
    df = len(a) + len(b) - 2
    pooled = (((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / df) ** 0.5
    if pooled <= ROUNDING * scale_of(a, b):
        return None
    correction = np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / (df / 2) ** 0.5
    return float(correction * (a.mean() - b.mean()) / pooled)


def superiority(a: ArrayLike, b: ArrayLike, *, higher_is_better: bool) -> Superiority | None:
    """Return A12 of A. Vargha and H. D. Delaney (2000): P(a better than b) + P(tie)/2 over all pairs of seeds.

    Equals U / (n_a n_b) of Mann and Whitney, turned so that > 0.5 means that ``a`` is better. NaN is left out; None
    below 2 seeds on a side. Raises :class:`DataError` for an infinite value.
    """
    a, b = scalars(a), scalars(b)
    if min(len(a), len(b)) < 2:
        return None
    gain = np.subtract.outer(a, b) * (1 if higher_is_better else -1)
    tied = np.abs(gain) <= ROUNDING * scale_of(a, b)
    better, ties = int((gain[~tied] > 0).sum()), int(tied.sum())
    return Superiority((better + ties / 2) / gain.size, better, ties, gain.size)


def image_share(a: ArrayLike, b: ArrayLike, *, higher_is_better: bool) -> ImageShare | None:
    """Return on which share of the common images ``a``, seeds × images, beats ``b`` or ties, both averaged over seeds.

    None where no image is common. Raises as :func:`xeval.statistics.intervals.common_images`.
    """
    a, b = common_images(a, b)
    if not a.shape[1]:
        return None
    gain = (a.mean(0) - b.mean(0)) * (1 if higher_is_better else -1)
    tied = np.abs(gain) <= ROUNDING * scale_of(a, b)
    return ImageShare(float((gain[~tied] > 0).sum() / len(gain)), float(tied.mean()), len(gain))


def detectable_difference(n_a: int, n_b: int, alpha: float = 0.05, comparisons: int = 1, power: float = 0.8) -> float:
    """Return the smallest true difference, in standard deviations between seeds, that a t test finds with ``power``.

    The test is two-sided, with ν = n_a + n_b − 2 and level α / comparisons; t² is non-central F(1, ν) with
    noncentrality d²·n_a n_b/(n_a + n_b). Raises ValueError below 2 seeds on a side or where α or the power is not
    between 0 and 1.
    """
    if min(n_a, n_b) < 2 or comparisons < 1 or not 0 < alpha < power < 1:
        raise ValueError("2 seeds on a side, a comparison and 0 < alpha < power < 1 are needed")
    df, size = n_a + n_b - 2, n_a * n_b / (n_a + n_b)
    critical = stats.t.isf(alpha / comparisons / 2, df) ** 2

    def shortfall(d: float) -> float:
        return power - (1 - float(special.ncfdtr(1, df, d * d * size, critical)))

    high = 1.0
    while shortfall(high) > 0:
        high *= 2
    return float(optimize.brentq(shortfall, 0.0, high, xtol=1e-9))
