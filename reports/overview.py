"""Some figures show several measures at once: differences with intervals, ranks, and whether the measures agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xeval.reports.agreement import Matrix, over_checkpoints, over_images, over_rows
from xeval.reports.captions import place
from xeval.reports.contrasts import Analysis, Contrast
from xeval.reports.drawing import COLUMN, PAGE, Figure, Look, axes, finish, looks
from xeval.reports.rows import Block, Line
from xeval.reports.summary import Measure, cell
from xeval.reports.text import clean, number, plot_label
from xeval.statistics.intervals import IMAGES_ONLY, ONE_CHECKPOINT


def forest(block: Block, analysis: Analysis, measures: Sequence[Measure]) -> Figure | None:
    """Draw every row's difference to the reference with its interval, one pane a measure."""
    found = {
        (measure.key, label): one
        for measure in measures
        for label in block.labels
        if (one := analysis.of(measure.key, label, block.name))
    }
    shown = [measure for measure in measures if any(key == measure.key for key, _ in found)]
    others = [label for label in block.labels if any(label == row for _, row in found)]
    if not shown:
        return None
    figure, panes = axes(1, len(shown), PAGE, 0.75 + 0.27 * len(others), sharey=True)
    for axis, measure in zip(panes, shown, strict=True):
        axis.axvline(0, color="black", linewidth=0.8, zorder=1)
        for y, label in enumerate(others):
            _difference(axis, y, found.get((measure.key, label)), looks(block.labels)[label])
        axis.set_title(f"{measure.label} {measure.arrow}")
        axis.set_yticks(range(len(others)), [plot_label(label) for label in others])
        axis.margins(x=0.12)
    panes[0].set_ylim(len(others) - 0.5, -0.5)
    reference = clean(next(iter(found.values())).reference)
    where = block.place if block.paired else place(block.group)
    caption = (
        f"Difference to {reference} on the primary columns, {where}, with its 95 % interval over "
        f"{_sample(block, [one.estimate.note for one in found.values()])}; the black line is no difference. ↓ left, "
        "↑ right is better."
    )
    return finish(figure, block.group, block.slug("forest"), "Forest plot of the differences", caption)


def _sample(block: Block, notes: Sequence[str]) -> str:
    """Say what the intervals of differences are over."""
    if ONE_CHECKPOINT in notes:
        return "images like these, for this checkpoint"
    if block.paired:
        return "checkpoints and images where the number of checkpoints allows one"
    alone = IMAGES_ONLY in notes
    return "images only (one seed each)" if alone else "seeds and images where the number of seeds allows one"


def _difference(axis: Any, y: int, found: Contrast | None, look: Look) -> None:
    if found is None or np.isnan(found.estimate.value):
        return
    axis.plot([found.estimate.value], [y], marker=look.marker, color=look.color, markersize=5)
    if found.estimate.interval is not None:
        axis.plot(found.estimate.interval, [y, y], color=look.color, linewidth=1.6)


def ranks(block: Block, measures: Sequence[Measure]) -> Figure | None:
    """Draw a line per row through its ranks on the measures: one that is best everywhere is a flat line on top."""
    shown = [measure for measure in measures if measure.direction is not None and not measure.is_gain]
    if len(block.lines) < 2 or len(shown) < 2:
        return None
    places = [ranks_of(block.lines, measure) for measure in shown]
    figure, panes = axes(1, 1, PAGE, 0.9 + 0.28 * len(block.lines))
    for name, look in looks(block.labels).items():
        points = [(x, rank[name]) for x, rank in enumerate(places) if name in rank]
        panes[0].plot(
            *zip(*points, strict=True), color=look.color, linestyle=look.line, marker=look.marker, markersize=6
        )
        if points:
            panes[0].annotate(plot_label(name), points[-1], (8, 0), textcoords="offset points", va="center")
    panes[0].set_xticks(range(len(shown)), [f"{m.label}\n{m.arrow}" for m in shown])
    panes[0].set(ylabel="rank", ylim=(len(block.lines) + 0.5, 0.5), xlim=(-0.3, len(shown) - 0.2))
    panes[0].yaxis.get_major_locator().set_params(integer=True)
    panes[0].grid(visible=False, axis="y")
    caption = (
        f"Ranks of the {'explainers' if block.paired else 'methods'} by their means, {block.place}; equal means share "
        "a rank. Ranks hide how far apart the means are and carry no uncertainty: read them with the table of "
        "differences."
    )
    return finish(figure, block.group, block.slug("ranks"), "Ranks", caption)


def ranks_of(lines: Sequence[Line], measure: Measure) -> dict[str, float]:
    """Return the rank of each row with a mean, 1 = best; ties get their average."""
    from scipy import stats

    means = {line.label: cell(line.runs, measure, line.explainer).mean for line in lines}
    known = {name: mean for name, mean in means.items() if mean is not None}
    sign = 1 if measure.direction == "lower" else -1
    return dict(zip(known, map(float, stats.rankdata([sign * mean for mean in known.values()])), strict=True))


def agreement(block: Block, reference: str, measures: Sequence[Measure]) -> Figure | None:
    """Draw Kendall's τ between the measures: over checkpoints or explainers, and over the images of the reference."""
    shown = [measure for measure in measures if measure.direction is not None and not measure.is_gain]
    line = next((one for one in block.lines if one.label == reference), None)
    if len(shown) < 2 or line is None:
        return None
    tables = []
    if block.paired and len(block.lines) > 2:
        tables.append(("over explainers", over_rows(block.lines, shown)))
    elif not block.paired and len(block.group.runs) > 2:
        tables.append(("over checkpoints", over_checkpoints(block.group, shown, line.explainer)))
    imaged = [measure for measure in shown if measure.each]
    within = over_images(line.runs, imaged, line.explainer)
    if len(imaged) > 1 and np.isfinite(within[~np.eye(len(imaged), dtype=bool)]).any():
        tables.append((f"over images, {clean(reference)}", within))
    if not tables:
        return None
    figure, panes = axes(1, len(tables), PAGE if len(tables) > 1 else COLUMN, 3.1)
    for axis, (title, table) in zip(panes, tables, strict=True):
        heat(axis, table, [measure.label for measure in (shown if len(table) == len(shown) else imaged)], title)
    over = (
        "Over explainers: their means. Over images: of the reference, within a checkpoint."
        if block.paired
        else "Over checkpoints: all methods and seeds. Over images: within a checkpoint, averaged over seeds."
    )
    caption = (
        f"Kendall's τ between the measures, {block.place}, each turned so that larger is "
        f"better. 1 = the same order, 0 = unrelated, −1 = opposite; a dash where it is undefined. {over}"
    )
    return finish(figure, block.group, block.slug("agreement"), "Agreement between measures", caption)


def heat(axis: Any, table: Matrix, labels: Sequence[str], title: str) -> None:
    """Draw a correlation as colours with the number in every cell, so that colour never stands alone."""
    edges = np.arange(len(table) + 1) - 0.5
    axis.pcolormesh(edges, edges, table, vmin=-1, vmax=1, cmap="PuOr", edgecolors="white", linewidth=0.5)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    for (i, j), tau in np.ndenumerate(table):
        text = "–" if np.isnan(tau) else number(tau, 2)
        axis.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if abs(tau) > 0.7 else "black")
    names = [plot_label(label) for label in labels]
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(plot_label(title))
    axis.grid(visible=False)
