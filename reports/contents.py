"""A group of runs gets these tables: headline, differences, the metrics' families, controls, the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xeval.reports.against import Earlier
from xeval.reports.captions import conventions, place, table_slug
from xeval.reports.collect import Group
from xeval.reports.contrasts import Analysis, Sample, analyse
from xeval.reports.declaration import Declaration
from xeval.reports.differences import differences
from xeval.reports.intervals import intervals
from xeval.reports.published import published
from xeval.reports.rows import (
    Ground,
    Line,
    Rows,
    blocks_of,
    entry,
    lines_of,
    marked,
    rows_of,
    stability_columns,
    stability_headings,
    standing_of,
)
from xeval.reports.sheets import HEADLINE, Sheet, compared, headline_measures, sheets
from xeval.reports.style import Style
from xeval.reports.summary import (
    Measure,
    cell,
    column_measure,
    controls,
    decimal_places,
    embedding_measures,
    model_measures,
    real_explainers,
)
from xeval.reports.tables import Heading, Row, Table


def analysis_of(
    group: Group, declaration: Declaration, rows: Rows = "methods", explainer: str | None = None
) -> Analysis:
    """Compare every row with its block's reference: methods with the declared one, explainers with ``explainer``, by
    default the first."""
    blocks = {
        name: [Sample(line.label, line.runs, line.explainer) for line in block.lines]
        for name, block in blocks_of(group, declaration.reference, rows).items()
    }
    references = {
        block: declaration.reference if rows == "methods" else explainer or lines[0].label
        for block, lines in blocks.items()
    }
    measures = {m.key: m for m in compared(group, declaration.primary, networks=rows == "methods")}
    primary = () if declaration.changes else declaration.primary
    return analyse(blocks, references, list(measures.values()), primary, declaration.alpha, paired=rows == "explainers")


def tables(
    group: Group,
    reference: str,
    primary: Sequence[str],
    rows: Rows = "methods",
    analysis: Analysis | None = None,
    earlier: Earlier | None = None,
    style: Style | None = None,
) -> list[Table]:
    """Make all tables of one data set and recipe, without empty ones; ``rows`` compares methods or explainers."""
    ground = Ground(group, analysis or Analysis(), earlier or Earlier(), style or Style(), rows)
    filled = [sheet for sheet in sheets(group, primary, rows, ground.style.columns) if sheet.measures]
    pairs = [(sheet, lines_of(group, reference, rows, sheet.controls, ground.style)) for sheet in filled]
    built = [_table(ground, sheet, lines) for sheet, lines in pairs if lines]
    told = differences(group, ground.analysis, [column_measure(group, key) for key in primary])
    if rows == "explainers":
        return [*built[:1], *told, *built[1:], _networks(ground)]
    told += intervals(group, headline_measures(group, primary))
    return [*built[:1], *told, *published(group), *built[1:], *_controls(ground, primary), _models(ground)]


def _table(ground: Ground, sheet: Sheet, lines: Sequence[Line]) -> Table:
    group = ground.group
    rows = rows_of(ground, sheet.measures, lines)
    headings = tuple(Heading.of(measure, ground.style) for measure in sheet.measures)
    blocks = any(line.block for line in lines)
    on = next((line.runs[0].method for line in lines if line.control and not line.block), "")
    explainer = "" if blocks or not real_explainers(group) else f", {real_explainers(group)[0]} maps"
    paired = ground.rows == "explainers"
    meaning = " ".join(conventions(group, headings, rows, ground.analysis, ground.style, paired=paired))
    asked = ground.style.caption if sheet.name == HEADLINE else ""
    return Table(
        slug=table_slug(group, sheet.name),
        title=sheet.title,
        caption=asked or f"{sheet.title}, {place(group)}{explainer}.{sheet.about} {meaning}",
        headings=headings,
        rows=rows,
        corner="explainer" if blocks else "method",
        where=place(group),
        controls_on=f"controls on {on}" if on else "",
    )


def _controls(ground: Ground, primary: Sequence[str]) -> list[Table]:
    """Show every control on every method's own checkpoints: rows are explainers, columns are methods."""
    group = ground.group
    floors = [name for name in controls(group) if ground.style.shows(name)]
    rows = [row for key in primary for row in _control_rows(group, column_measure(group, key), floors)]
    if not rows or not floors:
        return []
    caption = (
        f"Every explainer on every method's own checkpoints, {place(group)}. What separates a method from its controls "
        f"is what its explanations add; control rows are never ranked. {' '.join(conventions(group, (), rows))}"
    )
    headings = tuple(Heading(f"method.{method}", method) for method in group.methods)
    slug = table_slug(group, "controls")
    return [Table(slug, "Controls on every checkpoint", caption, headings, tuple(rows), "explainer", place(group))]


def _control_rows(group: Group, measure: Measure, floors: Sequence[str]) -> list[Row]:
    real = real_explainers(group)
    cells = {e: [cell(runs, measure, e) for runs in group.methods.values()] for e in [*real, *floors]}
    places = decimal_places(found for explainer in real for found in cells[explainer])
    lines = {e: [Line(e, runs, e, control=e not in real) for runs in group.methods.values()] for e in cells}
    heading = f"{measure.label} {measure.arrow}".strip()
    rows = []
    for explainer, found in cells.items():
        images = measure.images or group.first.scores.dataset.n
        stands = [standing_of(group, measure, line) for line in lines[explainer]]
        pairs = zip(found, stands, strict=True)
        entries = tuple(marked(entry(images, of, decimals=places), stand) for of, stand in pairs)
        rows.append(Row(explainer, entries, control=explainer not in real, group=heading))
    return rows


def _models(ground: Ground) -> Table:
    """Show what the networks are, whatever explains them: accuracy, calibration, feature space, training stability."""
    group, analysis = ground.group, ground.analysis
    space = [m for m in embedding_measures() if any(cell(runs, m, "").defined for runs in group.methods.values())]
    measures = [*model_measures(), *space]
    lines = [Line(method, runs, "") for method, runs in group.methods.items()]
    steady = zip(*stability_columns(group), strict=True) if stability_columns(group) else [()] * len(lines)
    rows = [
        replace(row, entries=(*row.entries, *more))
        for row, more in zip(rows_of(ground, measures, lines), steady, strict=True)
    ]
    headings = [*(Heading.of(measure, ground.style) for measure in measures), *stability_headings(group)]
    caption = (
        f"The models, {place(group)}: what may explain a difference between explanation scores. Masked shift = "
        "distance original–masked over distance between class centroids; k-NN and silhouette in the original feature "
        "space; stability = mean over epochs of the std over seeds of the validation curve. "
        + " ".join(conventions(group, headings, rows, analysis, ground.style))
    )
    return Table(table_slug(group, "models"), "The models", caption, tuple(headings), tuple(rows), where=place(group))


def _networks(ground: Ground) -> Table:
    """Show the networks that are explained: their accuracy and calibration, which every row of a block shares."""
    group = ground.group
    lines = [Line(runs[0].name if len(runs) == 1 else name, runs, "") for name, runs in group.methods.items()]
    headings = tuple(Heading.of(measure, ground.style) for measure in model_measures())
    rows = rows_of(ground, model_measures(), lines)
    title = "The network" if len(group.runs) == 1 else "The networks"
    caption = (
        f"What is explained, {place(group)}: scores that rest on the softmax depend on how sure the network is. "
        + " ".join(conventions(group, headings, rows, ground.analysis, ground.style, paired=True))
    )
    return Table(table_slug(group, "network"), title, caption, headings, rows, "network", place(group))
