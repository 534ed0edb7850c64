"""Effect sizes: by hand, without bias, and counted."""

import math

import numpy as np
import pytest
from scipy import stats

from xeval.statistics.effects import hedges_g, image_share, superiority

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


def test_hedges_g_by_hand():
    # pooled variance 2.5; the correction at 8 degrees of freedom is Γ(4) / (2 Γ(3.5)) = 0.90270
    found = hedges_g([1, 2, 3, 4, 5], [3, 4, 5, 6, 7])
    assert found == pytest.approx(-2 / math.sqrt(2.5) * math.gamma(4) / (2 * math.gamma(3.5)))
    assert found == pytest.approx(-1.14183, abs=1e-5)
    assert hedges_g([1], [2, 3]) is None


def test_hedges_g_is_unbiased_with_five_seeds():
    rng = np.random.default_rng(0)
    found = [hedges_g(rng.normal(1.5, 1, 5), rng.normal(0, 1, 5)) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(1.5, abs=4 * np.std(found) / 4000**0.5)


def test_a12_counts_pairs_and_points_to_the_better_method():
    first = superiority([9, 9.5, 8, 10, 11], [1, 2, 3, 4, 5], higher_is_better=True)
    assert (first.value, str(first)) == (1, "25 of 25")
    assert superiority([1, 2, 3, 4, 5], [9, 9.5, 8, 10, 11], higher_is_better=False).value == 1
    a, b = [1, 2, 3, 4], [2, 2, 5]
    found = superiority(a, b, higher_is_better=True)
    assert (found.better, found.ties, found.pairs) == (4, 2, 12)
    assert found.value == pytest.approx(stats.mannwhitneyu(a, b).statistic / 12) == pytest.approx(5 / 12)
    assert str(found) == "4 of 12, 2 tied"
    assert superiority(a, b, higher_is_better=False).value == pytest.approx(7 / 12)
    assert superiority([], b, higher_is_better=False) is None
    assert superiority([1], b, higher_is_better=False) is None  # one seed says nothing of seeds
    assert superiority(a, [2], higher_is_better=False) is None


def test_the_share_of_images_compares_seed_averages():
    a = np.array([[1.0, 5, 2, 0], [3, 5, 2, 0]])  # means 2 5 2 0
    b = np.array([[1.5, 4, 2, 1]])
    found = image_share(a, b, higher_is_better=True)
    assert (found.better, found.tied, found.images) == (0.5, 0.25, 4)
    assert image_share(a, b, higher_is_better=False).better == 0.25
