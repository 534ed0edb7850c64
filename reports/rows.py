"""The rows of a table: what is read on which checkpoints, and how a measure becomes a column of printed cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from xeval.reports.against import Earlier, rounded
from xeval.reports.captions import checkpoint, place
from xeval.reports.collect import Group, Run
from xeval.reports.contrasts import Analysis, Contrast
from xeval.reports.intervals import interval_of
from xeval.reports.standing import Standing, standing
from xeval.reports.style import Spread, Style
from xeval.reports.summary import (
    Cell,
    Measure,
    best,
    cell,
    controls,
    decimal_places,
    real_explainers,
    stability,
)
from xeval.reports.tables import Entry, Heading, Row
from xeval.reports.text import clean, number
from xeval.statistics.intervals import IDENTICAL, SEEDS_FOR_P

Rows = Literal["methods", "explainers"]
_CURVES = {"val_accuracy": "stability, accuracy", "val_loss": "stability, loss"}


@dataclass(frozen=True)
class Line:
    """A line says what a row will hold: what is read on which checkpoints."""

    label: str
    runs: Sequence[Run]
    explainer: str
    block: str = ""
    control: bool = False


@dataclass(frozen=True)
class Ground:
    """The ground is what every table of a group stands on."""

    group: Group
    analysis: Analysis
    earlier: Earlier
    style: Style = field(default_factory=Style)
    rows: Rows = "methods"


def lines_of(group: Group, reference: str, rows: Rows, with_controls: bool, style: Style | None = None) -> list[Line]:
    """Return methods under the first real explainer, or explainers method by method; controls last in their block.

    In a table of methods the controls stand on the reference's checkpoints; every other checkpoint has its own table.
    """
    explainers = real_explainers(group)
    floors = [name for name in controls(group) if style is None or style.shows(name)] if with_controls else []
    if rows == "methods":
        lines = [Line(method, runs, explainers[0]) for method, runs in group.methods.items()] if explainers else []
        return lines + [Line(name, group.methods[reference], name, control=True) for name in floors]
    return [
        Line(name, runs, name, method, control=name in floors)
        for method, runs in group.methods.items()
        for name in [*explainers, *floors]
    ]


@dataclass(frozen=True)
class Block:
    """A block holds the competing rows of a figure: all methods, or the explainers of one method's checkpoints.

    ``name`` is that method; methods themselves stand in a block without a name.
    """

    group: Group
    lines: Sequence[Line]
    name: str = ""

    @property
    def paired(self) -> bool:
        """Return whether the rows are explainers on the same checkpoints."""
        return bool(self.name)

    @property
    def runs(self) -> Sequence[Run]:
        """Return the checkpoints that all explainers share."""
        return self.lines[0].runs

    @property
    def labels(self) -> list[str]:
        """Return the names of the rows."""
        return [line.label for line in self.lines]

    @property
    def place(self) -> str:
        """Say on which images, and by which explainer or on which checkpoints."""
        if not self.paired:
            return f"{place(self.group)}, {self.lines[0].explainer} maps"
        several = f"{len(self.runs)} checkpoints of {clean(self.name)}"
        return f"{place(self.group)}, {checkpoint(self.runs[0]) if len(self.runs) == 1 else several}"

    def slug(self, name: str) -> str:
        """Name a figure of the block, with the block's own name where there are several."""
        return f"{self.name}-{name}" if len(self.group.methods) > 1 and self.paired else name


def blocks_of(group: Group, reference: str, rows: Rows) -> dict[str, Block]:
    """Return the competing rows block by block: all methods in one, or the explainers of each method's checkpoints."""
    blocks: dict[str, list[Line]] = {}
    for line in lines_of(group, reference, rows, with_controls=False):
        blocks.setdefault(line.block, []).append(line)
    return {name: Block(group, lines, name) for name, lines in blocks.items()}


def rows_of(ground: Ground, measures: Sequence[Measure], lines: Sequence[Line]) -> tuple[Row, ...]:
    """Make one row a line, one entry a measure."""
    columns = [column(ground, measure, lines) for measure in measures]
    return tuple(
        Row(line.label, tuple(entries[i] for entries in columns), len(line.runs), line.control, line.block)
        for i, line in enumerate(lines)
    )


def column(ground: Ground, measure: Measure, lines: Sequence[Line]) -> list[Entry]:
    """Make one column: its cells share their decimals, and only real explainers are bold or marked."""
    group, analysis = ground.group, ground.analysis
    cells = [_cell(measure, line) for line in lines]
    places = _places(ground.style, measure, [one for one, line in zip(cells, lines, strict=True) if not line.control])
    bold = _bold(ground, measure, lines, cells, places)
    contrasts = [None if line.control else analysis.of(measure.key, line.label, line.block) for line in lines]
    stands = [standing_of(group, measure, line) for line in lines]
    of = measure.images or group.first.scores.dataset.n
    made = [
        marked(entry(of, found, is_bold, decimals=places), stand, contrast, analysis.alpha)
        for found, is_bold, stand, contrast in zip(cells, bold, stands, contrasts, strict=True)
    ]
    second = _second(ground.style, measure, lines, cells, places)
    styled = [
        _styled(ground.style, measure, line, replace(one, underline=under))
        for line, one, under in zip(lines, made, second, strict=True)
    ]
    return [_compared_with(ground, measure, line, one) for line, one in zip(lines, styled, strict=True)]


def _places(style: Style, measure: Measure, cells: Sequence[Cell]) -> int:
    """Return the decimals of a column's values, two more than are printed where these are in %."""
    if style.decimals is None:
        return decimal_places(cells) if measure.places is None else measure.places
    return style.decimals + 2 * style.in_percent(measure.share)


def _styled(style: Style, measure: Measure, line: Line, plain: Entry) -> Entry:
    """Return the entry with the spread that is asked for, in % where it is a share and these are."""
    percent = style.in_percent(measure.share)
    interval = interval_of(line.runs, measure, line.explainer).interval if style.spread == "ci" else None
    shown: Spread = "none" if style.spread == "ci" else style.spread
    return replace(
        plain,
        percent=percent,
        decimals=plain.decimals - 2 * percent,
        spread=shown,
        interval=interval if plain.mean is not None else None,
    )


def _blocks(lines: Sequence[Line]) -> Iterator[tuple[str, list[int]]]:
    """Yield each block with the places of its lines that compete."""
    for block in dict.fromkeys(line.block for line in lines):
        yield block, [i for i, line in enumerate(lines) if line.block == block and not line.control]


def _bold(ground: Ground, measure: Measure, lines: Sequence[Line], cells: Sequence[Cell], places: int) -> list[bool]:
    """Say which entries of a column are bold: in each block the leading rows where tested, else the best mean."""
    bold, how = [False] * len(lines), ground.style.bold
    for block, where in _blocks(lines):
        leading = ground.analysis.leading.get((block, measure.key)) if how == "tied" else None
        tops = best([cells[i] for i in where], measure.direction, places)
        for i, is_best in zip(where, tops, strict=True):
            bold[i] = how != "none" and (is_best if leading is None else lines[i].label in leading)
    return bold


def _second(style: Style, measure: Measure, lines: Sequence[Line], cells: Sequence[Cell], places: int) -> list[bool]:
    """Say which entries of a column are underlined: in each block the best mean of those that are not the best."""
    under = [False] * len(lines)
    if style.underline == "none":
        return under
    for _, where in _blocks(lines):
        tops = best([cells[i] for i in where], measure.direction, places)
        rest = [i for i, is_best in zip(where, tops, strict=True) if not is_best] if any(tops) else []
        for i, is_second in zip(rest, _top([cells[i] for i in rest], measure, places), strict=True):
            under[i] = is_second
    return under


def _top(cells: Sequence[Cell], measure: Measure, places: int) -> list[bool]:
    """Say which cells print the best mean, be it that of all."""
    means = [cell.mean for cell in cells if cell.mean is not None]
    if not means:
        return [False] * len(cells)
    top = number((min if measure.direction == "lower" else max)(means), places)
    return [cell.mean is not None and number(cell.mean, places) == top for cell in cells]


def _compared_with(ground: Ground, measure: Measure, line: Line, now: Entry) -> Entry:
    """Return the entry, with its earlier mean where that prints otherwise."""
    then = ground.earlier.of(ground.group, line.runs[0], measure, line.explainer)
    if then is None or now.mean is None or now.printed(then) == now.printed(rounded(now.mean)):
        return now
    return replace(now, was=now.printed(then))


def _cell(measure: Measure, line: Line) -> Cell:
    """Read a cell; a control has none where a value does not depend on the explainer or is a gain over controls."""
    silent = line.control and (measure.family == "model" or measure.is_gain)
    return Cell(()) if silent else cell(line.runs, measure, line.explainer)


def standing_of(group: Group, measure: Measure, line: Line) -> Standing:
    """Compare a real explainer with its controls; a control is compared with nothing."""
    return Standing() if line.control else standing(group, line.runs, measure, line.explainer)


def marked(plain: Entry, stand: Standing, contrast: Contrast | None = None, alpha: float = 0.05) -> Entry:
    """Add to an entry the marks that it has earned, and the reason why none could be earned."""
    if plain.mean is None:
        return plain
    mark = "" if contrast is None or not contrast.significant(alpha) else "†" if contrast.primary else "§"
    notes = dict.fromkeys([*_limits(contrast), *([stand.short] if stand.short else [])])
    return replace(
        plain, mark=mark + ("‡" if stand.lost else ""), note=plain.note + "".join(f"[{note}]" for note in notes)
    )


def _limits(contrast: Contrast | None) -> Iterator[str]:
    """Yield what a reader must know of the images of a contrast: how many it has left, or that they are too few."""
    if contrast is None:
        return
    estimate, common = contrast.estimate, contrast.common
    short = estimate.short if min(estimate.seeds) >= SEEDS_FOR_P and estimate.note != IDENTICAL else ""
    if common is not None and common.fewer and "image" not in short:
        yield f"{common.n} compared"
    if short:
        yield short


def entry(images: int, found: Cell, bold: bool = False, *, decimals: int) -> Entry:
    """Make a printed cell; its note says where fewer than the announced images, or fewer seeds, stand behind it."""
    note = f"[{found.n}]" if found.n is not None and found.n < images else ""
    if 0 < len(found.defined) < len(found.values):
        note += f"[{len(found.defined)} of {len(found.values)} seeds]"
    return Entry(found.mean, found.std, found.n, decimals, bold, note=note, seeds=len(found.defined))


def _stability(group: Group) -> dict[str, list[float | None]]:
    found = {column: [stability(runs, column) for runs in group.methods.values()] for column in _CURVES}
    return {column: numbers for column, numbers in found.items() if any(number is not None for number in numbers)}


def stability_headings(group: Group) -> list[Heading]:
    """Return the headings of :func:`stability_columns`."""
    title = "mean over epochs of the std over seeds of"
    return [Heading(f"stability.{c}", _CURVES[c], "↓", "", f"{title} {c}") for c in _stability(group)]


def stability_columns(group: Group) -> list[list[Entry]]:
    """Make columns of one number a method, as a spread over seeds has no spread itself."""
    columns = []
    for numbers in _stability(group).values():
        bold = best([Cell((number,)) for number in numbers], "lower", 4)
        columns.append([Entry(number, decimals=4, bold=b) for number, b in zip(numbers, bold, strict=True)])
    return columns
