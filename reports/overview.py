"""Some figures show several measures at once: differences with intervals, ranks, and whether the measures agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xeval.reports.agreement import Matrix, over_checkpoints, over_images
from xeval.reports.captions import place
from xeval.reports.collect import Group
from xeval.reports.contrasts import Analysis
from xeval.reports.drawing import COLUMN, PAGE, Figure, axes, finish, looks
from xeval.reports.summary import Measure, cell, real_explainers
from xeval.reports.text import clean, number, plot_label
from xeval.statistics.intervals import IMAGES_ONLY


def forest(group: Group, analysis: Analysis, measures: Sequence[Measure]) -> Figure | None:
    """Draw every method's difference to the reference with its interval, one pane a measure."""
    shown = [measure for measure in measures if any(analysis.of(measure.key, name) for name in group.methods)]
    others = [name for name in group.methods if any(analysis.of(measure.key, name) for measure in shown)]
    if not shown:
        return None
    figure, panes = axes(1, len(shown), PAGE, 0.75 + 0.27 * len(others), sharey=True)
    for axis, measure in zip(panes, shown, strict=True):
        axis.axvline(0, color="black", linewidth=0.8, zorder=1)
        for y, name in enumerate(others):
            _difference(axis, y, analysis, measure.key, name, looks(group)[name])
        axis.set_title(f"{measure.label} {measure.arrow}")
        axis.set_yticks(range(len(others)), [plot_label(name) for name in others])
        axis.margins(x=0.12)
    panes[0].set_ylim(len(others) - 0.5, -0.5)
    reference = clean(next(iter(analysis.contrasts.values())).reference)
    alone = any(found.estimate.note == IMAGES_ONLY for found in analysis.contrasts.values())
    over = "images only (one seed each)" if alone else "seeds and images where the number of seeds allows one"
    caption = (
        f"Difference to {reference} on the primary columns, {place(group)}, with its 95 % interval over {over}; the "
        "black line is no difference. ↓ left, ↑ right is better."
    )
    return finish(figure, group, "forest", "Forest plot of the differences", caption)


def _difference(axis: Any, y: int, analysis: Analysis, key: str, name: str, look: Any) -> None:
    found = analysis.of(key, name)
    if found is None or np.isnan(found.estimate.value):
        return
    axis.plot([found.estimate.value], [y], marker=look.marker, color=look.color, markersize=5)
    if found.estimate.interval is not None:
        axis.plot(found.estimate.interval, [y, y], color=look.color, linewidth=1.6)


def ranks(group: Group, measures: Sequence[Measure]) -> Figure | None:
    """Draw a line per method through its ranks on the measures: one that is best everywhere is a flat line on top."""
    explainers = real_explainers(group)
    shown = [measure for measure in measures if measure.direction is not None and not measure.is_gain]
    if len(group.methods) < 2 or len(shown) < 2 or not explainers:
        return None
    places = [ranks_of(group, measure, explainers[0]) for measure in shown]
    figure, panes = axes(1, 1, PAGE, 0.9 + 0.28 * len(group.methods))
    for name, look in looks(group).items():
        points = [(x, rank[name]) for x, rank in enumerate(places) if name in rank]
        panes[0].plot(
            *zip(*points, strict=True), color=look.color, linestyle=look.line, marker=look.marker, markersize=6
        )
        if points:
            panes[0].annotate(plot_label(name), points[-1], (8, 0), textcoords="offset points", va="center")
    panes[0].set_xticks(range(len(shown)), [f"{m.label}\n{m.arrow}" for m in shown])
    panes[0].set(ylabel="rank", ylim=(len(group.methods) + 0.5, 0.5), xlim=(-0.3, len(shown) - 0.2))
    panes[0].yaxis.get_major_locator().set_params(integer=True)
    panes[0].grid(visible=False, axis="y")
    caption = (
        f"Ranks of the methods by their means, {place(group)}, {explainers[0]} maps; equal means share a rank. Ranks "
        "hide how far apart the means are and carry no uncertainty: read them with the table of differences."
    )
    return finish(figure, group, "ranks", "Ranks", caption)


def ranks_of(group: Group, measure: Measure, explainer: str) -> dict[str, float]:
    """Return the rank of each method with a mean, 1 = best; ties get their average."""
    from scipy import stats

    means = {name: cell(runs, measure, explainer).mean for name, runs in group.methods.items()}
    known = {name: mean for name, mean in means.items() if mean is not None}
    sign = 1 if measure.direction == "lower" else -1
    return dict(zip(known, map(float, stats.rankdata([sign * mean for mean in known.values()])), strict=True))


def agreement(group: Group, reference: str, measures: Sequence[Measure]) -> Figure | None:
    """Draw Kendall's τ between the measures, over checkpoints and over the images of the reference's checkpoints."""
    explainers = real_explainers(group)
    shown = [measure for measure in measures if measure.direction is not None and not measure.is_gain]
    if len(shown) < 2 or not explainers:
        return None
    tables = [("over checkpoints", over_checkpoints(group, shown, explainers[0]))] if len(group.runs) > 2 else []
    within = over_images(group.methods[reference], [m for m in shown if m.each], explainers[0])
    imaged = [m for m in shown if m.each]
    if len(imaged) > 1 and np.isfinite(within[~np.eye(len(imaged), dtype=bool)]).any():
        tables.append((f"over images, {clean(reference)}", within))
    if not tables:
        return None
    figure, panes = axes(1, len(tables), PAGE if len(tables) > 1 else COLUMN, 3.1)
    for axis, (title, table) in zip(panes, tables, strict=True):
        _heat(axis, table, shown if len(table) == len(shown) else imaged, title)
    caption = (
        f"Kendall's τ between the measures, {place(group)}, {explainers[0]} maps, each turned so that larger is "
        "better. 1 = the same order, 0 = unrelated, −1 = opposite; a dash where it is undefined. Over checkpoints: all "
        "methods and seeds. Over images: within a checkpoint, averaged over seeds."
    )
    return finish(figure, group, "agreement", "Agreement between measures", caption)


def _heat(axis: Any, table: Matrix, measures: Sequence[Measure], title: str) -> None:
    """Draw τ as colours with the number in every cell, so that colour never stands alone."""
    edges = np.arange(len(table) + 1) - 0.5
    axis.pcolormesh(edges, edges, table, vmin=-1, vmax=1, cmap="PuOr", edgecolors="white", linewidth=0.5)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    for (i, j), tau in np.ndenumerate(table):
        text = "–" if np.isnan(tau) else number(tau, 2)
        axis.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if abs(tau) > 0.7 else "black")
    names = [plot_label(measure.label) for measure in measures]
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(plot_label(title))
    axis.grid(visible=False)
