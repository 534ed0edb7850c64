"""What the scores of a few trained networks say about the methods that made them: intervals and tests.

Scores of a method are a table *seeds × images*: row s holds one independently trained network's values on the same
test images as every other row; NaN marks a value that is undefined. Both the seeds and the images are samples, so the
variance of a mean has two components, and Satterthwaite's formula gives the degrees of freedom of their sum. Methods
are unpaired over seeds and crossed over images; explainers on the same checkpoints are paired over both.

F. E. Satterthwaite, Biometrics Bulletin 2 (1946) 110–114; B. L. Welch, Biometrika 34 (1947) 28–35.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from xeval.errors import DataError
from xeval.statistics.floor import shortage

Array = NDArray[np.float64]

SEEDS_FOR_INTERVAL = 3
SEEDS_FOR_P = 5
ROUNDING = 1e-12  # relative to the largest score: smaller standard errors are rounding, not spread

IDENTICAL = "identical"
NO_SPREAD = "identical across seeds"
IMAGES_ONLY = "images only; says nothing about retraining"
ONE_CHECKPOINT = "for this checkpoint; says nothing about retraining"


@dataclass(frozen=True)
class Share:
    """The shares say where the variance of an estimate comes from; the two add up to 1."""

    seeds: float
    images: float


@dataclass(frozen=True)
class Estimate:
    """An estimate is a mean, or a difference first − second, in the unit of the scores.

    ``interval``, ``p``, ``df`` and ``share`` are None where the scores cannot carry them; ``note`` then says why.
    ``value`` is NaN where nothing is defined. ``seeds`` counts the networks behind each side; ``images`` counts the
    images used, those on which every network has a value, and is None where the scores are not means over images.
    ``short`` says which floor of :mod:`xeval.statistics.floor` those images fall below; then there is no p.
    """

    value: float
    seeds: tuple[int, ...]
    images: int | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    df: float | None = None
    share: Share | None = None
    note: str = ""
    short: str = ""

    def withheld(self, short: str) -> Estimate:
        """Take the p away where ``short`` gives a reason, which becomes the note unless there is one."""
        return replace(self, p=None, short=short, note=self.note or short) if short else self


@dataclass(frozen=True)
class _Component:
    variance: float
    df: int


_NO_IMAGES = _Component(0.0, 1)


def common_images(*tables: ArrayLike) -> tuple[Array, ...]:
    """Restrict seeds × images tables to the images that are defined in every row of every table.

    Raises ValueError unless each table has two axes and a row; :class:`DataError` when the numbers of images differ or
    a score is infinite.
    """
    arrays = [np.asarray(table, dtype=np.float64) for table in tables]
    if any(array.ndim != 2 or not len(array) for array in arrays):
        raise ValueError("scores must be tables of seeds × images with at least one seed")
    counts = sorted({array.shape[1] for array in arrays})
    if len(counts) > 1:
        raise DataError(
            f"scores on {' and '.join(map(str, counts))} images cannot be compared", "score the same images"
        )
    stacked = np.concatenate(arrays)
    require_finite(stacked)
    defined = ~np.isnan(stacked).any(0)
    return tuple(array[:, defined] for array in arrays)


def compare_methods(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Compare two training methods by a − b: unpaired over seeds, crossed over images.

    ``a`` and ``b`` are seeds × images on the same images; the numbers of seeds may differ. With seed means m, image
    means of the difference D, residual mean squares r and sizes S_a, S_b, I::

        v_a = var(m_a) / S_a        v_b = var(m_b) / S_b        v_i = max(0, var(D) − r_a/S_a − r_b/S_b) / I
        v = v_a + v_b + v_i         df = v² / (v_a²/(S_a−1) + v_b²/(S_b−1) + v_i²/(I−1))

    and the interval is d ± t(df)·√v. No interval below 3 seeds on a side, no p below 5, no p without variance between
    seeds or below the floor of images and events. Raises as :func:`common_images`.
    """
    a, b = common_images(a, b)
    if min(len(a), len(b), a.shape[1]) < 2:
        return _untested(mean_of(a) - mean_of(b), (len(a), len(b)), a.shape[1]).withheld(shortage(a, b))
    noise = _residual_mean_square(a) / len(a) + _residual_mean_square(b) / len(b)
    parts = [_variance_of_mean(a.mean(1)), _variance_of_mean(b.mean(1))]
    across = _image_component(a.mean(0) - b.mean(0), noise)
    found = _estimate(mean_of(a) - mean_of(b), parts, across, a.shape[1], scale_of(a, b), level)
    return found.withheld(shortage(a, b))


def compare_explainers(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Compare two explainers (or settings) by a − b on the same checkpoints: row s of both is checkpoint s.

    :func:`mean_interval` of the differences seeds × images, with the p of a mean of zero, which the floor of images and
    events withholds. Raises as :func:`common_images`, and :class:`DataError` when the numbers of checkpoints differ.
    """
    a, b = common_images(a, b)
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} checkpoints make no pairs", "score both rows on the same checkpoints")
    return _one_sample(a - b, scale_of(a, b), level, test=True).withheld(shortage(a, b))


def compare_checkpoints(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Compare two single checkpoints (or two explainers on one) by a − b, on images like these.

    ``a`` and ``b`` hold one value an image; the interval is Student's t of the paired differences. It is conditional on
    these two files, the note says so, and there is never a p, nor a share of the seeds. Raises as
    :func:`common_images`.
    """
    a, b = common_images(np.asarray(a, dtype=np.float64)[None], np.asarray(b, dtype=np.float64)[None])
    return _two_files(a, b, level).withheld(shortage(a, b))


def compare_on_one_checkpoint(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Compare two explainers on one checkpoint by a − b, on images like these.

    The checkpoint is fixed, so the images are the sample: interval and p are those of Student's t of the paired
    differences, one value an image. The note says that both are for this checkpoint. The floor of images and events
    withholds the p. Raises as :func:`common_images`.
    """
    a, b = common_images(np.asarray(a, dtype=np.float64)[None], np.asarray(b, dtype=np.float64)[None])
    found = _two_files(a, b, level)
    if found.interval is not None and found.df is not None:
        t = abs(found.value) / _variance_of_mean((a - b)[0]).variance ** 0.5
        found = replace(found, p=float(2 * stats.t.sf(t, found.df)), note=ONE_CHECKPOINT)
    return found.withheld(shortage(a, b))


def _two_files(a: Array, b: Array, level: float) -> Estimate:
    """Estimate the difference of two tables of one row each on common images."""
    if a.shape[1] < 2:
        return _untested(mean_of(a) - mean_of(b), (1, 1), a.shape[1])
    across = _clean(_variance_of_mean((a - b)[0]), scale_of(a, b))
    value, images = mean_of(a) - mean_of(b), a.shape[1]
    if not across.variance:
        same = abs(value) <= ROUNDING * scale_of(a, b)
        return Estimate(value, (1, 1), images, note=IDENTICAL if same else "the same difference on every image")
    interval = _interval(value, across.variance, across.df, level)
    return Estimate(value, (1, 1), images, interval, None, float(across.df), None, IMAGES_ONLY)


def mean_interval(x: ArrayLike, level: float = 0.95) -> Estimate:
    """Estimate the mean of one method's scores, seeds × images, for other seeds and other images like these.

    The one-sample form of :func:`compare_methods`: v_s = var(seed means)/S, v_i = max(0, var(image means) − r/S)/I,
    with df = (v_s + v_i)² / (v_s²/(S−1) + v_i²/(I−1)). The images count in full here, while in a difference of two
    methods what is common to both cancels: two such intervals may overlap although the methods differ. No p. Raises
    as :func:`common_images`.
    """
    (x,) = common_images(x)
    return _one_sample(x, scale_of(x), level, test=False)


def compare_scalars(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Compare a − b by Welch's t where each seed gives one number that is no mean over images (ECE, k-NN, silhouette).

    Undefined (NaN) seeds are left out and ``seeds`` counts the rest. Guards as in :func:`compare_methods`. Raises
    :class:`DataError` for an infinite value.
    """
    a, b = scalars(a), scalars(b)
    if min(len(a), len(b)) < 2:
        return _untested(mean_of(a) - mean_of(b), (len(a), len(b)), None)
    parts = [_variance_of_mean(a), _variance_of_mean(b)]
    return _estimate(mean_of(a) - mean_of(b), parts, _NO_IMAGES, None, scale_of(a, b), level)


def scalar_interval(x: ArrayLike, level: float = 0.95) -> Estimate:
    """Estimate the mean of one number a seed by Student's t, without NaN. Raises as :func:`compare_scalars`."""
    x = scalars(x)
    if len(x) < 2:
        return _untested(mean_of(x), (len(x),), None)
    return _estimate(mean_of(x), [_variance_of_mean(x)], _NO_IMAGES, None, scale_of(x), level, test=False)


def _one_sample(x: Array, scale: float, level: float, *, test: bool) -> Estimate:
    seeds, images = x.shape
    if seeds < 2 or images < 2:
        return _untested(mean_of(x), (seeds,), images)
    across = _image_component(x.mean(0), _residual_mean_square(x) / seeds)
    return _estimate(mean_of(x), [_variance_of_mean(x.mean(1))], across, images, scale, level, test=test)


def _residual_mean_square(x: Array) -> float:
    """Return what neither seed nor image explains: Σ (x − row mean − column mean + mean)² / ((S−1)(I−1))."""
    rest = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
    return float((rest**2).sum() / ((x.shape[0] - 1) * (x.shape[1] - 1)))


def _variance_of_mean(values: Array) -> _Component:
    return _Component(float(values.var(ddof=1)) / len(values), len(values) - 1)


def _image_component(image_means: Array, noise: float) -> _Component:
    """Return the variance that another set of images would bring; ``noise`` is what the seeds already account for."""
    return _Component(max(0.0, float(image_means.var(ddof=1)) - noise) / len(image_means), len(image_means) - 1)


def _estimate(
    value: float,
    parts: Sequence[_Component],
    across: _Component,
    images: int | None,
    scale: float,
    level: float,
    *,
    test: bool = True,
) -> Estimate:
    """Make interval and p from the seed components ``parts`` and the image component ``across``, behind the guards."""
    seeds = tuple(part.df + 1 for part in parts)
    if min(seeds) < SEEDS_FOR_INTERVAL:
        return _untested(value, seeds, images)
    every = [_clean(part, scale) for part in (*parts, across)]
    between, total = sum(part.variance for part in every[:-1]), sum(part.variance for part in every)
    if not total:
        return Estimate(value, seeds, images, note=no_variance(value, scale) if test else NO_SPREAD)
    df = total**2 / sum(part.variance**2 / part.df for part in every)
    share = Share(between / total, every[-1].variance / total)
    note = "" if between else NO_SPREAD
    if test and not note and min(seeds) < SEEDS_FOR_P:
        note = f"p needs at least {SEEDS_FOR_P} seeds"
    p = float(2 * stats.t.sf(abs(value) / total**0.5, df)) if test and not note else None
    return Estimate(value, seeds, images, _interval(value, total, df, level), p, df, share, note)


def _interval(value: float, variance: float, df: float, level: float) -> tuple[float, float]:
    half = float(stats.t.ppf(0.5 + level / 2, df)) * variance**0.5
    return value - half, value + half


def _untested(value: float, seeds: tuple[int, ...], images: int | None) -> Estimate:
    """Return an estimate without interval, with the first reason for it."""
    if images == 0:
        return Estimate(value, seeds, images, note="no image is defined in every run")
    if images == 1:
        return Estimate(value, seeds, images, note="an interval needs at least 2 images")
    return Estimate(value, seeds, images, note=f"an interval needs at least {SEEDS_FOR_INTERVAL} seeds")


def _clean(part: _Component, scale: float) -> _Component:
    """Return the component, or zero variance where rounding alone explains it."""
    return part if part.variance > (ROUNDING * scale) ** 2 else _Component(0.0, part.df)


def no_variance(difference: float, scale: float) -> str:
    """Say what two sides are that do not vary at all, given their difference."""
    return IDENTICAL if abs(difference) <= ROUNDING * scale else NO_SPREAD


def scalars(values: ArrayLike) -> Array:
    """Return the defined values of one number a seed.

    Raises ValueError for another shape and :class:`DataError` for infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError("one number a seed is needed")
    require_finite(array)
    return array[~np.isnan(array)]


def require_finite(*arrays: Array) -> None:
    """Raise :class:`DataError` if a value is infinite; NaN is allowed."""
    if any(np.isinf(array).any() for array in arrays):
        raise DataError("a score is infinite", "score the run again; results must be finite or undefined")


def mean_of(values: Array) -> float:
    """Return the mean, and NaN of nothing without a warning."""
    return float(values.mean()) if values.size else math.nan


def scale_of(*arrays: Array) -> float:
    """Return the largest absolute value, against which rounding is measured; 0 of nothing. NaN is passed over."""
    return max((float(np.nanmax(np.abs(array))) for array in arrays if not np.isnan(array).all()), default=0.0)
