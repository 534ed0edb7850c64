"""One table shows where each method's mean would lie for other seeds and other images like these."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from xeval.reports.captions import place, table_slug
from xeval.reports.collect import Group, Run
from xeval.reports.summary import Measure, cell, decimal_places, real_explainers
from xeval.reports.tables import Entry, Heading, Row, Table
from xeval.statistics.intervals import Estimate, mean_interval, scalar_interval


def intervals(group: Group, measures: Sequence[Measure]) -> list[Table]:
    """Make one table over the measures; none where no method has an interval."""
    explainer = next(iter(real_explainers(group)), "")
    found = {(name, m.key): interval_of(runs, m, explainer) for name, runs in group.methods.items() for m in measures}
    if not any(one.interval for one in found.values()):
        return []
    places = {m.key: decimal_places(cell(runs, m, explainer) for runs in group.methods.values()) for m in measures}
    rows = tuple(
        Row(name, tuple(_entry(group, m, found[name, m.key], places[m.key]) for m in measures), len(runs))
        for name, runs in group.methods.items()
    )
    fewer = any(entry.note for row in rows for entry in row.entries)
    notes = sorted({one.note for one in found.values() if one.note})
    caption = (
        f"Mean and 95 % interval of each method, {place(group)}: for other seeds and other images like these. The "
        "images count in full here, while in a difference of two methods what they share cancels: two of these "
        "intervals may overlap although the methods differ."
        + (" [n] = images that are defined in every run of the method, where fewer." if fewer else "")
        + (f" Where a number is missing: {'; '.join(notes)}." if notes else "")
    )
    headings = tuple(map(Heading.of, measures))
    return [Table(table_slug(group, "intervals"), "Intervals", caption, headings, rows, where=place(group))]


def interval_of(runs: Sequence[Run], measure: Measure, explainer: str) -> Estimate:
    """Estimate the mean with its interval: over seeds and images where single images are known, else over seeds."""
    rows = [measure.each(run, explainer) if measure.each else None for run in runs]
    known = [row for row in rows if row is not None]
    if known and len(known) == len(rows):
        return mean_interval(np.stack(known))
    values = cell(runs, measure, explainer).values
    return scalar_interval([math.nan if value is None else value for value in values])


def _entry(group: Group, measure: Measure, found: Estimate, places: int) -> Entry:
    value = None if math.isnan(found.value) else found.value
    fewer = found.images is not None and found.images < (measure.images or group.first.scores.dataset.n)
    note = f"[{found.images}]" if fewer else ""
    return Entry(value, n=found.images, decimals=places, interval=found.interval, note=note)
