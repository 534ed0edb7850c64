"""Averages rows that belong together: they are no independent draws, the unit of a statistic is what they are of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def means_of_runs(values: NDArray[np.float64], lengths: Sequence[int]) -> NDArray[np.float64]:
    """Return the mean of each run of consecutive rows over its defined ones: (N,) or (N, K), NaN where none is.

    ``values`` are (R,) or (R, K) with NaN where they are undefined; ``lengths`` (N,) sum up to R and are at least 1.
    """
    first = np.cumsum([0, *lengths[:-1]])
    known = np.isfinite(values)
    counts = np.add.reduceat(known, first, axis=0, dtype=np.int64)
    sums = np.add.reduceat(np.where(known, values, 0.0), first, axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
