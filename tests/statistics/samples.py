"""Scores to compare, and what is said of two estimates."""

from itertools import product
from statistics import fmean

import numpy as np
import pytest

from tests import simulated
from tests.commands import ROOT

PAGE = (ROOT / "docs" / "statistics.md").read_text()

RISING = np.array([[1.0, 2], [3, 4], [5, 6]])
STILL = np.array([[0.0, 3], [0, 3], [0, 3]])


def scores(seed, seeds=(5, 5), images=30, spread=(0.1, 0.1)):
    return simulated.gaussian(np.random.default_rng(seed), seeds, images, spread)


def half_width(estimate):
    low, high = estimate.interval
    return (high - low) / 2


def residual_mean_square(x):
    seeds, images = range(len(x)), range(len(x[0]))
    total = 0.0
    for s, i in product(seeds, images):
        row, column = fmean(x[s]), fmean(x[t][i] for t in seeds)
        total += (x[s][i] - row - column + fmean(map(fmean, x))) ** 2
    return total / (len(seeds) - 1) / (len(images) - 1)


def same(x, y):
    assert x.value == pytest.approx(y.value, abs=1e-9)
    assert x.interval == pytest.approx(y.interval, abs=1e-9)
    assert (x.p, x.df, x.share.seeds) == pytest.approx((y.p, y.df, y.share.seeds), rel=1e-6)


LIMITS = {  # permutation, largest family, detectable d for 1, 5 and 10 comparisons
    3: (0.100, 0, 3.07, 4.80, 5.76),
    5: (0.0079, 6, 2.02, 2.74, 3.08),
    6: (0.0022, 23, 1.80, 2.38, 2.63),
    8: (0.00016, 321, 1.51, 1.94, 2.13),
    10: (0.00001, 4618, 1.32, 1.69, 1.84),
}
