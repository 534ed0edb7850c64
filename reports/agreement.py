"""Whether the measures agree: Kendall's τ_b over checkpoints, over images and over the means of the rows.

And whether explainers do: τ_b of their scores over images, and the rank correlation of their maps over pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xeval.reports.collect import Group, Run
from xeval.reports.rows import Line
from xeval.reports.strips import enlarged
from xeval.reports.summary import Measure, cell
from xeval.scoring.gallery import Pictures
from xeval.statistics.agreement import kendall, mean_of_known, spearman

Matrix = NDArray[np.float64]


def over_checkpoints(group: Group, measures: Sequence[Measure], explainer: str) -> Matrix:
    """Return τ between the measures' values of all checkpoints, better = larger; NaN where undefined."""
    values = [[_oriented(m, m.read(run, explainer).value) for run in group.runs] for m in measures]
    return _pairwise(len(measures), lambda i, j: kendall(values[i], values[j]))


def over_images(runs: Sequence[Run], measures: Sequence[Measure], explainer: str) -> Matrix:
    """Return τ between the measures' values of single images within a checkpoint, averaged over ``runs``."""
    return _averaged(len(measures), [[_images(run, measure, explainer) for measure in measures] for run in runs])


def _averaged(n: int, tables: Sequence[Sequence[Sequence[float]]]) -> Matrix:
    """Return τ between the n lists of each table, averaged over the tables in which it is defined."""
    return mean_of_known([_pairwise(n, lambda i, j, table=table: kendall(table[i], table[j])) for table in tables])  # type: ignore[misc]


def over_methods(group: Group, a: Measure, b: Measure, explainer: str) -> float:
    """Return τ between the rankings of the methods by their means."""
    lines = [Line(method, runs, explainer) for method, runs in group.methods.items()]
    return float(over_rows(lines, (a, b))[0, 1])


def over_rows(lines: Sequence[Line], measures: Sequence[Measure]) -> Matrix:
    """Return τ between the measures' means of all rows, better = larger; NaN where undefined."""
    means = [[_oriented(m, cell(line.runs, m, line.explainer).mean) for line in lines] for m in measures]
    return _pairwise(len(measures), lambda i, j: kendall(means[i], means[j]))


def between_scores(lines: Sequence[Line], measure: Measure) -> Matrix:
    """Return τ between the rows' values of single images within a checkpoint, averaged over the checkpoints."""
    tables = [[_images(run, measure, line.explainer) for line in lines] for run in lines[0].runs]
    return _averaged(len(lines), tables)


def between_maps(pool: Pictures) -> Matrix:
    """Return Spearman's correlation over pixels between the maps of all rows of a pool, averaged over its images.

    Maps are enlarged to the images' size as they are for scoring. NaN where one is constant or has no number.
    """
    size = (pool.pixels.shape[2], pool.pixels.shape[3])
    maps = np.stack([enlarged(row.maps, size).reshape(len(pool.ids), -1) for row in pool.rows.values()], 1)
    return mean_of_known([spearman(of_one) for of_one in maps])


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
