"""Comparisons: by hand, in plain loops, against scipy's closed forms, and under symmetries."""

import math
from fractions import Fraction
from itertools import combinations, product
from statistics import fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from tests import simulated
from tests.commands import ROOT
from xeval.errors import DataError
from xeval.statistics.effects import detectable_difference, hedges_g, image_share, superiority
from xeval.statistics.intervals import (
    IMAGES_ONLY,
    common_images,
    compare_checkpoints,
    compare_explainers,
    compare_methods,
    compare_scalars,
    mean_interval,
    scalar_interval,
)
from xeval.statistics.tests import (
    benjamini_yekutieli,
    family_limit,
    holm,
    largest_family,
    permutation_check,
    smallest_permutation_p,
    smallest_sign_flip_p,
    wilcoxon_check,
)

PAGE = (ROOT / "docs" / "statistics.md").read_text()

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division

RISING = np.array([[1.0, 2], [3, 4], [5, 6]])
STILL = np.array([[0.0, 3], [0, 3], [0, 3]])


def scores(seed, seeds=(5, 5), images=30, spread=(0.1, 0.1)):
    return simulated.gaussian(np.random.default_rng(seed), seeds, images, spread)


def half_width(estimate):
    low, high = estimate.interval
    return (high - low) / 2


# --- by hand ---------------------------------------------------------------------------------------------------------


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


def residual_mean_square(x):
    seeds, images = range(len(x)), range(len(x[0]))
    total = 0.0
    for s, i in product(seeds, images):
        row, column = fmean(x[s]), fmean(x[t][i] for t in seeds)
        total += (x[s][i] - row - column + fmean(map(fmean, x))) ** 2
    return total / (len(seeds) - 1) / (len(images) - 1)


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
    a, b = scores(seed, (5, 7), 12)
    rows = a.tolist(), b.tolist()
    across = [fmean(x[i] for x in rows[0]) - fmean(x[i] for x in rows[1]) for i in range(12)]
    found = compare_methods(a, b)
    assert_interval(found, fmean(map(fmean, rows[0])) - fmean(map(fmean, rows[1])), *in_loops(rows, across))
    assert found.seeds == (5, 7)
    assert found.p is not None


@pytest.mark.parametrize("seed", range(5))
def test_explainers_and_means_in_plain_loops(seed):
    a, b = scores(seed, (6, 6), 12)
    rows = [[x - y for x, y in zip(*pair, strict=True)] for pair in zip(a.tolist(), b.tolist(), strict=True)]
    across = [fmean(row[i] for row in rows) for i in range(12)]
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
    a, b = (rng.normal(size=(5, 8)) for _ in range(2))
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
    assert (found.p, found.note, found.seeds) == (None, IMAGES_ONLY, (1, 1))
    assert "images only" in found.note


# --- symmetries ------------------------------------------------------------------------------------------------------

DRAWS = st.integers(0, 10_000)


def same(x, y):
    assert x.value == pytest.approx(y.value, abs=1e-9)
    assert x.interval == pytest.approx(y.interval, abs=1e-9)
    assert (x.p, x.df, x.share.seeds) == pytest.approx((y.p, y.df, y.share.seeds), rel=1e-6)


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


# --- undefined values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [compare_methods, compare_explainers])
def test_only_images_defined_in_every_row_of_both_count(compare):
    a, b = scores(0)
    holed, other = a.copy(), b.copy()
    holed[2, 4] = other[0, 9] = other[1, 4] = np.nan
    rest = [i for i in range(30) if i not in (4, 9)]
    found = compare(holed, other)
    same(found, compare(a[:, rest], b[:, rest]))
    assert found.images == 28
    assert image_share(holed, other, higher_is_better=True).images == 28


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
    with pytest.raises(DataError, match="6 and 7 checkpoints"):
        wilcoxon_check(range(6), range(7))
    with pytest.raises(DataError, match="infinite"):
        wilcoxon_check([np.inf] * 6, [np.inf] * 6)
    for wrong in (np.ones(3), np.ones((0, 3))):
        with pytest.raises(ValueError, match="seeds × images"):
            common_images(wrong)
    with pytest.raises(ValueError, match="one number a seed"):
        compare_scalars(np.ones((2, 2)), [1])


# --- guards ----------------------------------------------------------------------------------------------------------


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
    assert wilcoxon_check(b[:, 0], b[:, 0]).note == "identical"
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


# --- exact checks ----------------------------------------------------------------------------------------------------


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


def test_wilcoxon_counts_sign_flips_and_needs_six_checkpoints():
    difference = [0.3, -0.1, 0.5, 0.7, 0.2, 0.9]
    ranks = stats.rankdata(np.abs(difference))
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in product((0, 1), repeat=6)]
    observed = sum(r for r, d in zip(ranks, difference, strict=True) if d > 0)
    found = wilcoxon_check(np.add(difference, 4), np.full(6, 4.0))
    assert found.p == pytest.approx(2 * fmean(total >= observed for total in sums))
    assert wilcoxon_check(range(1, 7), np.zeros(6)).p == found.smallest_p == pytest.approx(2 / 64)
    few = wilcoxon_check([*range(1, 6), np.nan], np.zeros(6))
    assert (few.p, few.smallest_p) == (None, 2 / 32)
    assert "at least 6 checkpoints" in few.note


# --- families --------------------------------------------------------------------------------------------------------


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


# --- what few seeds can show -----------------------------------------------------------------------------------------

LIMITS = {  # sign flip, permutation, largest family, detectable d for 1, 5 and 10 comparisons
    3: (0.250, 0.100, 0, 3.07, 4.80, 5.76),
    5: (0.0625, 0.0079, 6, 2.02, 2.74, 3.08),
    6: (0.031, 0.0022, 23, 1.80, 2.38, 2.63),
    8: (0.0078, 0.00016, 321, 1.51, 1.94, 2.13),
    10: (0.0020, 0.00001, 4618, 1.32, 1.69, 1.84),
}


@pytest.mark.parametrize("n", LIMITS)
def test_the_limits_of_few_seeds(n):
    flip, permutation, family, *detectable = LIMITS[n]
    assert smallest_sign_flip_p(n) == pytest.approx(flip, rel=0.03)
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


# --- effect sizes ----------------------------------------------------------------------------------------------------


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


def test_the_share_of_images_compares_seed_averages():
    a = np.array([[1.0, 5, 2, 0], [3, 5, 2, 0]])  # means 2 5 2 0
    b = np.array([[1.5, 4, 2, 1]])
    found = image_share(a, b, higher_is_better=True)
    assert (found.better, found.tied, found.images) == (0.5, 0.25, 4)
    assert image_share(a, b, higher_is_better=False).better == 0.25


# --- simulation ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("P9")
def test_coverage_and_false_alarms_quickly():
    # 1,000 repetitions: four standard errors are .028
    found = simulated.measure(simulated.SCENARIOS[0], 1000)
    assert 0.922 <= found.coverage <= 0.978
    assert found.false_alarms <= 0.078


@pytest.mark.fault("P9")
def test_a_planted_difference_of_three_standard_deviations_is_found():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a, b = simulated.gaussian(rng, (5, 5), 2000, (0.05, 0.05), own=0.0)
        found.append(compare_methods(a + 3 * 0.05, b).p)
    # Student's power at 8 degrees of freedom, with the residuals' part in the spread of seed means: .984
    noncentral = (3 * 0.05) ** 2 * 2.5 / (0.05**2 + 0.2**2 / 2000)
    power = 1 - special.ncfdtr(1, 8, noncentral, stats.t.isf(0.025, 8) ** 2)
    assert np.mean(np.less(found, 0.05)) > power - 4 * math.sqrt(power * (1 - power) / 300)


def documented(scenario):
    """The coverage that docs/statistics.md states."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {scenario.about} |")]
    return float(line.split("|")[2])


@pytest.mark.parametrize("n", LIMITS)
def test_the_page_states_the_limits_that_are_computed(n):
    flip, permutation, family, *detectable = LIMITS[n]
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {n} | 0.")]
    assert [float(cell) for cell in line.split("|")[2:-1]] == [flip, permutation, family, *detectable]


def test_the_page_states_every_scenario():
    assert all(documented(scenario) >= 0.9 for scenario in simulated.SCENARIOS + simulated.LIMITS)


@pytest.mark.slow
@pytest.mark.fault("P9")
@pytest.mark.parametrize("scenario", simulated.SCENARIOS, ids=lambda scenario: scenario.about)
def test_coverage_and_false_alarms(scenario):
    found = simulated.measure(scenario, 10_000)
    assert 0.93 <= found.coverage <= 0.97
    assert not found.false_alarms > 0.08
    assert found.coverage == pytest.approx(documented(scenario), abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", simulated.LIMITS, ids=lambda scenario: scenario.about)
def test_the_documented_limits_are_where_they_are_said_to_be(scenario):
    found = simulated.measure(scenario, 10_000)
    assert 0.90 <= found.coverage < 0.94
    assert not found.false_alarms > 0.10
    assert found.coverage == pytest.approx(documented(scenario), abs=0.005)


@pytest.mark.slow
def test_a_holm_family_of_methods_with_one_reference_keeps_its_level():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(4000):
        reference, *others = simulated.gaussian(rng, (5,) * 6, 300, (0.02, 0.02, 0.05, 0.05, 0.01, 0.0))
        alarms.append(holm([compare_methods(other, reference).p for other in others]).min() < 0.05)
    assert np.mean(alarms) <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "served"), [(1, (0.9, 1)), (3, (0.4, 0.7)), (100, (0, 0.001))])
def test_the_permutation_check_keeps_its_level_and_withholds_itself(ratio, served):
    rng = np.random.default_rng(0)
    p = [permutation_check(rng.normal(size=5), rng.normal(0, ratio, 5)).p for _ in range(6000)]
    given = [x for x in p if x is not None]
    assert served[0] <= len(given) / 6000 <= served[1]
    assert sum(x < 0.05 for x in given) / 6000 <= 0.06  # of all runs: where it is withheld it claims nothing


@pytest.mark.slow
def test_wilcoxon_keeps_its_level():
    rng = np.random.default_rng(0)
    p = [wilcoxon_check(rng.normal(size=6), rng.normal(size=6)).p for _ in range(4000)]
    assert np.mean(np.less(p, 0.05)) == pytest.approx(2 / 64, abs=0.011)
