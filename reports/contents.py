"""Which tables a group of runs gets: headline, drop and increase, the other families, gains, controls, the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .against import Earlier
from .captions import conventions, place, table_slug
from .collect import Group, Run
from .contrasts import Analysis, Sample, analyse
from .declaration import Declaration
from .differences import differences
from .published import published
from .schema import Subset
from .summary import (
    Cell,
    Measure,
    best,
    cell,
    column_measure,
    controls,
    decimal_places,
    embedding_measures,
    gain_measure,
    loses_to_controls,
    model_measures,
    real_explainers,
    relabel,
    stability,
)
from .tables import Entry, Heading, Row, Table
from .text import number

Rows = Literal["methods", "explainers"]
#: Columns of the headline table after the primary ones, where they were scored.
HEADLINE_EXTRAS = ("complexity.entropy", "ssim.value")
#: Columns without a direction that papers print all the same; the others are diagnostics.
SHOWN_UNRANKED = frozenset({"infidelity.beta", "infidelity.raw"})
MASKED_SHARE = ("drop.rate", "drop.mag", "increase.rate", "increase.mag")


@dataclass(frozen=True)
class Line:
    """One row to be: what is read on which checkpoints."""

    label: str
    runs: Sequence[Run]
    explainer: str
    block: str = ""
    control: bool = False


@dataclass(frozen=True)
class Ground:
    """What every table of a group stands on."""

    group: Group
    analysis: Analysis
    earlier: Earlier


@dataclass(frozen=True)
class Sheet:
    """One table to be."""

    name: str
    title: str
    measures: Sequence[Measure]
    about: str = ""
    controls: bool = True


def analysis_of(group: Group, declaration: Declaration, rows: Rows = "methods") -> Analysis:
    """Every row against its block's reference: methods against the declared one, explainers against the first."""
    blocks: dict[str, list[Sample]] = {}
    for line in _lines(group, declaration.reference, rows, with_controls=False):
        blocks.setdefault(line.block, []).append(Sample(line.label, line.runs, line.explainer))
    references = {
        block: declaration.reference if rows == "methods" else lines[0].label for block, lines in blocks.items()
    }
    measures = {measure.key: measure for measure in _compared(group, declaration.primary, rows)}
    primary = () if declaration.changes else declaration.primary
    return analyse(blocks, references, list(measures.values()), primary, declaration.alpha, paired=rows == "explainers")


def _compared(group: Group, primary: Sequence[str], rows: Rows) -> list[Measure]:
    """All measures that any table ranks."""
    found = [*headline_measures(group, primary), *_drop_increase(group), *_gains(group)]
    found += [*_ranked(group, faithful=True), *_ranked(group, faithful=False)]
    networks = [*model_measures(), *embedding_measures()]
    chosen = [measure for measure in found if measure.family != "model"] + (networks if rows == "methods" else [])
    return [measure for measure in chosen if measure.direction is not None]


def tables(
    group: Group,
    reference: str,
    primary: Sequence[str],
    rows: Rows = "methods",
    analysis: Analysis | None = None,
    earlier: Earlier | None = None,
) -> list[Table]:
    """All tables of one data set and recipe, empty ones left out; ``rows`` compares methods or explainers."""
    ground = Ground(group, analysis or Analysis(), earlier or Earlier())
    sheets = [
        Sheet("headline", "Headline", headline_measures(group, primary)),
        Sheet("drop-increase", "Drop and increase of confidence", _drop_increase(group)),
        Sheet("faithfulness", "Faithfulness", _ranked(group, faithful=True)),
        Sheet("complexity-continuity", "Complexity and continuity", _ranked(group, faithful=False)),
        Sheet("gains", "Gain over random maps on the same checkpoint", _gains(group), controls=False),
        Sheet("diagnostics", "Diagnostics, never ranked", _unranked(group)),
        *_strata(group, primary),
    ]
    built = [
        _table(ground, sheet, _lines(group, reference, rows, sheet.controls)) for sheet in sheets if sheet.measures
    ]
    built = [table for table in built if table.rows]
    told = differences(group, ground.analysis, [column_measure(group, key) for key in primary])
    return [*built[:1], *told, *published(group), *built[1:], *_controls(group, primary), _models(ground)]


#: Subsets besides the protocol's own: name, title, what the caption adds.
STRATA: tuple[tuple[Subset, str, str], ...] = (
    ("all", "All images", " Over all images, whether classified correctly or not."),
    (
        "correct",
        "Correctly classified images only",
        " Over the images that each checkpoint classifies correctly, so the images differ between rows.",
    ),
    (
        "correct-under-all",
        "Images that every checkpoint classifies correctly",
        " Over the images that all compared checkpoints classify correctly, the same for every row.",
    ),
)


def headline_measures(group: Group, primary: Sequence[str]) -> list[Measure]:
    """Accuracy, the primary columns (the first with its gain over random-cam), complexity and continuity."""
    measures = [model_measures()[0]]
    for column, key in enumerate(primary):
        base = column_measure(group, key)
        measures.append(base)
        if column == 0 and base.direction and "random-cam" in controls(group):
            measures.append(relabel(gain_measure(base, "random-cam"), "gain over random-cam"))
    extras = [key for key in HEADLINE_EXTRAS if key in group.first.scores.columns and key not in primary]
    return measures + [column_measure(group, key) for key in extras]


def _drop_increase(group: Group) -> list[Measure]:
    """Rate and magnitude of drop and increase, grouped by the share of pixels kept."""
    found = [key.partition("@")[::2] for key in group.first.scores.columns]
    thresholds = sorted({q for name, q in found if name in MASKED_SHARE}, key=float)
    return [
        relabel(
            column_measure(group, f"{name}@{q}"), name.replace(".", " "), f"{float(q) * 100:g}\u00a0% of pixels kept"
        )
        for q in thresholds
        for name in MASKED_SHARE
        if (name, q) in found
    ]


def _others(group: Group) -> list[Measure]:
    keys = [key for key in group.first.scores.columns if key.partition("@")[0] not in MASKED_SHARE]
    return [column_measure(group, key) for key in keys]


def _ranked(group: Group, *, faithful: bool) -> list[Measure]:
    return [m for m in _others(group) if _is_shown(m) and (m.family == "faithfulness") is faithful]


def _unranked(group: Group) -> list[Measure]:
    return [measure for measure in _others(group) if not _is_shown(measure)]


def _is_shown(measure: Measure) -> bool:
    return measure.direction is not None or measure.key in SHOWN_UNRANKED


def _gains(group: Group) -> list[Measure]:
    """Gain over each random control for the magnitudes of faithfulness that have a direction."""
    keys = [key for key in group.first.scores.columns if ".rate@" not in key]
    bases = [m for m in (column_measure(group, key) for key in keys) if m.family == "faithfulness" and m.direction]
    floors = [name for name in ("random", "random-cam") if name in controls(group)]
    return [relabel(gain_measure(base, name), base.label, f"over {name}") for name in floors for base in bases]


def _strata(group: Group, primary: Sequence[str]) -> Iterator[Sheet]:
    """The primary columns over the other subsets of the images."""
    for subset, title, about in STRATA:
        unknown = subset == "correct-under-all" and group.correct_under_all is None
        if subset != group.subset and not unknown:
            measures = [_stratum(column_measure(group, key, subset), subset) for key in primary]
            filled = [
                m for m in measures if any(m.read(run, e).n for run in group.runs for e in real_explainers(group))
            ]
            yield Sheet(f"{subset}-only" if subset == "correct" else subset, title, filled, about, controls=False)


def _stratum(measure: Measure, subset: Subset) -> Measure:
    return replace(measure, key=f"{subset}.{measure.key}", family="stratum")


def _lines(group: Group, reference: str, rows: Rows, with_controls: bool) -> list[Line]:
    """Methods under the first real explainer, or explainers method by method; controls last in their block.

    In a table of methods the controls stand on the reference's checkpoints; every other checkpoint has its own table.
    """
    explainers = real_explainers(group)
    floors = controls(group) if with_controls else []
    if rows == "methods":
        lines = [Line(method, runs, explainers[0]) for method, runs in group.methods.items()] if explainers else []
        return lines + [Line(name, group.methods[reference], name, control=True) for name in floors]
    return [
        Line(name, runs, name, method, control=name in floors)
        for method, runs in group.methods.items()
        for name in [*explainers, *floors]
    ]


def _table(ground: Ground, sheet: Sheet, lines: Sequence[Line]) -> Table:
    group = ground.group
    columns = [_column(ground, measure, lines) for measure in sheet.measures]
    rows = tuple(
        Row(line.label, tuple(column[i] for column in columns), len(line.runs), line.control, line.block)
        for i, line in enumerate(lines)
    )
    headings = tuple(map(Heading.of, sheet.measures))
    blocks = any(line.block for line in lines)
    on = next((line.runs[0].method for line in lines if line.control and not line.block), "")
    explainer = "" if blocks else f", {real_explainers(group)[0]} maps"
    caption = (
        f"{sheet.title}, {place(group)}{explainer}.{sheet.about} {conventions(group, headings, rows, ground.analysis)}"
    )
    return Table(
        slug=table_slug(group, sheet.name),
        title=sheet.title,
        caption=caption,
        headings=headings,
        rows=rows,
        corner="explainer" if blocks else "method",
        where=place(group),
        controls_on=f"controls on {on}" if on else "",
    )


def _column(ground: Ground, measure: Measure, lines: Sequence[Line]) -> list[Entry]:
    """One column: decimals shared, the leading rows of each block bold, marks on real explainers only."""
    group, analysis = ground.group, ground.analysis
    cells = [_cell(measure, line) for line in lines]
    places = decimal_places(found for found, line in zip(cells, lines, strict=True) if not line.control)
    bold = [False] * len(lines)
    for block in {line.block for line in lines}:
        where = [i for i, line in enumerate(lines) if line.block == block and not line.control]
        leading = analysis.leading.get((block, measure.key))
        tops = best([cells[i] for i in where], measure.direction, places)
        for i, is_best in zip(where, tops, strict=True):
            bold[i] = is_best if leading is None else lines[i].label in leading
    marks = [_significance(measure, line, analysis) + _mark(group, measure, line) for line in lines]
    of = measure.images or group.first.scores.dataset.n
    made = [entry(of, found, b, m, decimals=places) for found, b, m in zip(cells, bold, marks, strict=True)]
    return [_compared_with(ground, measure, line, one) for line, one in zip(lines, made, strict=True)]


def _compared_with(ground: Ground, measure: Measure, line: Line, now: Entry) -> Entry:
    """The entry, with its earlier mean where that prints otherwise."""
    then = ground.earlier.of(ground.group, line.runs[0], measure, line.explainer)
    if then is None or now.mean is None or number(then, now.decimals) == now.mean_text:
        return now
    return replace(now, was=number(then, now.decimals))


def _cell(measure: Measure, line: Line) -> Cell:
    """What a control row shows: nothing where a value does not depend on the explainer or is a gain over controls."""
    silent = line.control and (measure.family == "model" or measure.is_gain)
    return Cell(()) if silent else cell(line.runs, measure, line.explainer)


def _significance(measure: Measure, line: Line, analysis: Analysis) -> str:
    found = analysis.of(measure.key, line.label, line.block)
    if found is None or line.control or not found.significant(analysis.alpha):
        return ""
    return "†" if found.primary else "§"


def _mark(group: Group, measure: Measure, line: Line) -> str:
    loses = not (line.control or measure.is_gain) and loses_to_controls(group, line.runs, measure, line.explainer)
    return "‡" if loses else ""


def entry(images: int, found: Cell, bold: bool = False, mark: str = "", *, decimals: int) -> Entry:
    """A printed cell; the note says where fewer than the announced images, or fewer seeds, stand behind it."""
    note = f"[{found.n}]" if found.n is not None and found.n < images else ""
    if 0 < len(found.defined) < len(found.values):
        note += f"[{len(found.defined)} seeds]"
    return Entry(found.mean, found.std, found.n, decimals, bold, mark, note)


def _controls(group: Group, primary: Sequence[str]) -> list[Table]:
    """Rows are explainers, columns are methods: every control on every method's own checkpoints."""
    rows = [row for key in primary for row in _control_rows(group, column_measure(group, key))]
    if not rows or not controls(group):
        return []
    caption = (
        f"Every explainer on every method's own checkpoints, {place(group)}. What separates a method from its controls "
        f"is what its explanations add; control rows are never ranked. {conventions(group, (), rows)}"
    )
    headings = tuple(Heading(f"method.{method}", method) for method in group.methods)
    slug = table_slug(group, "controls")
    return [Table(slug, "Controls on every checkpoint", caption, headings, tuple(rows), "explainer", place(group))]


def _control_rows(group: Group, measure: Measure) -> list[Row]:
    real = real_explainers(group)
    cells = {e: [cell(runs, measure, e) for runs in group.methods.values()] for e in [*real, *controls(group)]}
    places = decimal_places(found for explainer in real for found in cells[explainer])
    marks = {e: [_mark(group, measure, Line(e, runs, e)) for runs in group.methods.values()] for e in real}
    blank = [""] * len(group.methods)
    heading = f"{measure.label} {measure.arrow}".strip()
    rows = []
    for explainer, found in cells.items():
        pairs = zip(found, marks.get(explainer, blank), strict=True)
        images = measure.images or group.first.scores.dataset.n
        entries = tuple(entry(images, of, mark=mark, decimals=places) for of, mark in pairs)
        rows.append(Row(explainer, entries, control=explainer not in real, group=heading))
    return rows


def _models(ground: Ground) -> Table:
    """What the networks are, whatever explains them: accuracy, calibration, feature space, training stability."""
    group, analysis = ground.group, ground.analysis
    space = [m for m in embedding_measures() if any(cell(runs, m, "").defined for runs in group.methods.values())]
    measures = [*model_measures(), *space]
    lines = [Line(method, runs, "") for method, runs in group.methods.items()]
    columns = [_column(ground, measure, lines) for measure in measures] + _stability_columns(group)
    rows = [Row(line.label, tuple(c[i] for c in columns), len(line.runs)) for i, line in enumerate(lines)]
    headings = [*map(Heading.of, measures), *_stability_headings(group)]
    caption = (
        f"The models, {place(group)}: what may explain a difference between explanation scores. Masked shift = "
        "distance original–masked over distance between class centroids; k-NN and silhouette in the original feature "
        "space; stability = mean over epochs of the std over seeds of the validation curve. "
        + conventions(group, headings, rows, analysis)
    )
    return Table(table_slug(group, "models"), "The models", caption, tuple(headings), tuple(rows), where=place(group))


_CURVES = {"val_accuracy": "stability, accuracy", "val_loss": "stability, loss"}


def _stability(group: Group) -> dict[str, list[float | None]]:
    found = {column: [stability(runs, column) for runs in group.methods.values()] for column in _CURVES}
    return {column: numbers for column, numbers in found.items() if any(number is not None for number in numbers)}


def _stability_headings(group: Group) -> list[Heading]:
    title = "mean over epochs of the std over seeds of"
    return [Heading(f"stability.{c}", _CURVES[c], "↓", "", f"{title} {c}") for c in _stability(group)]


def _stability_columns(group: Group) -> list[list[Entry]]:
    """One number a method: there is no spread of a spread."""
    columns = []
    for numbers in _stability(group).values():
        bold = best([Cell((number,)) for number in numbers], "lower", 4)
        columns.append([Entry(number, decimals=4, bold=b) for number, b in zip(numbers, bold, strict=True)])
    return columns
