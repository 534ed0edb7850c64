"""Differences between the rows of a table, with intervals, tests and effect sizes, computed once for a group.

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
from xeval.statistics.intervals import (
    IDENTICAL,
    SEEDS_FOR_P,
    Estimate,
    compare_checkpoints,
    compare_explainers,
    compare_methods,
    compare_scalars,
)
from xeval.statistics.tests import ExactTest, benjamini_yekutieli, holm, permutation_check

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One row's checkpoints and what explains them."""

    label: str
    runs: Sequence[Run]
    explainer: str


@dataclass(frozen=True)
class Contrast:
    """``label`` − ``reference`` on one measure; ``adjusted`` is its p within the family it belongs to."""

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

    def significant(self, alpha: float) -> bool:
        """Whether the adjusted p lies below ``alpha``."""
        return self.adjusted is not None and self.adjusted < alpha


@dataclass(frozen=True)
class Analysis:
    """Contrasts of every block by (block, measure key, row label), and the rows that tie with the best."""

    alpha: float = 0.05
    contrasts: Mapping[tuple[str, str, str], Contrast] = field(default_factory=dict)
    leading: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def of(self, key: str, label: str, block: str = "") -> Contrast | None:
        """The contrast of one row with its block's reference."""
        return self.contrasts.get((block, key, label))

    @property
    def primary(self) -> list[Contrast]:
        """The declared family."""
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
    for block, samples in blocks.items():
        for measure in measures:
            data = [_Data.of(sample, measure) for sample in samples]
            for one in _against(data, references[block], measure, paired):
                found[block, measure.key, one.label] = replace(one, primary=measure.key in primary)
            if (tied := _leading(data, measure, alpha, paired)) is not None:
                leading[block, measure.key] = tied
    adjusted = _adjust({key: one for key, one in found.items() if one.primary}, holm)
    adjusted |= _adjust({key: one for key, one in found.items() if not one.primary}, benjamini_yekutieli)
    return Analysis(alpha, {key: replace(found[key], adjusted=p) for key, p in adjusted.items()}, leading)


@dataclass(frozen=True)
class _Data:
    """What one row's checkpoints say: a number each, and where it is known, one an image."""

    label: str
    seeds: Matrix
    images: Matrix | None

    @classmethod
    def of(cls, sample: Sample, measure: Measure) -> _Data:
        values = [measure.read(run, sample.explainer).value for run in sample.runs]
        rows = [measure.each(run, sample.explainer) if measure.each else None for run in sample.runs]
        known = [row for row in rows if row is not None]
        seeds = np.array([math.nan if value is None else value for value in values])
        return cls(sample.label, seeds, np.stack(known) if known and len(known) == len(rows) else None)


def _against(data: Sequence[_Data], reference: str, measure: Measure, paired: bool) -> Iterator[Contrast]:
    base = next((one for one in data if one.label == reference), None)
    for one in data:
        if base is not None and one is not base and measure.direction is not None:
            yield _contrast(one, base, measure, paired)


def _contrast(a: _Data, b: _Data, measure: Measure, paired: bool) -> Contrast:
    higher = measure.direction == "higher"
    return Contrast(
        a.label,
        b.label,
        measure,
        _estimate(a, b, paired),
        check=None if paired else permutation_check(a.seeds, b.seeds),
        g=None if paired else hedges_g(a.seeds, b.seeds),
        a12=None if paired else superiority(a.seeds, b.seeds, higher_is_better=higher),
        images=None
        if a.images is None or b.images is None
        else image_share(a.images, b.images, higher_is_better=higher),
    )


def _estimate(a: _Data, b: _Data, paired: bool) -> Estimate:
    if a.images is None or b.images is None:
        return compare_scalars(a.seeds, b.seeds)
    if len(a.images) == len(b.images) == 1:
        return compare_checkpoints(a.images[0], b.images[0])
    return compare_explainers(a.images, b.images) if paired else compare_methods(a.images, b.images)


def _leading(data: Sequence[_Data], measure: Measure, alpha: float, paired: bool) -> frozenset[str] | None:
    """The best row and those not significantly worse (Holm over the rows), nobody where all are identical; None where
    nothing can be tested."""
    known = {one.label: float(np.nanmean(one.seeds)) for one in data if not np.isnan(one.seeds).all()}
    if measure.direction is None or len(known) < 2 or min(len(one.seeds) for one in data) < SEEDS_FOR_P:
        return None
    top = (min if measure.direction == "lower" else max)(known, key=lambda label: known[label])
    best = next(one for one in data if one.label == top)
    others = {one.label: _estimate(best, one, paired) for one in data if one.label in known and one is not best}
    if all(found.note == IDENTICAL for found in others.values()):
        return frozenset()
    adjusted = holm([_p(found) for found in others.values()])
    tied = [label for label, p in zip(others, adjusted, strict=True) if p >= alpha or others[label].note == IDENTICAL]
    return frozenset({top, *tied})


def _adjust(
    family: Mapping[tuple[str, str, str], Contrast], method: Callable[[Sequence[float]], Matrix]
) -> dict[tuple[str, str, str], float | None]:
    """Adjusted p of a family; None where a comparison has none."""
    values = method([_p(found.estimate) for found in family.values()])
    return {key: None if math.isnan(p) else float(p) for key, p in zip(family, values, strict=True)}


def _p(found: Estimate) -> float:
    return math.nan if found.p is None else found.p
