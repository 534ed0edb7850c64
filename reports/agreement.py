"""Whether the measures agree: Kendall's τ_b over checkpoints, over images and over the methods' means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xeval.reports.collect import Group, Run
from xeval.reports.summary import Measure, cell
from xeval.statistics.agreement import kendall

Matrix = NDArray[np.float64]


def over_checkpoints(group: Group, measures: Sequence[Measure], explainer: str) -> Matrix:
    """Return τ between the measures' values of all checkpoints, better = larger; NaN where undefined."""
    values = [[_oriented(m, m.read(run, explainer).value) for run in group.runs] for m in measures]
    return _pairwise(len(measures), lambda i, j: kendall(values[i], values[j]))


def over_images(runs: Sequence[Run], measures: Sequence[Measure], explainer: str) -> Matrix:
    """Return τ between the measures' values of single images within a checkpoint, averaged over ``runs``."""
    tables = [[_images(run, measure, explainer) for measure in measures] for run in runs]

    def mean(i: int, j: int) -> float:
        found = [kendall(table[i], table[j]) for table in tables]
        known = [tau for tau in found if not math.isnan(tau)]
        return float(np.mean(known)) if known else math.nan

    return _pairwise(len(measures), mean)


def over_methods(group: Group, a: Measure, b: Measure, explainer: str) -> float:
    """Return τ between the rankings of the methods by their means."""
    means = [[_oriented(m, cell(runs, m, explainer).mean) for runs in group.methods.values()] for m in (a, b)]
    return kendall(*means)


def _oriented(measure: Measure, value: float | None) -> float:
    return math.nan if value is None else -value if measure.direction == "lower" else value


def _images(run: Run, measure: Measure, explainer: str) -> list[float]:
    values = measure.each(run, explainer) if measure.each else None
    return [] if values is None else list(-values if measure.direction == "lower" else values)


def _pairwise(n: int, value: Callable[[int, int], float]) -> Matrix:
    found = np.ones((n, n))
    for i in range(n):
        for j in range(i):
            found[i, j] = found[j, i] = value(i, j)
    return found
