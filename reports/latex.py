"""A table is written for a paper: booktabs, in ``\\small`` type, as wide as the page allows and never scaled.

What does not fit beside the names of the rows continues in a second panel below, spanning headings kept whole, and what
does not fit on a page in a second float. Only a table that fits no other way is set smaller, down to ``\\scriptsize``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from textwrap import wrap

from xeval.reports.style import POINTS, Style
from xeval.reports.tables import Entry, Heading, Row, Table, named
from xeval.reports.text import latex
from xeval.reports.typeset import width_of

MARKS = {"†": r"\dagger", "§": r"\S", "‡": r"\ddagger"}
#: In a column of siunitx ± stands as in a formula, also before a spread of 0, and bold numbers are bold.
SIUNITX = r"\sisetup{separate-uncertainty, table-align-uncertainty=false, retain-zero-uncertainty, detect-weight}"
GAP = 5.0  # \tabcolsep in points
#: A float takes at most this part of the height of a page: the rest is its caption's.
TALL = 0.72
#: A stub takes at most this part of the width; longer names are broken into lines.
STUB = 0.4


@dataclass(frozen=True)
class Size:
    """A size of type of a paper in 10 pt: its command, its height and the distance of its lines in points."""

    command: str
    points: float
    leading: float


SIZES = (Size(r"\small", 9, 11), Size(r"\footnotesize", 8, 9.5), Size(r"\scriptsize", 7, 8))


@dataclass(frozen=True)
class Column:
    """One column as it is set: what stands in its head, its cells, and the numbers' alignment."""

    heading: Heading
    entries: tuple[Entry, ...]
    style: Style

    @cached_property
    def aligned(self) -> bool:
        """Return whether siunitx aligns the numbers: it does where all of them are means, with ± or without."""
        plain = [one for one in self.entries if not one.text and not one.underline and one.interval is None]
        return self.style.style == "siunitx" and len(plain) == len(self.entries)

    @cached_property
    def has_notes(self) -> bool:
        """Return whether notes stand behind numbers; they have a column of their own, so that these stay aligned."""
        return any(entry.aside for entry in self.entries)

    @property
    def cells(self) -> int:
        """Return how many columns of LaTeX it takes."""
        return 1 + self.has_notes

    @property
    def spec(self) -> str:
        """Return its letters in the argument of ``tabular``."""
        number = _format(self.entries) if self.aligned else "r"
        return rf"{number}@{{\,}}l" if self.has_notes else number

    @cached_property
    def head(self) -> list[str]:
        """Return the lines of the heading, about as wide as the numbers."""
        longest = max((len(entry.mean_text + entry.spread_text) for entry in self.entries), default=0)
        return _wrapped(self.heading.text, max(12, longest))

    @cached_property
    def width(self) -> float:
        """Return its width in em, without the space around it."""
        numbers = max((width_of(entry.mean_text + entry.spread_text) for entry in self.entries), default=0)
        notes = max((_note_width(entry) for entry in self.entries), default=0)
        extra = max(width_of(entry.mark) for entry in self.entries) if self.aligned and self.entries else 0
        return max(numbers + extra + notes, *map(width_of, self.head))


def _wrapped(text: str, letters: int) -> list[str]:
    """Break a heading into lines at its words; an arrow never stands alone on one."""
    return wrap(re.sub(" ([↓↑])$", "\u00a0\\1", text), letters, break_long_words=False) or [""]


def _note_width(entry: Entry) -> float:
    return width_of(entry.mark) + 0.8 * width_of(entry.aside) + 0.3 if entry.aside else 0


@dataclass(frozen=True)
class Setting:
    """How a table is set: its columns in panels, the size of type and the width, in points, that it may fill."""

    table: Table
    style: Style
    size: Size
    room: float
    star: bool
    panels: tuple[tuple[Column, ...], ...]

    @property
    def stub(self) -> float:
        """Return the width of the names of the rows."""
        return min(_stub(self.table, self.size), STUB * self.room)

    @property
    def broken(self) -> bool:
        """Return whether names of rows are broken into lines."""
        return _stub(self.table, self.size) > STUB * self.room


def to_latex(table: Table, style: Style | None = None) -> str:
    """Write a table that needs ``booktabs`` and ``xcolor``, and ``siunitx`` where that aligns the numbers."""
    style = style or Style()
    setting = _setting(named(table, style), style)
    needs = ", ".join(["booktabs", "xcolor", *(["siunitx 3"] if style.style == "siunitx" else [])])
    blocks = [_float(setting, number, panels) for number, panels in enumerate(_floats(setting))]
    return "\n".join([f"% needs {needs}", *blocks]) + "\n"


def _setting(table: Table, style: Style) -> Setting:
    """Choose the narrowest width and the largest type in which the columns stand side by side, else panels."""
    columns = [
        Column(heading, tuple(row.entries[i] for row in table.rows), style) for i, heading in enumerate(table.headings)
    ]
    widths = [inches * POINTS for inches in style.page.widths]
    for room in widths:
        for size in SIZES[:2]:
            if _natural(table, columns, size, room) <= room:
                return Setting(table, style, size, room, room > widths[0], (tuple(columns),))
    room = widths[-1]
    fitting = (size for size in SIZES if all(_natural(table, [one], size, room) <= room for one in columns))
    size = next(fitting, SIZES[-1])
    return Setting(table, style, size, room, room > widths[0], tuple(_even(table, columns, size, room)))


def _even(table: Table, columns: Sequence[Column], size: Size, room: float) -> list[tuple[Column, ...]]:
    """Return as few panels as fit, and those about equally wide."""
    tries = [list(_panels(table, columns, size, room * part / 20)) for part in range(20, 9, -1)]
    return [panels for panels in tries if len(panels) == len(tries[0])][-1]


def _panels(table: Table, columns: Sequence[Column], size: Size, room: float) -> Iterator[tuple[Column, ...]]:
    """Yield neighbouring columns that fit beside the stub; those under one heading stay together if they can."""
    panel: list[Column] = []
    for unit in _units(table, columns, size, room):
        if panel and _natural(table, [*panel, *unit], size, room) > room:
            yield tuple(panel)
            panel = []
        panel += unit
    yield tuple(panel)


def _units(table: Table, columns: Sequence[Column], size: Size, room: float) -> Iterator[list[Column]]:
    """Yield what is not divided: the columns under one spanning heading, or one by one where they are too wide."""
    for name, same in groupby(columns, key=lambda column: column.heading.group):
        unit = list(same)
        if name and _natural(table, unit, size, room) <= room:
            yield unit
        else:
            yield from ([column] for column in unit)


def _natural(table: Table, columns: Sequence[Column], size: Size, room: float) -> float:
    """Return the width that columns take beside the names of the rows, in points."""
    seeds = size.points * width_of("seeds") + 2 * GAP if table.show_seeds else 0
    spans = sum(_span_width(name, list(same), size) for name, same in _spans(columns))
    return min(_stub(table, size), STUB * room) + GAP + seeds + spans


def _spans(columns: Sequence[Column]) -> Iterator[tuple[str, Iterator[Column]]]:
    return groupby(columns, key=lambda column: column.heading.group)


def _span_width(name: str, columns: Sequence[Column], size: Size) -> float:
    below = sum(size.points * column.width + 2 * GAP for column in columns)
    return max(below, *(size.points * width_of(line) + 2 * GAP for line in _span_lines(name, columns)))


def _span_lines(name: str, columns: Sequence[Column]) -> list[str]:
    """Return the lines of a spanning heading, about as wide as what it spans."""
    letters = sum(max(map(len, column.head)) + 2 for column in columns)
    return _wrapped(name, max(16, letters))


def _stub(table: Table, size: Size) -> float:
    return size.points * max(width_of(text) for text in (table.corner, *(row.label for row in table.rows)))


# ---- floats ----------------------------------------------------------------------------------------------------------

Lines = Sequence[Row | str]
Panel = tuple[Sequence[Column], Lines]


def _floats(setting: Setting) -> list[list[Panel]]:
    """Distribute the panels on floats that are not taller than a page."""
    limit = TALL * setting.style.page.height * POINTS / setting.size.leading
    pieces = [(columns, lines) for lines in _pieces(setting.table, int(limit) - 6) for columns in setting.panels]
    floats: list[list[Panel]] = [[]]
    for piece in pieces:
        if floats[-1] and sum(len(lines) + 5 for _, lines in [*floats[-1], piece]) > limit:
            floats.append([])
        floats[-1].append(piece)
    return floats


def _pieces(table: Table, limit: int) -> list[list[Row | str]]:
    """Return the rows with the rules and headings above them, in pieces of at most ``limit`` lines."""
    lines = list(table.lines)
    return [lines[start : start + limit] for start in range(0, len(lines), limit)]


def _float(setting: Setting, number: int, panels: Sequence[Panel]) -> str:
    """Write one float; those after the first say that they continue it."""
    table, star = setting.table, "*" if setting.star else ""
    caption = table.caption if number == 0 else f"{table.title}, continued."
    label = f"tab:{table.slug}" + (f"-{number + 1}" if number else "")
    aligned = [SIUNITX] if any(column.aligned for columns, _ in panels for column in columns) else []
    body = "\n\n\\medskip\n".join(_tabular(setting, columns, lines) for columns, lines in panels)
    head = [
        rf"\begin{{table{star}}}[t]",
        r"\centering",
        setting.size.command,
        rf"\setlength{{\tabcolsep}}{{{GAP:g}pt}}",
    ]
    return "\n".join(
        [
            *head,
            *aligned,
            rf"\caption{{{latex(caption)}}}",
            rf"\label{{{label}}}",
            r"\smallskip",
            body,
            rf"\end{{table{star}}}",
        ]
    )


# ---- one panel -------------------------------------------------------------------------------------------------------


def _tabular(setting: Setting, columns: Sequence[Column], lines: Lines) -> str:
    first = rf"p{{{setting.stub:.0f}pt}}" if setting.broken else "l"
    spec = f"@{{}}{first}{'r' * setting.table.show_seeds}{''.join(column.spec for column in columns)}"
    rows = [r"\toprule", *_head(setting.table, columns), *_body(setting, columns, lines), r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{spec}}}", *rows, r"\end{tabular}"])


def _head(table: Table, columns: Sequence[Column]) -> Iterator[str]:
    if any(column.heading.group for column in columns):
        yield from _spanning(columns, 1 + table.show_seeds)
    heads = [_heading(column) for column in columns]
    yield _row([latex(table.corner), *["seeds"] * table.show_seeds, *heads])


def _spanning(columns: Sequence[Column], before: int) -> Iterator[str]:
    """Yield the spanning headings and the rules below them."""
    cells, rules, place = [""] * before, [], before + 1
    for name, same in _spans(columns):
        below = list(same)
        count = sum(column.cells for column in below)
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{_stacked(_span_lines(name, below), 'c')}}}")
        rules += [rf"\cmidrule(lr){{{place}-{place + count - 1}}}"] if name else []
        place += count
    yield _row(cells)
    yield " ".join(rules)


def _heading(column: Column) -> str:
    text = _stacked(column.head, "r")
    if column.has_notes:
        return rf"\multicolumn{{2}}{{c}}{{{text}}}"
    return f"{{{text}}}" if column.aligned else text


def _stacked(lines: Sequence[str], align: str) -> str:
    stacked = r"\\".join(map(latex, lines))
    return rf"\shortstack[{align}]{{{stacked}}}" if len(lines) > 1 else stacked


def _body(setting: Setting, columns: Sequence[Column], lines: Lines) -> Iterator[str]:
    places = {heading.key: i for i, heading in enumerate(setting.table.headings)}
    if not isinstance(lines[0], str):
        yield r"\midrule"
    for line in lines:
        if isinstance(line, Row):
            yield _line(setting, columns, line, [line.entries[places[one.heading.key]] for one in columns])
        else:
            yield r"\midrule"
            if line:
                yield _break(setting, columns, line)


def _break(setting: Setting, columns: Sequence[Column], text: str) -> str:
    """Write a heading between rows; one that is wider than the rows is broken into lines."""
    table, size, room = setting.table, setting.size, setting.room
    count = 1 + table.show_seeds + sum(column.cells for column in columns)
    width = _natural(table, columns, size, room) - GAP
    fits = size.points * width_of(text) <= width
    spec, ragged = ("@{}l", "") if fits else (rf"@{{}}p{{{width:.0f}pt}}", r"\raggedright")
    return rf"\multicolumn{{{count}}}{{{spec}}}{{{ragged}\emph{{{latex(text)}}}}} \\"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _line(setting: Setting, columns: Sequence[Column], row: Row, entries: Sequence[Entry]) -> str:
    cells = [(r"\raggedright " if setting.broken else "") + _grey(row, latex(row.label))]
    if setting.table.show_seeds:
        cells.append(_grey(row, "" if row.seeds is None else str(row.seeds)))
    for column, entry in zip(columns, entries, strict=True):
        cells += [_aligned(entry, column.has_notes) if column.aligned else _grey(row, _number(entry))]
        if column.has_notes:
            cells.append(_grey(row, _note(entry)))
        elif entry.mark and not column.aligned:
            cells[-1] += rf"\rlap{{{_mark(entry)}}}"  # without width, so that digits stay below each other
    return _row(cells)


def _grey(row: Row, text: str) -> str:
    return rf"\textcolor{{gray}}{{{text}}}" if row.control and text else text


def _note(entry: Entry) -> str:
    return _mark(entry) + (rf"{{\scriptsize {latex(entry.aside)}}}" if entry.aside else "")


def _mark(entry: Entry) -> str:
    return f"$^{{{''.join(MARKS[sign] for sign in entry.mark)}}}$" if entry.mark else ""


def _ascii(text: str) -> str:
    return text.replace("−", "-").replace("%", r"\%").replace("–", r"\text{--}")


def _number(entry: Entry) -> str:
    """Write a number in mathematics."""
    if entry.mean is None:
        return "--"
    mean = _ascii(entry.mean_text)
    mean = rf"\mathbf{{{mean}}}" if entry.bold else mean
    mean = rf"\underline{{{mean}}}" if entry.underline else mean
    spread = _ascii(entry.spread_text.replace(" ± ", r" \pm ").replace(" [", r"\ ["))
    return f"${mean}{spread}$"


# ---- siunitx ---------------------------------------------------------------------------------------------------------


def _format(entries: Sequence[Entry]) -> str:
    """Return a column of siunitx that has room for every number and mark."""
    means = [entry.mean_text for entry in entries if entry.mean is not None] or ["0"]
    whole = max(len(text.lstrip("−").partition(".")[0]) for text in means)
    decimals = max(len(text.partition(".")[2]) for text in means)
    digits = max((len(re.sub(r"^0*|\.", "", entry.std_text.replace(".", ""))) for entry in entries), default=0)
    sign = "-" if any(text.startswith("−") for text in means) else ""
    spread = f"({max(digits, 1)})" if any(entry.std_text for entry in entries) else ""
    noted = any(entry.aside for entry in entries)
    mark = "" if noted else max((_mark(entry) for entry in entries), key=len, default="")
    room = f", table-space-text-post={{{mark}}}" if mark else ""
    return f"S[table-format={sign}{whole}.{decimals}{spread}{room}]"


def _aligned(entry: Entry, noted: bool) -> str:
    if entry.mean is None:
        return "{--}"
    spread = rf" \pm {entry.std_text}" if entry.std_text else ""
    weight = r"\bfseries " if entry.bold else ""
    mark = f"{{{_mark(entry)}}}" if entry.mark and not noted else ""
    return f"{weight}{entry.mean_text.replace('−', '-')}{spread}{mark}"
