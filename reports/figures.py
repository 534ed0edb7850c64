"""The figures are drawn as SVG for the page and PDF for the paper.

Methods differ by colour, line style and marker at once; names stand in the figure. Controls are dashed. Bands are the
standard deviation (n − 1) over seeds. Names are printed verbatim: mathtext is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xeval.reports.alike import alike_in_maps, alike_in_scores
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
from xeval.reports.gallery import Pools
from xeval.reports.overview import agreement, forest, ranks
from xeval.reports.rows import Block, Line, Rows, blocks_of
from xeval.reports.sheets import headline_measures
from xeval.reports.standing import standing
from xeval.reports.summary import Cell, Measure, cell, column_measure, controls, stability
from xeval.reports.text import plot_label

FEWEST = 5  # predictions in a bin of the reliability diagram


def figures(
    group: Group, primary: Sequence[str], reference: str = "", analysis: Analysis | None = None
) -> list[Figure]:
    """Draw every figure that a comparison of methods has data for."""
    measures = [column_measure(group, key) for key in primary]
    blocks = blocks_of(group, reference, "methods").values()
    with style():
        made = [figure for block in blocks for figure in _of_block(block, measures, primary, reference, analysis)]
        made += [_convergence(group), _tsne(group), _reliability(group)]
    return [figure for figure in made if figure is not None]


def explainer_figures(
    group: Group, primary: Sequence[str], method: str, reference: str, analysis: Analysis, pools: Pools
) -> list[Figure]:
    """Draw every figure that a comparison of explainers has data for, block by block; ``method`` has the maps shown."""
    measures = [column_measure(group, key) for key in primary]
    made: list[Figure | None] = []
    with style():
        for block in blocks_of(group, method, "explainers").values():
            made += _of_block(block, measures, primary, reference, analysis)
            made.append(alike_in_scores(block, measures))
        made.append(alike_in_maps(group, method, pools))
    return [figure for figure in made if figure is not None]


def _of_block(
    block: Block, measures: Sequence[Measure], primary: Sequence[str], reference: str, analysis: Analysis | None
) -> list[Figure | None]:
    rows: Rows = "explainers" if block.paired else "methods"
    ranked = [m for m in headline_measures(block.group, primary, rows) if not m.is_gain and m.direction is not None]
    compared = [measure for measure in ranked if measure.family != "model"]
    return [
        _keep_curves(block),
        _seed_dots(block, measures),
        forest(block, analysis or Analysis(), measures),
        ranks(block, ranked),
        agreement(block, reference, compared) if reference else None,
    ]


def _keep_curves(block: Block) -> Figure | None:
    """Draw the softmax of the explained class when only the top share is kept, and when it is deleted."""
    group, first = block.group, block.lines[0]
    curve = group.first.scores.curves.keep.get(first.explainer, ())
    if len(curve) < 2:
        return None
    grid = [j / (len(curve) - 1) for j in range(len(curve))]
    floor_label = "random-cam, same checkpoint"
    columns = min(4, legend_columns([*map(plot_label, block.labels), floor_label], PAGE))
    figure, panes = axes(1, 2, PAGE, 2.8 + legend_height([*block.labels, floor_label], columns), sharey=True)
    look = looks(block.labels)
    floors = [(first.runs, GREY)] if block.paired else [(line.runs, look[line.label].color) for line in block.lines]
    for axis, kind, title in zip(
        panes, ("keep", "deletion"), ("kept: higher is better", "deleted: lower is better"), strict=True
    ):
        for line in block.lines:
            if own := _curves(line.runs, kind, line.explainer, len(grid)):
                band(axis, grid, own, look[line.label], label=line.label)
        for runs, colour in floors:
            if floor := _curves(runs, kind, "random-cam", len(grid)):
                mean = [sum(point) / len(point) for point in zip(*floor, strict=True)]
                axis.plot(grid, mean, color=colour, linestyle=(0, (2, 2)), linewidth=0.9, alpha=0.8)
        axis.set(title=title, xlabel="share of pixels " + ("kept" if kind == "keep" else "deleted"), xlim=(0, 1))
    for q in _thresholds(group):
        panes[0].axvline(q, color=GREY, linewidth=0.6, zorder=0)
    panes[0].set_ylabel("mean softmax of the explained class")
    panes[0].plot([], [], color=GREY, linestyle=(0, (2, 2)), linewidth=0.9, label=floor_label)
    figure.legend(*panes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    caption = (
        f"Every threshold at once, {block.place}: {_about_curves(block)} Vertical lines: the thresholds of the tables."
    )
    return finish(figure, group, block.slug("curves"), "Keep and deletion curves", caption)


def _about_curves(block: Block) -> str:
    """Say what a line, its band and the short dashes are."""
    if not block.paired:
        return (
            "mean over images and seeds, band = std over seeds. Short dashes in a method's colour: random-cam on the "
            "same checkpoints."
        )
    if len(block.runs) == 1:
        return "mean over images, a line an explainer. Short dashes: random-cam on the same checkpoint."
    return (
        "mean over images and checkpoints, band = std over checkpoints. Short dashes: random-cam on the same "
        "checkpoints."
    )


def _curves(runs: Sequence[Run], kind: str, explainer: str, length: int) -> list[Sequence[float]]:
    found = [getattr(run.scores.curves, kind).get(explainer, ()) for run in runs]
    return [curve for curve in found if len(curve) == length]


def _thresholds(group: Group) -> list[float]:
    """Return the keep fractions of the tables; a mask without a threshold has none."""
    shares = [key.removeprefix("drop.mag@") for key in group.first.scores.columns if key.startswith("drop.mag@")]
    return [float(share) for share in shares if share.replace(".", "", 1).isdigit()]


def _seed_dots(block: Block, measures: Sequence[Measure]) -> Figure | None:
    """Draw every seed of every row on the primary columns: with few seeds the data themselves are shown.

    Explainers on one checkpoint have one number each, which stands with its interval over images.
    """
    if not measures:
        return None
    alone = block.paired and len(block.runs) == 1
    figure, panes = axes(1, len(measures), PAGE, 0.75 + 0.27 * len(block.lines), sharey=True)
    for axis, measure in zip(panes, measures, strict=True):
        for y, (line, look) in enumerate(zip(block.lines, looks(block.labels).values(), strict=True)):
            found = cell(line.runs, measure, line.explainer)
            (_mean_and_interval if alone else _dots)(axis, y, found, look)
            if not block.paired:
                floor = cell(line.runs, measure, "random-cam").defined
                axis.plot(floor, [y + 0.22] * len(floor), linestyle="", marker="|", color=GREY, markersize=5)
        if block.paired:
            _floor(axis, cell(block.runs, measure, "random-cam"))
        axis.set_title(f"{measure.label} {measure.arrow}")
        axis.set_yticks(range(len(block.lines)), [_marked(block, line, measures) for line in block.lines])
        axis.margins(x=0.08)
    panes[0].set_ylim(len(block.lines) - 0.5, -0.5)
    name, title, about = _words_of_dots(block, alone)
    caption = f"{about} on the primary columns, {block.place}{_end(block, alone)}"
    return finish(figure, block.group, block.slug(name), title, caption)


def _words_of_dots(block: Block, alone: bool) -> tuple[str, str, str]:
    """Return name, title and the begin of the caption."""
    if alone:
        return "means", "Explainer by explainer", "Mean over images with its 95 % interval for images like these"
    if block.paired:
        return "checkpoints", "Checkpoint by checkpoint", "One mark a checkpoint"
    return "seeds", "Seed by seed", "One mark a seed"


def _end(block: Block, alone: bool) -> str:
    """Return the end of the caption."""
    if not block.paired:
        return "; the upright bar is the mean. Grey ticks below: random-cam on the same checkpoints."
    bar = "" if alone else "; the upright bar is the mean"
    floor = f" Upright dashes: random-cam on the same checkpoint{'' if alone else 's'}."
    return (
        f"{bar}.{floor if 'random-cam' in controls(block.group) else ''} ‡ = on one of these columns not shown to be "
        "better than a control; the verdict names both."
    )


def _marked(block: Block, line: Line, measures: Sequence[Measure]) -> str:
    """Return a row's name, with ‡ where an explainer loses to a control on one of the columns."""
    lost = block.paired and any(standing(block.group, line.runs, m, line.explainer).lost for m in measures)
    return plot_label(line.label) + (" ‡" if lost else "")


def _mean_and_interval(axis: Any, y: float, found: Cell, look: Look) -> None:
    """Draw the mean of one checkpoint with its 95 % interval over images, of Student's t."""
    from scipy import stats

    if found.mean is None:
        return
    axis.plot([found.mean], [y], marker=look.marker, color=look.color, markersize=5)
    if found.se is not None and found.n is not None and found.n > 1:
        half = float(stats.t.ppf(0.975, found.n - 1)) * found.se
        axis.plot([found.mean - half, found.mean + half], [y, y], color=look.color, linewidth=1.6)


def _floor(axis: Any, found: Cell) -> None:
    if found.mean is not None:
        axis.axvline(found.mean, color=GREY, linestyle=(0, (2, 2)), linewidth=0.9, zorder=0)


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
        for (method, look), label in zip(looks(group.methods).items(), named[column], strict=True):
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
    for method, look in looks(group.methods).items():
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
