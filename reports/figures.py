"""The figures are drawn as SVG for the page and PDF for the paper.

Methods differ by colour, line style and marker at once; names stand in the figure. Controls are dashed. Bands are the
standard deviation (n − 1) over seeds. Names are printed verbatim: mathtext is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xeval.reports.captions import place
from xeval.reports.collect import Group, Run
from xeval.reports.contrasts import Analysis
from xeval.reports.drawing import (
    COLUMN,
    GREY,
    PAGE,
    Figure,
    Look,
    axes,
    band,
    finish,
    legend_columns,
    legend_height,
    looks,
    style,
)
from xeval.reports.embedding import Panel, note, panels
from xeval.reports.overview import agreement, forest, ranks
from xeval.reports.sheets import headline_measures
from xeval.reports.summary import Cell, Measure, cell, column_measure, real_explainers, stability
from xeval.reports.text import plot_label

FEWEST = 5  # predictions in a bin of the reliability diagram


def figures(
    group: Group, primary: Sequence[str], reference: str = "", analysis: Analysis | None = None
) -> list[Figure]:
    """Draw every figure that the group has data for."""
    measures = [column_measure(group, key) for key in primary]
    ranked = [measure for measure in headline_measures(group, primary) if not measure.is_gain]
    with style():
        made = [
            _keep_curves(group),
            _seed_dots(group, measures),
            forest(group, analysis or Analysis(), measures),
            ranks(group, ranked),
            agreement(group, reference, ranked[1:]) if reference else None,
            _convergence(group),
            _tsne(group),
            _reliability(group),
        ]
    return [figure for figure in made if figure is not None]


def _keep_curves(group: Group) -> Figure | None:
    """Draw the softmax of the explained class when only the top share is kept, and when it is deleted."""
    explainers = real_explainers(group)
    curve = group.first.scores.curves.keep.get(explainers[0], ()) if explainers else ()
    if len(curve) < 2:
        return None
    grid = [j / (len(curve) - 1) for j in range(len(curve))]
    floor_label = "random-cam, same checkpoint"
    columns = min(4, legend_columns([*map(plot_label, group.methods), floor_label], PAGE))
    figure, panes = axes(1, 2, PAGE, 2.8 + legend_height([*group.methods, floor_label], columns), sharey=True)
    for axis, kind, title in zip(
        panes, ("keep", "deletion"), ("kept: higher is better", "deleted: lower is better"), strict=True
    ):
        for method, look in looks(group).items():
            runs = group.methods[method]
            if own := _curves(runs, kind, explainers[0], len(grid)):
                band(axis, grid, own, look, label=method)
            floor = _curves(runs, kind, "random-cam", len(grid))
            if floor:
                mean = [sum(point) / len(point) for point in zip(*floor, strict=True)]
                axis.plot(grid, mean, color=look.color, linestyle=(0, (2, 2)), linewidth=0.9, alpha=0.8)
        axis.set(title=title, xlabel="share of pixels " + ("kept" if kind == "keep" else "deleted"), xlim=(0, 1))
    for q in _thresholds(group):
        panes[0].axvline(q, color=GREY, linewidth=0.6, zorder=0)
    panes[0].set_ylabel("mean softmax of the explained class")
    panes[0].plot([], [], color=GREY, linestyle=(0, (2, 2)), linewidth=0.9, label=floor_label)
    figure.legend(*panes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    caption = (
        f"Every threshold at once, {place(group)}, {explainers[0]} maps: mean over images and seeds, band = std over "
        "seeds. Short dashes in a method's colour: random-cam on the same checkpoints. Vertical lines: the thresholds "
        "of the tables."
    )
    return finish(figure, group, "curves", "Keep and deletion curves", caption)


def _curves(runs: Sequence[Run], kind: str, explainer: str, length: int) -> list[Sequence[float]]:
    found = [getattr(run.scores.curves, kind).get(explainer, ()) for run in runs]
    return [curve for curve in found if len(curve) == length]


def _thresholds(group: Group) -> list[float]:
    """Return the keep fractions of the tables; a mask without a threshold has none."""
    shares = [key.removeprefix("drop.mag@") for key in group.first.scores.columns if key.startswith("drop.mag@")]
    return [float(share) for share in shares if share.replace(".", "", 1).isdigit()]


def _seed_dots(group: Group, measures: Sequence[Measure]) -> Figure | None:
    """Draw every seed of every method on the primary columns: with few seeds the data themselves are shown."""
    explainers = real_explainers(group)
    if not measures or not explainers:
        return None
    figure, panes = axes(1, len(measures), PAGE, 0.75 + 0.27 * len(group.methods), sharey=True)
    for axis, measure in zip(panes, measures, strict=True):
        for y, (method, look) in enumerate(looks(group).items()):
            _dots(axis, y, cell(group.methods[method], measure, explainers[0]), look)
            floor = cell(group.methods[method], measure, "random-cam").defined
            axis.plot(floor, [y + 0.22] * len(floor), linestyle="", marker="|", color=GREY, markersize=5)
        axis.set_title(f"{measure.label} {measure.arrow}")
        axis.set_yticks(range(len(group.methods)), [plot_label(method) for method in group.methods])
        axis.margins(x=0.08)
    panes[0].set_ylim(len(group.methods) - 0.5, -0.5)
    caption = (
        f"One mark a seed on the primary columns, {place(group)}, {explainers[0]} maps; the upright bar is the mean. "
        "Grey ticks below: random-cam on the same checkpoints."
    )
    return finish(figure, group, "seeds", "Seed by seed", caption)


def _dots(axis: Any, y: float, found: Cell, look: Look) -> None:
    axis.plot(
        found.defined,
        [y] * len(found.defined),
        linestyle="",
        marker=look.marker,
        color=look.color,
        markersize=4.5,
        alpha=0.75,
    )
    if found.mean is not None:
        axis.plot([found.mean] * 2, [y - 0.3, y + 0.3], color=look.color, linewidth=1.6)


def _convergence(group: Group) -> Figure | None:
    """Draw validation accuracy and loss per epoch with the stability number of each method."""
    drawn = [c for c in ("val_accuracy", "val_loss") if any(_histories(runs, c) for runs in group.methods.values())]
    if not drawn:
        return None
    named = {column: [_with_stability(group, method, column) for method in group.methods] for column in drawn}
    columns = min(3, *(legend_columns(labels, COLUMN) for labels in named.values()))
    height = 3 + legend_height([*group.methods], columns)
    figure, panes = axes(1, len(drawn), PAGE if len(drawn) > 1 else COLUMN, height)
    for axis, column in zip(panes, drawn, strict=True):
        for (method, look), label in zip(looks(group).items(), named[column], strict=True):
            if series := _histories(group.methods[method], column):
                length = min(map(len, series))
                curves = [values[:length] for values in series]
                band(axis, range(1, length + 1), curves, look, label=label, every=max(1, length // 6))
        axis.set(title=column.replace("val_", "validation "), xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22 * 3 / height), ncols=columns)
    caption = (
        f"Training on {group.dataset}, measured on held-out training images: mean, band = std over seeds. The number "
        "behind a method is its stability, the mean over epochs of the std over seeds (lower is steadier)."
    )
    return finish(figure, group, "convergence", "Convergence", caption)


def _with_stability(group: Group, method: str, column: str) -> str:
    """Return a method's name in the legend, with its stability where it has one."""
    number = stability(group.methods[method], column)
    return plot_label(method) if number is None else f"{plot_label(method)} ({number:.4f})"


def _histories(runs: Sequence[Run], column: str) -> list[list[float]]:
    """Return the curves that are complete, one a seed."""
    found = [run.history.get(column, ()) for run in runs]
    known = [[value for value in values if value is not None] for values in found]
    return [values for values, whole in zip(known, found, strict=True) if values and len(values) == len(whole)]


def _tsne(group: Group) -> Figure | None:
    """Draw ExCon's figure 1: dots are originals, crosses are masked images."""
    found = panels(group)
    if not found:
        return None
    columns = len(found) if len(found) <= 4 else 3
    rows = -(-len(found) // columns)
    width = PAGE if columns > 2 else COLUMN * columns
    figure, panes = axes(rows, columns, width, (PAGE / max(columns, 3) + 0.5) * rows)
    for axis, panel in zip(panes, found, strict=False):
        _draw_panel(axis, panel)
    for axis in panes[len(found) :]:
        axis.set_axis_off()
    handles, labels = panes[0].get_legend_handles_labels()
    spacing = {"ncols": legend_columns(labels, PAGE), "handletextpad": 0.1, "columnspacing": 1.0}
    figure.legend(handles, labels, loc="outside lower center", **spacing)
    return finish(figure, group, "tsne", "Feature space", note(found[0]))


def _draw_panel(axis: Any, panel: Panel) -> None:
    import seaborn as sns

    palette = sns.color_palette("colorblind", max(10, len(panel.classes)))
    for index, name in enumerate(panel.classes):
        own = panel.points[(panel.labels == index) & ~panel.masked]
        hidden = panel.points[(panel.labels == index) & panel.masked]
        axis.plot(*own.T, "o", ms=2.6, mew=0, color=palette[index], label=plot_label(name))
        axis.plot(*hidden.T, "x", ms=3, mew=0.6, color=palette[index])
    axis.plot([], [], "x", ms=3, mew=0.6, color=GREY, label="masked")
    axis.set(xticks=[], yticks=[], aspect="equal", title=plot_label(panel.method))
    axis.set_adjustable("datalim")
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(True)
    names = (("shift", "separation_ratio"), ("k-NN", "knn_accuracy"), ("silhouette", "silhouette"))
    shown = [f"{label} {value:.2f}" for label, key in names if (value := panel.numbers.get(key)) is not None]
    text = "\n".join([" · ".join(shown[:2]), *shown[2:]])
    axis.text(0, -0.03, text, transform=axis.transAxes, va="top", fontsize=6.5, color="#333333")


def _reliability(group: Group) -> Figure | None:
    """Draw confidence against accuracy: an over-confident model changes every softmax-based score."""
    if not any(sum(run.scores.reliability.count) for run in group.runs):
        return None
    columns = legend_columns([*map(plot_label, group.methods)], COLUMN)
    figure, panes = axes(1, 1, COLUMN, 2.9 + legend_height([*group.methods], columns))
    panes[0].plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    for method, look in looks(group).items():
        points = _pooled_bins(group.methods[method])
        x, y = [p[0] for p in points], [p[1] for p in points]
        panes[0].plot(
            x, y, color=look.color, linestyle=look.line, marker=look.marker, markersize=3.5, label=plot_label(method)
        )
    panes[0].set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.04))
    figure.legend(*panes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    caption = (
        f"Confidence against accuracy, {place(group)}, bins pooled over seeds; the dotted diagonal is perfect "
        f"calibration. Bins with fewer than {FEWEST} predictions are left out."
    )
    return finish(figure, group, "reliability", "Reliability", caption)


def _pooled_bins(runs: Sequence[Run]) -> list[tuple[float, float]]:
    """Return (confidence, accuracy) of each bin, weighted by the number of predictions of each seed."""
    points = []
    for index in range(max(len(run.scores.reliability.count) for run in runs)):
        bins = [_bin(run, index) for run in runs]
        total = sum(count for count, _, _ in bins)
        if total >= FEWEST:
            points.append((sum(n * c for n, c, _ in bins) / total, sum(n * a for n, _, a in bins) / total))
    return points


def _bin(run: Run, index: int) -> tuple[int, float, float]:
    bins = run.scores.reliability
    if index >= len(bins.count) or not bins.count[index]:
        return 0, 0.0, 0.0
    return bins.count[index], bins.confidence[index] or 0.0, bins.accuracy[index] or 0.0
