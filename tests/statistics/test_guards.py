"""What is undefined, and what is withheld: missing values, too few seeds, no variance."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.statistics.samples import same, scores
from xeval.errors import DataError
from xeval.statistics.effects import hedges_g, image_share, superiority
from xeval.statistics.intervals import (
    common_images,
    compare_checkpoints,
    compare_explainers,
    compare_methods,
    compare_scalars,
    mean_interval,
    scalar_interval,
)
from xeval.statistics.tests import permutation_check

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


@pytest.mark.parametrize("compare", [compare_methods, compare_explainers])
def test_only_images_defined_in_every_row_of_both_count(compare):
    a, b = scores(0, images=40)
    holed, other = a.copy(), b.copy()
    holed[2, 4] = other[0, 9] = other[1, 4] = np.nan
    rest = [i for i in range(40) if i not in (4, 9)]
    found = compare(holed, other)
    same(found, compare(a[:, rest], b[:, rest]))
    assert found.images == 38
    assert image_share(holed, other, higher_is_better=True).images == 38


def test_where_nothing_is_common_there_is_no_value():
    a, b = np.full((5, 2), np.nan), np.ones((5, 2))
    a[:, 0], b[0, 0] = 1, np.nan
    for found in (compare_methods(a, b), compare_explainers(a, b), compare_checkpoints(a[0], b[0])):
        assert math.isnan(found.value)
        assert (found.images, found.interval, found.p) == (0, None, None)
        assert found.note == "no image is defined in every run"
    assert image_share(a, b, higher_is_better=True) is None


def test_one_image_carries_no_interval():
    found = compare_methods(np.arange(5.0)[:, None], np.ones((5, 1)))
    assert (found.value, found.interval, found.note) == (1, None, "an interval needs at least 2 images")


def test_undefined_numbers_are_left_out_and_counted():
    found = compare_scalars([1, 2, np.nan, 4, 5, 6], [1, 1, 2, 3, 1])
    assert found.seeds == (5, 5)
    assert found.p == pytest.approx(stats.ttest_ind([1, 2, 4, 5, 6], [1, 1, 2, 3, 1], equal_var=False).pvalue)


def test_scores_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="scores on 3 and 4 images"):
        common_images(np.ones((5, 3)), np.ones((5, 4)))
    with pytest.raises(DataError, match="infinite"):
        compare_methods(np.ones((5, 3)), np.full((5, 3), np.inf))
    with pytest.raises(DataError, match="infinite"):
        compare_scalars([1, 2, 3], [1, 2, -np.inf])
    with pytest.raises(DataError, match="5 and 4 checkpoints"):
        compare_explainers(np.ones((5, 3)), np.ones((4, 3)))
    for wrong in (np.ones(3), np.ones((0, 3))):
        with pytest.raises(ValueError, match="seeds × images"):
            common_images(wrong)
    with pytest.raises(ValueError, match="one number a seed"):
        compare_scalars(np.ones((2, 2)), [1])


@pytest.mark.parametrize("few", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("other", [5, 8])
@pytest.mark.fault("P1", "P6")
def test_too_few_seeds_get_no_interval_and_no_p(few, other):
    a, b = scores(0, (few, other))
    estimates = [compare_methods(a, b), compare_methods(b, a), compare_scalars(a[:, 0], b[:, 0])]
    estimates += [compare_explainers(a, a + b[:few])]
    for found in estimates:
        assert (found.interval is not None) == (few >= 3)
        assert (found.p is not None) == (few >= 5)
        assert ("interval needs at least 3 seeds" in found.note) == (few < 3)
        assert ("p needs at least 5 seeds" in found.note) == (few in (3, 4))
        assert not math.isnan(found.value)
    for found in (mean_interval(a), scalar_interval(a[:, 0])):
        assert (found.interval is not None) == (few >= 3)
        assert found.p is None
    assert (permutation_check(a.mean(1), b.mean(1)).p is None) == (few < 5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6 / 7])
@pytest.mark.fault("P5")
def test_without_any_variance_the_verdict_is_identical(value):
    a, b = np.full((5, 7), value), np.full((6, 7), value)
    estimates = [compare_methods(a, b), compare_explainers(a, a), compare_scalars(a[:, 0], b[:, 0])]
    estimates.append(compare_checkpoints(a[0], b[0]))
    for found in estimates:
        assert (found.interval, found.p, found.note) == (None, None, "identical")
    assert permutation_check(a[:, 0], b[:, 0]).note == "identical"
    assert hedges_g(a[:, 0], b[:, 0]) is None
    assert superiority(a[:, 0], b[:, 0], higher_is_better=True).value == 0.5


@pytest.mark.fault("P5")
def test_without_variance_a_difference_is_shown_and_not_tested():
    a, b = np.full((5, 7), 0.9), np.full((5, 7), 0.7)
    for found in (compare_methods(a, b), compare_explainers(a, b), compare_scalars(a[:, 0], b[:, 0])):
        assert found.value == pytest.approx(0.2)
        assert (found.interval, found.p, found.note) == (None, None, "identical across seeds")
    assert permutation_check(a[:, 0], b[:, 0]).p is None
    assert compare_checkpoints(a[0], b[0]).note == "the same difference on every image"
    assert mean_interval(a).interval is None


@pytest.mark.fault("P5")
def test_rounding_is_no_variance():
    image = np.random.default_rng(0).normal(size=1000)
    rows = np.stack([image + 0.1 * k - 0.1 * k for k in range(5)])  # equal but for the last bits
    assert 0 < rows.mean(1).std() < 1e-15
    assert compare_methods(rows, rows[::-1]).note == "identical"
    assert compare_explainers(rows, rows[::-1]).p is None
