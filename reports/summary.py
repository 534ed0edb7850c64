"""Means over seeds are the numbers behind every table, figure and sentence.

A cell is one measure of one method under one explainer. Its values are one per seed (each a mean over images); the
spread is the standard deviation with n − 1 over the seeds, never over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from xeval.errors import DataError
from xeval.reports.collect import Group, Run
from xeval.reports.schema import Direction, Subset
from xeval.reports.text import clean


@dataclass(frozen=True)
class Reading:
    """One checkpoint's value: mean over ``n`` images with its standard error over images."""

    value: float | None
    n: int | None = None
    se: float | None = None


Matrix = NDArray[np.float64]
#: Papers print the columns of these families that lie between 0 and 1 in %, and those that are relative to p0.
SHARES = frozenset({"faithfulness", "localisation", "model"})
RELATIVE = frozenset({"drop.mag", "increase.mag"})


@dataclass(frozen=True)
class Measure:
    """A measure can be read off a scored run, and says which direction is better.

    ``each`` gives one value per counted image (NaN = undefined), None where the run did not keep them; a measure
    without it is no mean over images.
    """

    key: str
    label: str
    title: str
    direction: Direction | None
    family: str
    read: Callable[[Run, str], Reading]
    group: str = ""
    is_gain: bool = False
    images: int | None = None  # how many images count, where that is not all of them
    each: Callable[[Run, str], Matrix | None] | None = None
    share: bool = False  # a part of 1, which may be printed in %
    places: int | None = None  # decimals, where the standard error does not say how many

    @property
    def arrow(self) -> str:
        """Return ↓ where lower is better, ↑ where higher is better."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.direction]

    def better(self, a: float, b: float) -> bool:
        """Return whether ``a`` is strictly better than ``b``; never where the measure has no direction."""
        return (a < b) if self.direction == "lower" else (a > b) if self.direction == "higher" else False


@dataclass(frozen=True)
class Cell:
    """A cell holds one value per seed."""

    values: tuple[float | None, ...]
    n: int | None = None  # fewest images behind a value over the seeds
    se: float | None = None  # of the only value, where there is one seed

    @property
    def defined(self) -> list[float]:
        """Return the values that exist."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Return the mean over the seeds that have a value."""
        return fmean(self.defined) if self.defined else None

    @property
    def std(self) -> float | None:
        """Return the standard deviation over seeds, ddof = 1; undefined below two seeds."""
        return stdev(self.defined) if len(self.defined) > 1 else None


def real_explainers(group: Group) -> list[str]:
    """Return the explainers that compete, in the order they were scored."""
    return [name for name, explainer in group.first.scores.explainers.items() if not explainer.control]


def controls(group: Group) -> list[str]:
    """Return the reference explainers, which are never ranked and never bold."""
    return [name for name, explainer in group.first.scores.explainers.items() if explainer.control]


def cell(runs: Sequence[Run], measure: Measure, explainer: str) -> Cell:
    """Read the measure on every seed of one method."""
    readings = [measure.read(run, explainer) for run in runs]
    counts = [reading.n for reading in readings if reading.n is not None]
    alone = readings[0].se if len(readings) == 1 else None
    return Cell(tuple(reading.value for reading in readings), min(counts, default=None), alone)


def column_measure(group: Group, key: str, subset: Subset | None = None) -> Measure:
    """Return the measure that reads the score column ``key`` over a subset of the images, by default the protocol's."""
    column = group.first.scores.columns[key]
    chosen = subset or group.subset
    read = {"all": _over_all, "correct": _over_correct, "correct-under-all": _over_common}[chosen](group, key)
    counted = _common(group) if chosen == "correct-under-all" else None
    return Measure(
        key,
        column_label(key),
        column.title or key,
        column.direction,
        column.family,
        read,
        images=None if counted is None else int(counted.sum()),
        each=None if chosen == "correct" else _each(key, counted),
        share=key.partition("@")[0] in RELATIVE or (column.family in SHARES and column.range == (0, 1)),
    )


def _each(key: str, counted: NDArray[np.bool_] | None) -> Callable[[Run, str], Matrix | None]:
    def each(run: Run, explainer: str) -> Matrix | None:
        if run.images is None or key not in run.scores.scores.get(explainer, {}):
            return None
        values = run.images.values(explainer, key)
        return values if counted is None else values[counted]

    return each


def _over_all(_group: Group, key: str) -> Callable[[Run, str], Reading]:
    def read(run: Run, explainer: str) -> Reading:
        score = run.scores.scores.get(explainer, {}).get(key)
        return Reading(score.mean, score.n, score.se) if score else Reading(None)

    return read


def _over_correct(_group: Group, key: str) -> Callable[[Run, str], Reading]:
    def read(run: Run, explainer: str) -> Reading:
        score = run.scores.scores.get(explainer, {}).get(key)
        return Reading(score.mean_correct, score.n_correct) if score else Reading(None)

    return read


def _over_common(group: Group, key: str) -> Callable[[Run, str], Reading]:
    each = _each(key, _common(group))

    def read(run: Run, explainer: str) -> Reading:
        values = each(run, explainer)
        return Reading(None) if values is None else _reading(values[np.isfinite(values)])

    return read


def _reading(values: NDArray[np.float64]) -> Reading:
    n = len(values)
    if not n:
        return Reading(None, 0)
    return Reading(float(values.mean()), n, float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None)


def _common(group: Group) -> NDArray[np.bool_]:
    """Return the images that every checkpoint classifies correctly; raises DataError where nobody knows."""
    if group.correct_under_all is None:
        lacking = next(run.path for run in group.runs if run.images is None)
        raise DataError(f"{clean(lacking)} has no per-image scores", "score the checkpoint again")
    return group.correct_under_all


def gain_measure(base: Measure, control: str) -> Measure:
    """Measure how much better than a control on the same checkpoint; positive is better, whatever the base's direction.

    It is over the images on which both are defined; where single images are unknown, the difference of the two means.
    """
    sign = -1.0 if base.direction == "lower" else 1.0

    def each(run: Run, explainer: str) -> Matrix | None:
        own, floor = (base.each(run, name) if base.each else None for name in (explainer, control))
        return None if own is None or floor is None else sign * (own - floor)

    def read(run: Run, explainer: str) -> Reading:
        own, floor = base.read(run, explainer), base.read(run, control)
        if own.value is None or floor.value is None:
            return Reading(None)
        complete = own.n == floor.n == (base.images or run.scores.dataset.n)
        if not complete and (values := each(run, explainer)) is not None:
            return _reading(values[np.isfinite(values)])
        return Reading(sign * (own.value - floor.value), own.n, own.se)

    title = f"{base.title}: gain over {control}"
    key = f"gain[{control}].{base.key}"
    label = f"gain over {control}"
    return Measure(key, label, title, "higher", base.family, read, base.label, True, base.images, each, base.share)


_CALIBRATION: tuple[tuple[str, str, str, Direction | None], ...] = (
    ("p0", "confidence", "mean softmax of the predicted class", None),
    ("ece", "ECE", "expected calibration error", "lower"),
)


def model_measures() -> list[Measure]:
    """Return the confounders that belong beside every explanation score."""
    return [
        Measure(
            "model.accuracy",
            "accuracy",
            "top-1 accuracy on the scored images",
            "higher",
            "model",
            _accuracy,
            each=_correct,
            share=True,
        ),
        *(
            Measure(f"model.{name}", label, title, direction, "model", _of_model(name), share=True)
            for name, label, title, direction in _CALIBRATION
        ),
    ]


def _accuracy(run: Run, _: str) -> Reading:
    value, n = run.scores.model.accuracy, run.scores.dataset.n
    return Reading(value, None, math.sqrt(value * (1 - value) / n) if value is not None and n else None)


def _correct(run: Run, _: str) -> Matrix | None:
    return None if run.images is None else run.images.correct.astype(np.float64)


def _of_model(name: str) -> Callable[[Run, str], Reading]:
    def read(run: Run, _: str) -> Reading:
        value: float | None = getattr(run.scores.model, name)
        return Reading(value)

    return read


def embedding_measures() -> list[Measure]:
    """Return the numbers of the feature space itself, as no claim may rest on a two-dimensional picture."""
    named = (
        ("separation_ratio", "masked shift", "distance original–masked over distance between class centroids", "lower"),
        ("knn_accuracy", "k-NN", "k-NN accuracy in the feature space", "higher"),
        ("silhouette", "silhouette", "silhouette of the classes in the feature space", "higher"),
    )
    return [
        Measure(f"embedding.{name}", label, title, direction, "embedding", _of_embedding(name))  # type: ignore[arg-type]
        for name, label, title, direction in named
    ]


def _of_embedding(name: str) -> Callable[[Run, str], Reading]:
    return lambda run, _: Reading(run.artifacts.embedding.get(name) if run.artifacts else None)


def column_label(key: str) -> str:
    """Turn ``drop.mag@0.45`` into ``drop mag 45 %`` (with a space that does not break)."""
    name, _, parameter = key.partition("@")
    words = name.removesuffix(".value").replace(".", " ").replace("_", " ")
    try:
        return f"{words} {float(parameter) * 100:g}\u00a0%" if parameter else words
    except ValueError:
        return f"{words} {parameter}"


def best(cells: Iterable[Cell], direction: Direction | None, decimals: int) -> list[bool]:
    """Say which cells hold the best mean: means that print alike are all best, and where all
    print alike nobody has it."""
    means = [cell.mean for cell in cells]
    known = [mean for mean in means if mean is not None]
    printed = [f"{mean:.{decimals}f}" for mean in known]
    if direction is None or len(set(printed)) < 2:
        return [False] * len(means)
    top = f"{(min if direction == 'lower' else max)(known):.{decimals}f}"
    return [mean is not None and f"{mean:.{decimals}f}" == top for mean in means]


def decimal_places(cells: Iterable[Cell]) -> int:
    """Return the decimals that show two digits of the median standard error, one number for a column, 2 to 4."""
    errors = sorted(error for error in map(_standard_error, cells) if error)
    if not errors:
        return 3
    return min(4, max(2, 1 - math.floor(math.log10(errors[len(errors) // 2]))))


def _standard_error(cell: Cell) -> float | None:
    return cell.std / math.sqrt(len(cell.defined)) if cell.std is not None else cell.se


def stability(runs: Sequence[Run], column: str) -> float | None:
    """Average over the epochs that all seeds have the standard deviation over seeds of a training curve."""
    series = [run.history.get(column, ()) for run in runs]
    if len(series) < 2:
        return None
    spreads = [stdev(values) for values in zip(*series, strict=False) if _all_known(values)]
    return fmean(spreads) if spreads else None


def _all_known(values: Sequence[float | None]) -> bool:
    return all(value is not None for value in values)


def relabel(measure: Measure, label: str, group: str = "") -> Measure:
    """Return the same measure under another heading."""
    return replace(measure, label=label, group=group)
