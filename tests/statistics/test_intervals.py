"""Intervals and p: by hand, in plain loops, against scipy's closed forms, and under symmetries."""

import math
from fractions import Fraction
from statistics import fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.statistics.samples import RISING, STILL, half_width, residual_mean_square, same, scores
from xeval.statistics.intervals import (
    IMAGES_ONLY,
    ONE_CHECKPOINT,
    compare_checkpoints,
    compare_explainers,
    compare_methods,
    compare_on_one_checkpoint,
    compare_scalars,
    mean_interval,
    scalar_interval,
)

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


# --- by hand, and in plain loops -------------------------------------------------------------------------------------


def test_the_difference_of_two_methods_by_hand():
    # seed means 1.5, 3.5, 5.5 (variance 4) and 1.5 thrice; no residuals; image means of the difference 3 and 1
    v = Fraction(4, 3) + 0 + Fraction(2, 2)
    df = v**2 / (Fraction(4, 3) ** 2 / 2 + Fraction(1) / 1)
    assert (v, df) == (Fraction(7, 3), Fraction(49, 17))
    found = compare_methods(RISING, STILL)
    assert found.value == pytest.approx(2)
    assert found.df == pytest.approx(49 / 17)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 49 / 17, 2, math.sqrt(7 / 3)))
    assert (found.share.seeds, found.share.images) == pytest.approx((4 / 7, 3 / 7))
    assert (found.seeds, found.images) == ((3, 3), 2)


def test_the_mean_of_one_method_by_hand():
    # 4/3 from the seeds; image means 3 and 4 have variance 1/2, over 2 images
    found = mean_interval(RISING)
    assert found.value == pytest.approx(3.5)
    assert found.df == pytest.approx(361 / 137)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 361 / 137, 3.5, math.sqrt(19 / 12)))
    assert (found.seeds, found.images, found.p, found.note) == ((3,), 2, None, "")


def in_loops(sides, across):
    """t, df and standard error from each side's rows and the image means, one number at a time."""
    images = len(across)
    parts = [(variance(map(fmean, x)) / len(x), len(x) - 1) for x in sides]
    noise = sum(residual_mean_square(x) / len(x) for x in sides)
    parts.append((max(0.0, variance(across) - noise) / images, images - 1))
    v = sum(part for part, _ in parts)
    df = v * v / sum(part * part / nu for part, nu in parts)
    return math.sqrt(v), df, parts[-1][0] / v


def assert_interval(found, value, error, df, share):
    assert found.value == pytest.approx(value)
    assert found.df == pytest.approx(df)
    assert found.share.images == pytest.approx(share)
    assert found.interval == pytest.approx(stats.t.interval(0.95, df, value, error))
    assert found.p is None or found.p == pytest.approx(2 * stats.t.sf(abs(value) / error, df))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.fault("P6")
def test_methods_in_plain_loops_with_unequal_numbers_of_seeds(seed):
    a, b = scores(seed, (5, 7), 40)
    rows = a.tolist(), b.tolist()
    across = [fmean(x[i] for x in rows[0]) - fmean(x[i] for x in rows[1]) for i in range(40)]
    found = compare_methods(a, b)
    assert_interval(found, fmean(map(fmean, rows[0])) - fmean(map(fmean, rows[1])), *in_loops(rows, across))
    assert found.seeds == (5, 7)
    assert found.p is not None


@pytest.mark.parametrize("seed", range(5))
def test_explainers_and_means_in_plain_loops(seed):
    a, b = scores(seed, (6, 6), 40)
    rows = [[x - y for x, y in zip(*pair, strict=True)] for pair in zip(a.tolist(), b.tolist(), strict=True)]
    across = [fmean(row[i] for row in rows) for i in range(40)]
    paired = compare_explainers(a, b)
    assert_interval(paired, fmean(across), *in_loops([rows], across))
    assert paired.p is not None
    assert_interval(mean_interval(a - b), fmean(across), *in_loops([rows], across))


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_without_image_component_methods_are_compared_by_welch():
    rng = np.random.default_rng(0)
    image, seed_a, seed_b = rng.normal(size=40), rng.normal(0.5, 1, 5), rng.normal(0, 3, 8)
    found = compare_methods(seed_a[:, None] + image, seed_b[:, None] + image)
    oracle = stats.ttest_ind(seed_a, seed_b, equal_var=False)
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.df == pytest.approx(oracle.df)
    assert found.interval == pytest.approx(tuple(oracle.confidence_interval()))
    assert (found.share.seeds, found.share.images) == (1, 0)


def test_a_negative_image_component_counts_as_none():
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(5, 40)) for _ in range(2))
    # residuals that cancel over the seeds leave image means without any variance
    a, b = (x - x.mean(0) + rng.normal(size=(5, 1)) for x in (a, b))
    oracle = stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    assert compare_methods(a, b).p == pytest.approx(oracle.pvalue)


def test_without_image_component_explainers_are_compared_by_student():
    rng = np.random.default_rng(0)
    gap, base = rng.normal(0.5, 1, 6), rng.normal(size=(6, 40))
    found, oracle = compare_explainers(base + gap[:, None], base), stats.ttest_1samp(gap, 0)
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.interval == pytest.approx(tuple(oracle.confidence_interval()))


def test_without_seed_variance_the_interval_is_that_of_paired_images_and_there_is_no_p():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    oracle = tuple(stats.ttest_rel(a, b).confidence_interval())
    for found in (
        compare_methods(np.tile(a, (5, 1)), np.tile(b, (7, 1))),
        compare_explainers(np.tile(a, (5, 1)), np.tile(b, (5, 1))),
    ):
        assert found.interval == pytest.approx(oracle)
        assert (found.p, found.note) == (None, "identical across seeds")
        assert found.share.images == 1


def test_the_mean_has_the_variance_of_the_crossed_analysis_of_variance():
    x = scores(1, (6,), 20, (0.3,))[0]
    between_seeds, between_images = 20 * x.mean(1).var(ddof=1), 6 * x.mean(0).var(ddof=1)
    v = (between_seeds + between_images - residual_mean_square(x.tolist())) / x.size
    found = mean_interval(x)
    assert half_width(found) == pytest.approx(stats.t.ppf(0.975, found.df) * math.sqrt(v))


def test_numbers_without_images_are_compared_by_welch():
    a, b = [0.03, 0.05, 0.02, 0.06, 0.04, 0.05], [0.01, 0.02, 0.011, 0.013, 0.012]
    found, oracle = compare_scalars(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert (found.p, found.df) == pytest.approx((oracle.pvalue, oracle.df))
    assert found.interval == pytest.approx(tuple(oracle.confidence_interval()))
    assert (found.images, found.seeds) == (None, (6, 5))
    one = stats.ttest_1samp(a, 0).confidence_interval(0.9)
    assert scalar_interval(a, 0.9).interval == pytest.approx(tuple(one))
    assert scalar_interval(a).p is None


def test_two_checkpoints_give_an_interval_over_images_and_never_a_p():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    found = compare_checkpoints(a, b)
    assert found.interval == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval()))
    assert (found.p, found.share, found.note, found.seeds) == (None, None, IMAGES_ONLY, (1, 1))
    assert "images only" in found.note


def test_two_explainers_on_one_checkpoint_are_tested_over_images():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    a[3] = np.nan
    found, oracle = compare_on_one_checkpoint(a, b), stats.ttest_rel(np.delete(a, 3), np.delete(b, 3))
    assert found.interval == pytest.approx(tuple(oracle.confidence_interval()))
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.images, found.share, found.note, found.seeds) == (49, None, ONE_CHECKPOINT, (1, 1))
    few = compare_on_one_checkpoint(a[:20], b[:20])
    assert (few.p, few.images) == (None, 19)
    assert few.short
    assert compare_on_one_checkpoint(b, b).p is None


# --- symmetries ------------------------------------------------------------------------------------------------------

DRAWS = st.integers(0, 10_000)


@settings(deadline=None, max_examples=40)
@given(DRAWS, st.floats(-100, 100), st.floats(0.01, 100))
@pytest.mark.parametrize("compare", [compare_methods, compare_explainers])
def test_shift_scale_and_swap(compare, draw, shift, scale):
    a, b = scores(draw)
    plain = compare(a, b)
    same(plain, compare(a + shift, b + shift))
    moved = compare(a + shift, b)
    assert moved.value == pytest.approx(plain.value + shift)
    assert half_width(moved) == pytest.approx(half_width(plain))
    larger, swapped = compare(a * scale, b * scale), compare(b, a)
    assert half_width(larger) == pytest.approx(scale * half_width(plain))
    assert larger.p == pytest.approx(plain.p)
    assert swapped.interval == pytest.approx((-plain.interval[1], -plain.interval[0]))
    assert swapped.p == pytest.approx(plain.p)


@settings(deadline=None, max_examples=40)
@given(DRAWS)
def test_the_order_of_seeds_and_images_does_not_matter(draw):
    a, b = scores(draw)
    rng = np.random.default_rng(draw)
    images, rows, others = rng.permutation(30), rng.permutation(5), rng.permutation(5)
    same(compare_methods(a, b), compare_methods(a[rows][:, images], b[others][:, images]))
    same(compare_explainers(a, b), compare_explainers(a[rows][:, images], b[rows][:, images]))
    assert compare_explainers(a, b).p != pytest.approx(compare_explainers(a[np.roll(range(5), 1)], b).p)
    assert compare_methods(a, b).df != pytest.approx(compare_methods(a[:, np.roll(range(30), 1)], b).df)


@settings(deadline=None, max_examples=40)
@given(DRAWS)
def test_p_is_below_alpha_just_where_the_interval_excludes_zero(draw):
    a, b = scores(draw)
    for compare in (compare_methods, compare_explainers):
        found = compare(a, b)
        edge = compare(a, b, level=1 - found.p)
        assert min(map(abs, edge.interval)) == pytest.approx(0, abs=1e-9)
