"""Whether two measures rank the same things alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Return τ_b of the pairs that are defined; NaN below two of them or where one side is constant."""
    from scipy import stats

    x, y = np.asarray(a, float), np.asarray(b, float)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 2 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return math.nan
    return float(stats.kendalltau(x[known], y[known]).statistic)
