"""Too few common images, or too few events of an indicator among them: the interval stays and the p goes."""

import math
from itertools import product
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from tests.statistics.samples import scores
from xeval.statistics.floor import shortage, shortage_of_images
from xeval.statistics.intervals import compare_checkpoints, compare_explainers, compare_methods

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


def rates(ones, images=100, seeds=5):
    """Zeros but for ``ones``: (row, image) pairs."""
    found = np.zeros((seeds, images))
    for row, image in ones:
        found[row, image] = 1
    return found


def counted(*tables):
    """Images on which any row is above 0, and on which any is below 1, one value at a time."""
    rows = [row for table in tables for row in table.tolist()]
    images = range(len(rows[0]))
    return sum(any(row[i] > 0 for row in rows) for i in images), sum(any(row[i] < 1 for row in rows) for i in images)


@pytest.mark.parametrize("compare", [compare_methods, compare_explainers])
@pytest.mark.parametrize(("images", "reason"), [(29, "29 images < 30"), (30, "")])
def test_below_thirty_common_images_there_is_no_p(compare, images, reason):
    a, b = scores(0, images=40)
    a[3, images:] = np.nan  # one row decides which images are common
    found = compare(a, b)
    assert (found.images, found.short, found.note) == (images, reason, reason)
    assert (found.p is None) == bool(reason)
    assert found.interval is not None
    assert found.value == pytest.approx(fmean(a[:, :images].ravel()) - fmean(b[:, :images].ravel()))


def test_three_common_images_once_gave_a_p_of_four_in_ten_thousand():
    rng = np.random.default_rng(4)
    a, b = (np.full((5, 50), np.nan) for _ in range(2))
    a[:], b[:] = rng.normal(0.5, 0.01, (5, 50)), rng.normal(0.4, 0.01, (5, 50))
    a[0, 3:] = np.nan
    found = compare_methods(a, b)
    gap = [fmean(row[:3]) for row in a.tolist()], [fmean(row[:3]) for row in b.tolist()]
    assert stats.ttest_ind(*gap, equal_var=False).pvalue < 0.001
    assert (found.p, found.images, found.short) == (None, 3, "3 images < 30")


@pytest.mark.parametrize(
    ("ones", "reason"),
    [
        ([(row, image) for row, image in product(range(5), range(4))], "4 events < 5"),
        ([(row, image) for row, image in product(range(5), range(1))], "1 event < 5"),
        ([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], ""),
    ],
)
def test_an_indicator_needs_five_events_and_five_non_events(ones, reason):
    a, b = rates(ones), rates([])
    events, others = counted(a, b)
    assert (events < 5) == bool(reason)
    assert others >= 5
    found = compare_methods(a, b)
    assert found.short == reason
    assert found.p is None or not reason
    assert compare_methods(1 - a, 1 - b).short == reason.replace("event", "non-event")


def test_a_share_of_draws_is_held_against_an_indicator_as_one():
    """The random control averages draws: .2 on an image is an event and a non-event there."""
    a, b = rates([]), np.full((5, 100), 0.2)
    assert counted(a, b) == (100, 100)
    assert shortage(a, b) == ""
    assert shortage(a, rates([]) + 0.2 * rates([(0, 0)])) == "1 event < 5"


def test_scores_beyond_nought_and_one_are_no_indicator():
    assert shortage(rates([]), np.full((5, 100), -0.5)) == ""
    assert shortage(np.full((5, 100), 0.5)) == ""


def test_one_checkpoint_each_says_so_too():
    a, b = np.random.default_rng(0).normal(size=(2, 16))
    found = compare_checkpoints(a, b)
    assert (found.p, found.short, found.share) == (None, "16 images < 30", None)
    assert found.interval == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval()))
    assert "images only" in found.note


def test_no_image_is_the_lowest():
    assert shortage_of_images(0) == "0 images < 30"
    assert shortage_of_images(1) == "1 image < 30"
    assert math.isnan(compare_methods(np.full((5, 2), np.nan), np.ones((5, 2))).value)
