"""Published values beside ours, where data set, method, batch size, backbone and protocol are the same.

``published.csv`` holds the numbers as printed, with their source; an empty protocol means that the number does not
depend on one (accuracy); ``version`` is the version of the protocol that computes it. Published ± are the papers' own.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xeval.reports.captions import place, table_slug
from xeval.reports.collect import Group, Run
from xeval.reports.summary import Measure, cell, column_measure, decimal_places, model_measures
from xeval.reports.tables import Entry, Heading, Row, Table

FILE = Path(__file__).parent / "published.csv"


@dataclass(frozen=True)
class Published:
    """One number of a paper and what it was measured on."""

    paper: str
    protocol: str
    version: str
    dataset: str
    arch: str
    batch: int
    method: str
    explainer: str
    column: str
    mean: float
    std: float | None
    source: str

    def matches(self, run: Run) -> bool:
        """Return whether a run is the same thing measured the same way."""
        scores, recipe = run.scores, run.card.recipe if run.card else {}
        own = (scores.dataset.name, scores.checkpoint.arch, recipe.get("batch_size"), run.method)
        same = own == (self.dataset, self.arch, self.batch, self.method)
        defined = (scores.protocol.name, str(scores.protocol.version))
        return same and (not self.protocol or (self.protocol, self.version) == defined)


@cache
def known() -> tuple[Published, ...]:
    """Read every number of the file."""
    with FILE.open(newline="", encoding="utf-8") as lines:
        return tuple(_parsed(row) for row in csv.DictReader(lines))


def _parsed(row: dict[str, str]) -> Published:
    texts = {
        name: row[name] for name in ("paper", "protocol", "version", "dataset", "arch", "method", "explainer", "column")
    }
    std = float(row["std"]) if row["std"] else None
    return Published(**texts, batch=int(row["batch"]), mean=float(row["mean"]), std=std, source=row["source"])


def published(group: Group) -> list[Table]:
    """Show ours and the papers' side by side; none where nothing matches."""
    found = {
        (name, one.explainer, one.column): one
        for name, runs in group.methods.items()
        for one in known()
        if all(one.matches(run) for run in runs) and _scored(runs, one)
    }
    columns = list(dict.fromkeys((explainer, column) for _, explainer, column in found))
    if not columns:
        return []
    measures = {key: _measure(group, key[1]) for key in columns}
    rows = [name for name in group.methods if any(key[0] == name for key in found)]
    entries = {name: [e for key in columns for e in _pair(group, name, measures[key], found, key)] for name in rows}
    sources = "; ".join(dict.fromkeys(f"{one.paper}: {one.source}" for one in found.values()))
    caption = (
        f"Beside the published numbers, {place(group)}: same data set, method, batch, backbone and protocol. Our ± "
        f"is the std (n−1) over seeds, theirs is as printed. Sources: {sources}."
    )
    headings = [h for key in columns for h in _headings(measures[key], key[0])]
    made = tuple(Row(name, tuple(entries[name])) for name in rows)
    slug = table_slug(group, "published")
    return [Table(slug, "Beside the published numbers", caption, tuple(headings), made, where=place(group))]


def _scored(runs: Sequence[Run], one: Published) -> bool:
    if not one.explainer:
        return True
    return all(one.column in run.scores.scores.get(one.explainer, {}) for run in runs)


def _measure(group: Group, column: str) -> Measure:
    networks = {measure.key: measure for measure in model_measures()}
    return networks.get(column) or column_measure(group, column)


def _headings(measure: Measure, explainer: str) -> list[Heading]:
    above = f"{explainer} {measure.label} {measure.arrow}".strip()
    return [Heading(f"{who}.{explainer}.{measure.key}", who, "", above, measure.title) for who in ("ours", "published")]


def _pair(
    group: Group,
    method: str,
    measure: Measure,
    found: dict[tuple[str, str, str], Published],
    key: tuple[str, str],
) -> tuple[Entry, Entry]:
    ours, theirs = cell(group.methods[method], measure, key[0]), found.get((method, *key))
    places = decimal_places([ours])
    other = Entry() if theirs is None else Entry(theirs.mean, theirs.std, decimals=places)
    return Entry(ours.mean, ours.std, ours.n, places), other
