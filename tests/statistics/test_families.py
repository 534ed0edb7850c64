"""Families of comparisons, and what few seeds can show at all."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from tests.statistics.samples import LIMITS, PAGE
from xeval.statistics.effects import detectable_difference
from xeval.statistics.tests import (
    benjamini_yekutieli,
    family_limit,
    holm,
    largest_family,
    smallest_permutation_p,
)

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


def test_holm_by_hand_and_by_closed_testing():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p = np.random.default_rng(0).uniform(0, 0.3, 6)
    # Holm is the closed test of Bonferroni: p_i is the largest Bonferroni p of the sub-families that hold i
    families = [f for size in range(1, 7) for f in combinations(range(6), size)]
    closed = [max(min(1, len(f) * min(p[list(f)])) for f in families if i in f) for i in range(6)]
    assert holm(p) == pytest.approx(closed)


def test_a_comparison_without_p_counts_in_its_family():
    assert holm([0.01, np.nan, 0.02]) == pytest.approx([0.03, np.nan, 0.04], nan_ok=True)
    full = benjamini_yekutieli([0.01, 1.0, 0.02])
    assert benjamini_yekutieli([0.01, np.nan, 0.02]) == pytest.approx([full[0], np.nan, full[2]], nan_ok=True)
    assert len(holm([])) == len(benjamini_yekutieli([])) == 0
    for adjust in (holm, benjamini_yekutieli):
        for wrong in ([1.1], [-0.1], [[0.1]]):
            with pytest.raises(ValueError, match="between 0 and 1"):
                adjust(wrong)


def test_benjamini_yekutieli_in_plain_loops():
    p = [0.001, 0.2, 0.012, 0.04]
    harmonic, ranks = sum(1 / k for k in range(1, 5)), stats.rankdata(p)
    plain = [min(1, *(4 * harmonic * q / s for q, s in zip(p, ranks, strict=True) if s >= r)) for r in ranks]
    assert benjamini_yekutieli(p) == pytest.approx(plain)


@pytest.mark.parametrize("n", LIMITS)
def test_the_limits_of_few_seeds(n):
    permutation, family, *detectable = LIMITS[n]
    assert smallest_permutation_p(n, n) == pytest.approx(permutation, rel=0.1)
    assert largest_family(n, n) == family
    assert [detectable_difference(n, n, comparisons=m) for m in (1, 5, 10)] == pytest.approx(detectable, abs=0.006)


@pytest.mark.parametrize(("n", "other", "m"), [(3, 3, 1), (3, 3, 10), (5, 5, 5), (10, 6, 10)])
def test_the_detectable_difference_has_the_power_it_promises(n, other, m):
    # P(|T| > c) again, by integrating over the pooled standard deviation
    df, d = n + other - 2, detectable_difference(n, other, comparisons=m)
    shift, c = d * math.sqrt(n * other / (n + other)), stats.t.isf(0.025 / m, df)

    def density(s):
        cut = c * s / math.sqrt(df)
        return stats.chi.pdf(s, df) * (stats.norm.sf(cut - shift) + stats.norm.cdf(-cut - shift))

    assert integrate.quad(density, 0, np.inf)[0] == pytest.approx(0.8, abs=1e-6)
    with pytest.raises(ValueError, match="2 seeds on a side"):
        detectable_difference(1, n)


@pytest.mark.parametrize("n", [5, 6])
def test_the_largest_family_is_the_largest_that_holm_lets_pass(n):
    m, p = largest_family(n, n), smallest_permutation_p(n, n)
    assert holm([p] + [1.0] * (m - 1))[0] <= 0.05 < holm([p] + [1.0] * m)[0]
    assert largest_family(3, 3, alpha=0.3) == 3  # though 0.3 / 0.1 < 3 in floating point


@pytest.mark.fault("P12")
def test_a_family_beyond_the_permutation_check_is_said_to_be():
    assert family_limit(5, 5, 15) == "with 5 seeds the permutation check cannot reach 0.05 for 15 comparisons"
    assert family_limit(5, 5, 6) == family_limit(6, 6, 15) == ""
    assert family_limit(3, 4, 1, 0.01).startswith("with 3 and 4 seeds the permutation check cannot reach 0.01 for 1 c")


@pytest.mark.parametrize("n", LIMITS)
def test_the_page_states_the_limits_that_are_computed(n):
    permutation, family, *detectable = LIMITS[n]
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {n} | 0.")]
    assert [float(cell) for cell in line.split("|")[2:-1]] == [permutation, family, *detectable]
