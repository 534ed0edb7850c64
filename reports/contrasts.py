"""The rows of a table are compared once for a group, with intervals, tests and effect sizes.

Training methods are unpaired over seeds and crossed over images; explainers on the same checkpoints are paired. Where
a run's per-image values are missing, its seeds' means are compared and the images' share of the uncertainty is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from xeval.reports.collect import Run
from xeval.reports.summary import Measure
from xeval.statistics.effects import ImageShare, Superiority, hedges_g, image_share, superiority
from xeval.statistics.floor import shortage_of_images
from xeval.statistics.intervals import (
    IDENTICAL,
    SEEDS_FOR_P,
    Estimate,
    common_images,
    compare_checkpoints,
    compare_explainers,
    compare_methods,
    compare_on_one_checkpoint,
    compare_scalars,
    mean_of,
)
from xeval.statistics.tests import ExactTest, benjamini_yekutieli, holm, permutation_check

Matrix = NDArray[np.float64]
UNKNOWN_IMAGES = "undefined images unknown"
FEW_SEEDS = f"fewer than {SEEDS_FOR_P} seeds, so no test and no claim"


@dataclass(frozen=True)
class Sample:
    """A sample is one row's checkpoints and what explains them."""

    label: str
    runs: Sequence[Run]
    explainer: str


@dataclass(frozen=True)
class Common:
    """The images of a contrast: ``n`` are defined in every run of both rows, ``of`` in the run that has the most.

    ``means`` are those of the row and of its reference over the n images, ``own`` those that the other tables print.
    """

    n: int
    of: int
    means: tuple[float, float]
    own: tuple[float, float]

    @property
    def fewer(self) -> bool:
        """Return whether a run has values on images that the contrast leaves out."""
        return self.n < self.of

    @property
    def changed(self) -> bool:
        """Return whether less than half of a run's images is left, so that the contrast is about other images."""
        return 2 * self.n < self.of


@dataclass(frozen=True)
class Contrast:
    """``label`` − ``reference`` on one measure; ``adjusted`` is its p within the family it belongs to.

    Every number of it is over the images of ``common``, which is None where single images are not known.
    """

    label: str
    reference: str
    measure: Measure
    estimate: Estimate
    primary: bool = False
    adjusted: float | None = None
    check: ExactTest | None = None
    g: float | None = None
    a12: Superiority | None = None
    images: ImageShare | None = None
    common: Common | None = None

    def significant(self, alpha: float) -> bool:
        """Return whether the adjusted p lies below ``alpha``."""
        return self.adjusted is not None and self.adjusted < alpha


@dataclass(frozen=True)
class Analysis:
    """Contrasts of every block by (block, measure key, row label), and the rows that tie with the best.

    ``leading`` holds the measures whose best row was tested against every other row in every block, ``untested`` the
    others by key, each with the reason.
    """

    alpha: float = 0.05
    contrasts: Mapping[tuple[str, str, str], Contrast] = field(default_factory=dict)
    leading: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    untested: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str, label: str, block: str = "") -> Contrast | None:
        """Return the contrast of one row with its block's reference."""
        return self.contrasts.get((block, key, label))

    @property
    def primary(self) -> list[Contrast]:
        """Return the declared family."""
        return [found for found in self.contrasts.values() if found.primary]


def analyse(
    blocks: Mapping[str, Sequence[Sample]],
    references: Mapping[str, str],
    measures: Sequence[Measure],
    primary: Sequence[str],
    alpha: float,
    *,
    paired: bool = False,
) -> Analysis:
    """Compare every row with its block's reference on every measure, and adjust p within the declared family (Holm)
    and within the rest (Benjamini–Yekutieli). An empty ``primary`` makes everything exploratory."""
    found: dict[tuple[str, str, str], Contrast] = {}
    leading: dict[tuple[str, str], frozenset[str]] = {}
    untested: dict[str, str] = {}
    for block, samples in blocks.items():
        for measure in measures:
            data = [_Data.of_sample(sample, measure) for sample in samples]
            for one in _against(data, references[block], measure, paired):
                found[block, measure.key, one.label] = replace(one, primary=measure.key in primary)
            tied = _leading(data, measure, alpha, paired)
            if isinstance(tied, str):
                untested.setdefault(measure.key, tied)
            else:
                leading[block, measure.key] = tied
    leading = {place: tied for place, tied in leading.items() if place[1] not in untested}
    adjusted = _adjust({key: one for key, one in found.items() if one.primary}, holm)
    adjusted |= _adjust({key: one for key, one in found.items() if not one.primary}, benjamini_yekutieli)
    return Analysis(alpha, {key: replace(found[key], adjusted=p) for key, p in adjusted.items()}, leading, untested)


@dataclass(frozen=True)
class _Data:
    """The data of a row are what its checkpoints say: a number each, and where it is known, one an image.

    ``counts`` are the images behind each number, empty where it is no mean over images; ``of`` is how many there are.
    """

    label: str
    seeds: Matrix
    images: Matrix | None
    counts: tuple[int, ...]
    of: int

    @classmethod
    def of_sample(cls, sample: Sample, measure: Measure) -> _Data:
        readings = [measure.read(run, sample.explainer) for run in sample.runs]
        rows = [measure.each(run, sample.explainer) if measure.each else None for run in sample.runs]
        known = [row for row in rows if row is not None]
        seeds = np.array([math.nan if reading.value is None else reading.value for reading in readings])
        counts = tuple(reading.n for reading in readings if reading.n is not None)
        images = np.stack(known) if known and len(known) == len(rows) else None
        return cls(sample.label, seeds, images, counts, measure.images or sample.runs[0].scores.dataset.n)

    @property
    def mean(self) -> float:
        """Return the mean that the other tables print; NaN where no run has a value."""
        return mean_of(self.seeds[~np.isnan(self.seeds)])

    def over(self, images: Matrix) -> _Data:
        """Return the same row over the given images, one array a checkpoint."""
        return replace(self, seeds=images.mean(1) if images.shape[1] else np.full(len(images), math.nan), images=images)


def _against(data: Sequence[_Data], reference: str, measure: Measure, paired: bool) -> Iterator[Contrast]:
    base = next((one for one in data if one.label == reference), None)
    for one in data:
        if base is not None and one is not base and measure.direction is not None:
            yield _contrast(one, base, measure, paired)


def _contrast(row: _Data, base: _Data, measure: Measure, paired: bool) -> Contrast:
    a, b = _on_common_images(row, base)
    estimate = _estimate(a, b, paired)
    found = Contrast(row.label, base.label, measure, estimate, common=_common(row, base, a, b))
    higher = measure.direction == "higher"
    if a.images is not None and b.images is not None:
        found = replace(found, images=image_share(a.images, b.images, higher_is_better=higher))
    if paired:
        return found
    return replace(
        found,
        check=None if estimate.short else permutation_check(a.seeds, b.seeds),
        g=hedges_g(a.seeds, b.seeds),
        a12=superiority(a.seeds, b.seeds, higher_is_better=higher),
    )


def _on_common_images(a: _Data, b: _Data) -> tuple[_Data, _Data]:
    """Reduce both rows to the images that are defined in every run of both; leave them where images are unknown."""
    if a.images is None or b.images is None:
        return a, b
    first, second = common_images(a.images, b.images)
    return a.over(first), b.over(second)


def _common(row: _Data, base: _Data, a: _Data, b: _Data) -> Common | None:
    """Describe the images of a contrast of two rows, which ``a`` and ``b`` hold over their common images."""
    if row.images is None or base.images is None or a.images is None:
        return None
    most = max(int(np.isfinite(table).sum(1).max()) for table in (row.images, base.images))
    return Common(a.images.shape[1], most, (a.mean, b.mean), (row.mean, base.mean))


def _estimate(a: _Data, b: _Data, paired: bool) -> Estimate:
    if a.images is None or b.images is None:
        return compare_scalars(a.seeds, b.seeds).withheld(unknown_images((*a.counts, *b.counts), a.of))
    if len(a.images) == len(b.images) == 1:
        return (compare_on_one_checkpoint if paired else compare_checkpoints)(a.images[0], b.images[0])
    return compare_explainers(a.images, b.images) if paired else compare_methods(a.images, b.images)


def unknown_images(counts: Sequence[int], images: int) -> str:
    """Say why means over ``counts`` images, not known singly, must not be tested; empty where each is over all of them
    or none is over images."""
    if not counts:
        return ""
    return shortage_of_images(min(counts)) or ("" if min(counts) == images else UNKNOWN_IMAGES)


def _leading(data: Sequence[_Data], measure: Measure, alpha: float, paired: bool) -> frozenset[str] | str:
    """Find the best row and those not significantly worse (Holm over the rows), or nobody where that is every row.

    The reason stands in their place where a row cannot be tested against the best.
    """
    known = {one.label: one.mean for one in data if not math.isnan(one.mean)}
    seeds = min(len(one.seeds) for one in data)
    if seeds < SEEDS_FOR_P and not (paired and seeds == 1):
        return FEW_SEEDS
    if measure.direction is None or len(known) < 2:
        return "nothing to compare"
    top = (min if measure.direction == "lower" else max)(known, key=lambda label: known[label])
    best = next(one for one in data if one.label == top)
    rest = [one for one in data if one.label in known and one is not best]
    others = {one.label: _estimate(*_on_common_images(best, one), paired) for one in rest}
    if untested := [found for found in others.values() if found.p is None and found.note != IDENTICAL]:
        return untested[0].short or untested[0].note
    adjusted = dict(zip(others, holm([_p(found) for found in others.values()]), strict=True))
    worse = {label for label, p in adjusted.items() if p < alpha and measure.better(others[label].value, 0.0)}
    return frozenset(known) - worse if worse else frozenset()


def _adjust(
    family: Mapping[tuple[str, str, str], Contrast], method: Callable[[Sequence[float]], Matrix]
) -> dict[tuple[str, str, str], float | None]:
    """Adjust the p of a family; None where a comparison has none."""
    values = method([_p(found.estimate) for found in family.values()])
    return {key: None if math.isnan(p) else float(p) for key, p in zip(family, values, strict=True)}


def _p(found: Estimate) -> float:
    return math.nan if found.p is None else found.p
