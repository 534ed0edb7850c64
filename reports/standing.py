"""This module compares an explainer with the controls that it must beat on the same checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xeval.reports.collect import Group, Run
from xeval.reports.contrasts import unknown_images
from xeval.reports.summary import Measure, controls
from xeval.statistics.intervals import Estimate, compare_checkpoints, compare_explainers, scalar_interval

#: In these families an explainer must beat the controls below to mean anything.
MUST_BEAT_CONTROLS = frozenset({"faithfulness", "localisation"})
FLOORS = ("random", "random-cam", "centre")


@dataclass(frozen=True)
class Standing:
    """The floors that an explainer is not shown to beat; ``short`` says why that could not be asked of all of them."""

    lost: tuple[str, ...] = ()
    short: str = ""


def standing(group: Group, runs: Sequence[Run], measure: Measure, explainer: str) -> Standing:
    """Compare an explainer with every floor that was scored, where the measure is one on which it must beat them."""
    if measure.direction is None or measure.is_gain or measure.family not in MUST_BEAT_CONTROLS:
        return Standing()
    key = (runs[0].method, measure.key, explainer)
    if key not in group.known:
        group.known[key] = _standing(group, runs, measure, explainer)
    found: Standing = group.known[key]
    return found


def _standing(group: Group, runs: Sequence[Run], measure: Measure, explainer: str) -> Standing:
    found = {name: gap(runs, measure, explainer, name) for name in FLOORS if name in controls(group)}
    lost = tuple(name for name, one in found.items() if not one.short and _is_lost(measure, one))
    return Standing(lost, next((one.short for one in found.values() if one.short), ""))


def gap(runs: Sequence[Run], measure: Measure, explainer: str, control: str) -> Estimate:
    """Estimate the paired difference explainer − control, over single images where known, else over checkpoints."""
    pairs = [(measure.each(run, explainer), measure.each(run, control)) for run in runs] if measure.each else []
    known = [(own, floor) for own, floor in pairs if own is not None and floor is not None]
    if not known or len(known) < len(runs):
        return _gap_of_means(runs, measure, explainer, control)
    own, floor = (np.stack(side) for side in zip(*known, strict=True))
    return compare_checkpoints(own[0], floor[0]) if len(known) == 1 else compare_explainers(own, floor)


def _gap_of_means(runs: Sequence[Run], measure: Measure, explainer: str, control: str) -> Estimate:
    readings = [(measure.read(run, explainer), measure.read(run, control)) for run in runs]
    known = [(own.value, floor.value) for own, floor in readings if own.value is not None and floor.value is not None]
    counts = [reading.n for pair in readings for reading in pair if reading.n is not None]
    found = scalar_interval([own - floor for own, floor in known])
    return found.withheld(unknown_images(counts, measure.images or runs[0].scores.dataset.n))


def _is_lost(measure: Measure, found: Estimate) -> bool:
    """Return whether the interval is not wholly on the better side; without an interval, whether the mean is not."""
    if math.isnan(found.value):
        return False
    low, high = found.interval or (found.value, found.value)
    return not (measure.better(low, 0.0) and measure.better(high, 0.0))
