"""Rank correlation of rows and means over tables, against scipy and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from xeval.statistics.agreement import mean_of_known, spearman


def test_spearman_is_scipys_pair_by_pair_with_ties() -> None:
    rows = np.random.default_rng(0).integers(0, 5, (4, 30)).astype(float)
    rows[3] = -rows[0]
    found = spearman(rows)
    for i in range(4):
        for j in range(4):
            assert found[i, j] == pytest.approx(stats.spearmanr(rows[i], rows[j]).statistic)
    assert found[0, 3] == pytest.approx(-1)


def test_what_is_constant_or_not_finite_agrees_with_nothing() -> None:
    rows = np.array([[1.0, 2, 3], [5, 5, 5], [3, math.nan, 1], [1, math.inf, 2], [9, 8, 1]])
    found = spearman(rows)
    assert np.isnan(found[1:4]).all()
    assert found[0, 4] == pytest.approx(-1)
    assert np.isnan(spearman(rows[1:4])).all()


def test_a_mean_is_over_the_tables_in_which_it_is_defined() -> None:
    a, b = np.array([[1.0, math.nan], [0.5, math.nan]]), np.array([[0.0, math.nan], [math.nan, 0.25]])
    assert mean_of_known([a, b]) == pytest.approx(np.array([[0.5, math.nan], [0.5, 0.25]]), nan_ok=True)
