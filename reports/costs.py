"""This module shows what scoring cost: time, passes and memory of each explainer and metric, from ``scores.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from xeval.reports.collect import Group, Run
from xeval.reports.schema import Cost, Spent
from xeval.reports.summary import Measure, Reading
from xeval.reports.tables import MISSING

MEGABYTE = 2**20
Part = tuple[str, str]
"""(kind, name): the maps of an explainer, what a metric needs once for all rows, or a metric's work on one row."""

CLEAN, SHARED, ROW = "maps of the clean images", "shared by all rows", "on"


@dataclass(frozen=True)
class Costs:
    """Rows (what, ms an image, passes an image, peak memory) for the page, medians over runs; ``note`` says of what."""

    rows: tuple[tuple[str, str, str, str], ...]
    note: str


def cost_measures(group: Group) -> list[Measure]:
    """Return what a map of one image costs, to stand beside an explainer's scores; none where no run recorded it."""
    if not any(run.scores.cost.images for run in group.runs):
        return []
    times = _per_image(lambda spent: 1000 * spent.seconds), _per_image(lambda spent: spent.passes)
    heads = ("ms", "milliseconds for the map of an image"), ("passes", "forward passes for the map of an image")
    return [
        Measure(f"cost.{label}", label, title, None, "cost", read, "cost of a map", places=places)
        for (label, title), read, places in zip(heads, times, (1, 0), strict=True)
    ]


def _per_image(value: Callable[[Spent], float]) -> Callable[[Run, str], Reading]:
    def read(run: Run, explainer: str) -> Reading:
        cost = run.scores.cost
        spent = cost.explainers.get(explainer)
        return Reading(value(spent) / cost.images if spent is not None and cost.images else None)

    return read


def costs(group: Group) -> Costs | None:
    """Return the cost of a group's scores; None where no run recorded any."""
    measured = [run.scores.cost for run in group.runs if run.scores.cost.images]
    if not measured:
        return None
    found: dict[Part, list[tuple[float, float, int | None]]] = {}
    for cost in measured:
        for part, spent in _parts(cost):
            each = spent.seconds / cost.images, spent.passes / cost.images, spent.peak_bytes
            found.setdefault(part, []).append(each)
    return Costs(tuple(_row(part, values) for part, values in found.items()), _note(measured))


def _parts(cost: Cost) -> Iterator[tuple[Part, Spent]]:
    for name, spent in cost.explainers.items():
        yield (CLEAN, name), spent
    for metric, about in cost.metrics.items():
        if about.shared and about.shared.passes:
            yield (SHARED, metric), about.shared
        for row, spent in about.rows.items():
            yield (f"{ROW} {row}", metric), spent


def _row(part: Part, values: list[tuple[float, float, int | None]]) -> tuple[str, str, str, str]:
    kind, name = part
    peaks = [peak for _, _, peak in values if peak is not None]
    return (
        f"{name}, {kind}",
        f"{1000 * median(seconds for seconds, _, _ in values):.3g}",
        f"{median(passes for _, passes, _ in values):.4g}",
        f"{median(peaks) / MEGABYTE:,.0f} MB" if peaks else MISSING,
    )


def _note(measured: list[Cost]) -> str:
    """Say where and how it was measured."""
    devices = ", ".join(sorted({cost.device or "an unknown device" for cost in measured}))
    batches = ", ".join(map(str, sorted({cost.batch_size or 0 for cost in measured})))
    kinds = ", ".join(sorted({cost.memory for cost in measured if cost.memory}))
    runs = f"Medians over {len(measured)} runs" if len(measured) > 1 else "One run"
    memory = f"; memory is the peak {kinds}" if kinds else ""
    return (
        f"{runs} on {devices}, batches of {batches}{memory}. What several metrics share is charged to the first that "
        "needs it."
    )
