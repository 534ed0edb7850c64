"""The exact checks beside the intervals: every split, every sign."""

import math
from itertools import combinations
from statistics import fmean, variance

import numpy as np
import pytest
from scipy import stats

from xeval.statistics.tests import permutation_check

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


def welch_t(x, y):
    error = variance(x) / len(x) + variance(y) / len(y)
    return (fmean(x) - fmean(y)) / math.sqrt(error) if error > 1e-20 else math.copysign(math.inf, fmean(x) - fmean(y))


def every_split(a, b):
    pool = [*a, *b]
    for chosen in combinations(range(len(pool)), len(a)):
        yield welch_t([pool[i] for i in chosen], [pool[i] for i in range(len(pool)) if i not in chosen])


@pytest.mark.parametrize("sizes", [(5, 5), (5, 6), (7, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_the_permutation_check_enumerates_every_split(sizes, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.4, 1.4, sizes[0]).tolist(), rng.uniform(0, 1, sizes[1]).tolist()
    if seed == 2:  # proportions of few images: many ties
        a, b = [round(3 * x) / 360 for x in a], [round(3 * x) / 360 for x in b]
    null, observed = list(every_split(a, b)), welch_t(a, b)
    tails = fmean(t >= observed - 1e-9 for t in null), fmean(t <= observed + 1e-9 for t in null)
    found = permutation_check(a, b)
    assert found.p == pytest.approx(min(1, 2 * min(tails)))
    if seed != 2:  # scipy sets ties apart
        oracle = stats.permutation_test((a, b), welch_t, permutation_type="independent", n_resamples=np.inf)
        assert found.p == pytest.approx(oracle.pvalue)
    assert found.note == "assumes equal spread"


def test_splits_that_tie_are_tied():
    # unrounded sums would set equal splits apart and halve this p
    a, b = np.divide([353, 354, 357, 355, 350], 360), np.divide([354, 354, 351, 353, 354], 360)
    null, observed = list(every_split(a, b)), welch_t(a, b)
    assert permutation_check(a, b).p == pytest.approx(2 * fmean(t >= observed - 1e-9 for t in null))
    flags = permutation_check([0, 0, 0, 0, 1], [1, 1, 1, 1, 0])  # one split and its mirror have no variance at all
    assert flags.p == pytest.approx(2 * (1 + 25) / 252)


def test_the_permutation_check_reaches_its_smallest_p_and_no_less():
    found = permutation_check([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    assert found.p == found.smallest_p == pytest.approx(2 / 252)
    assert permutation_check([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]).p == found.p


def test_the_permutation_check_is_withheld_where_it_is_not_exact():
    a = np.array([1.0, 2, 3, 4, 5])
    assert permutation_check(a, 2.9 * a).p is not None
    for b in (3.1 * a, a / 3.1, np.ones(5)):
        found = permutation_check(a, b)
        assert (found.p, found.note) == (None, "one standard deviation exceeds 3 times the other")
    many = np.random.default_rng(0).normal(size=(2, 12))
    assert permutation_check(*many).note == "more than 200000 splits to enumerate"
