"""Whether two measures, or two maps, rank the same things alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Return τ_b of the pairs that are defined; NaN below two of them or where one side is constant."""
    from scipy import stats

    x, y = np.asarray(a, float), np.asarray(b, float)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 2 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return math.nan
    return float(stats.kendalltau(x[known], y[known]).statistic)


def spearman(rows: Matrix) -> Matrix:
    """Return Spearman's correlation between the rows of R×P values, R×R: that of their ranks, ties getting the average.

    NaN for a row that is constant or holds a value that is not finite, also with itself.
    """
    from scipy import stats

    ranks = stats.rankdata(rows, axis=1)
    known = np.isfinite(rows).all(1) & (np.ptp(ranks, axis=1) > 0)
    found = np.full((len(rows), len(rows)), math.nan)
    if known.any():
        found[np.ix_(known, known)] = np.corrcoef(ranks[known])
    return found


def mean_of_known(tables: Sequence[Matrix]) -> Matrix:
    """Return the mean of several tables of one shape, entry by entry, over those in which it is defined; else NaN."""
    values = np.stack(tables)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(0) / np.where(known.any(0), known.sum(0), math.nan))
