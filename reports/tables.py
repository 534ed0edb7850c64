"""One table is rendered for the terminal, as Markdown and CSV, by :mod:`~reports.latex`, and by the page's template."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from textwrap import wrap

from xeval.reports.style import Spread, Style
from xeval.reports.summary import Measure
from xeval.reports.text import clean, markdown, number, spreadsheet
from xeval.runtime.tables import markdown_lines

MISSING = "–"
TERMINAL_WIDTH = 100
#: Lines of a terminal table's headings, which wrap at words.
HEAD_LINES = 4
BLANK = [""] * (HEAD_LINES - 1)


@dataclass(frozen=True)
class Entry:
    """An entry is one printed cell with the numbers behind it."""

    mean: float | None = None
    std: float | None = None
    n: int | None = None
    decimals: int = 3
    bold: bool = False
    mark: str = ""
    note: str = ""  # printed in brackets: what is unusual about this cell's n
    interval: tuple[float, float] | None = None  # printed in place of the standard deviation
    text: str = ""  # printed in place of the mean: a p value, a count
    was: str = ""  # the mean of an earlier comparison, where it printed otherwise
    percent: bool = False  # printed times 100
    underline: bool = False
    spread: Spread = "sd"
    seeds: int | None = None  # behind the standard deviation

    @property
    def mean_text(self) -> str:
        """Return the mean as printed."""
        return self.text or (MISSING if self.mean is None else self.printed(self.mean))

    @property
    def std_text(self) -> str:
        """Return the spread behind ± as printed, empty below two seeds and where no ± is asked for."""
        if self.std is None or self.spread == "none":
            return ""
        return self.printed(self.std / math.sqrt(self.seeds) if self.spread == "se" and self.seeds else self.std)

    def printed(self, value: float) -> str:
        """Return a value as this cell prints it."""
        return number(100 * value if self.percent else value, self.decimals)

    @property
    def aside(self) -> str:
        """Return what is printed small beside the number."""
        return self.note + (f"[was {self.was}]" if self.was else "")

    @property
    def spread_text(self) -> str:
        """Return what stands behind the mean: ± the standard deviation, or the interval in brackets."""
        if self.interval is not None:
            low, high = map(self.printed, self.interval)
            return f" [{low}, {high}]"
        return f" ± {self.std_text}" if self.std_text else ""


@dataclass(frozen=True)
class Row:
    """One method (or explainer); control rows stay at the bottom, grey."""

    label: str
    entries: tuple[Entry, ...]
    seeds: int | None = None
    control: bool = False
    group: str = ""


@dataclass(frozen=True)
class Heading:
    """A column's heading; neighbours with the same ``group`` share a spanning heading."""

    key: str
    label: str
    arrow: str = ""
    group: str = ""
    title: str = ""

    @classmethod
    def of(cls, measure: Measure, style: Style | None = None) -> Heading:
        """Return the heading of a measure."""
        unit = " (%)" if style and style.in_percent(measure.share) else ""
        return cls(measure.key, f"{measure.label}{unit}", measure.arrow, measure.group, measure.title)

    def named(self, style: Style) -> Heading:
        """Return the heading under its label."""
        label = style.label.get(self.key) or style.named(self.label)
        return replace(self, label=label, group=style.named(self.group))

    @property
    def text(self) -> str:
        """Return label and arrow."""
        return f"{clean(self.label)} {self.arrow}".strip()


@dataclass(frozen=True)
class Table:
    """A table is what a reader sees as one."""

    slug: str
    title: str
    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    corner: str = "method"
    where: str = ""  # data set, split and number of images
    controls_on: str = ""  # heading above control rows that stand on one method's checkpoints

    @property
    def marked(self) -> bool:
        """Return whether any entry carries a mark, which needs room."""
        return any(entry.mark for row in self.rows for entry in row.entries)

    @property
    def has_intervals(self) -> bool:
        """Return whether any entry carries an interval."""
        return any(entry.interval for row in self.rows for entry in row.entries)

    @property
    def full_title(self) -> str:
        """Return the title for a table that stands alone."""
        return f"{self.title}, {self.where}" if self.where else self.title

    @property
    def show_seeds(self) -> bool:
        """Return whether the rows count seeds: only where they differ, otherwise the caption says how many."""
        return len({row.seeds for row in self.rows} - {None}) > 1

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Return the spanning headings and how many columns each covers."""
        return [(name, len(list(same))) for name, same in groupby(self.headings, key=lambda heading: heading.group)]

    @property
    def grouped(self) -> bool:
        """Return whether any column has a spanning heading."""
        return any(heading.group for heading in self.headings)

    @property
    def bodies(self) -> list[tuple[str, list[Row], list[Row]]]:
        """Return blocks of rows: (heading, competitors, controls)."""
        blocks = [(name, list(same)) for name, same in groupby(self.rows, key=lambda row: row.group)]
        return [(name, [r for r in rows if not r.control], [r for r in rows if r.control]) for name, rows in blocks]

    @property
    def lines(self) -> Iterator[Row | str]:
        """Yield rows in print order; a string is a break, with a heading or without."""
        for group, rows, grey in self.bodies:
            yield group
            yield from rows
            if rows and grey:
                yield self.controls_on
            yield from grey


def named(table: Table, style: Style) -> Table:
    """Return a table as a paper prints it: what has a label is called by it, keys and numbers stay."""
    rows = tuple(replace(row, label=style.named(row.label), group=style.named(row.group)) for row in table.rows)
    headings = tuple(heading.named(style) for heading in table.headings)
    words = {name: style.named(getattr(table, name)) for name in ("title", "caption", "corner", "where", "controls_on")}
    return replace(table, headings=headings, rows=rows, **words)


def to_terminal(table: Table, width: int = TERMINAL_WIDTH) -> str:
    """Write plain text at most ``width`` columns wide; a wide table continues in blocks. ``*`` marks what is bold."""
    lines = [line for line in table.lines if line]
    stub = _stub(table, lines)
    columns = [_terminal_column(table, index, lines) for index in range(len(table.headings))]
    text = [clean(table.full_title, width)]
    for block in _split(columns, width - len(stub[0])):
        printed = ["  ".join(cells).rstrip() for cells in zip(stub, *block, strict=True)]
        rule = "─" * max(map(len, printed))
        text += ["", *filter(None, printed[:HEAD_LINES]), rule, *printed[HEAD_LINES:]]
    return "\n".join(text) + "\n"


def _stub(table: Table, lines: Sequence[Row | str]) -> list[str]:
    """Make the first columns of a terminal table: names, and seeds where the rows count them."""
    names = [*BLANK, table.corner, *(clean(line.label if isinstance(line, Row) else line, 30) for line in lines)]
    seeds = [*BLANK, "seeds", *(_count(line.seeds) if isinstance(line, Row) else "" for line in lines)]
    left, right = max(map(len, names)), max(map(len, seeds))
    pairs = zip(names, seeds, strict=True)
    return [f"{name:<{left}}  {count:>{right}}" if table.show_seeds else f"{name:<{left}}" for name, count in pairs]


def _count(seeds: int | None) -> str:
    return "" if seeds is None else str(seeds)


def _terminal_column(table: Table, index: int, lines: Sequence[Row | str]) -> list[str]:
    """Make all lines of one column, equally wide; the last character is kept free for ``*``."""
    heading = table.headings[index]
    cells = [_terminal_entry(line.entries[index]) if isinstance(line, Row) else "" for line in lines]
    words = wrap(clean(f"{heading.group} {heading.label}", 60), max(12, *map(len, cells)))[: HEAD_LINES - 1]
    words[-1] = f"{words[-1]} {heading.arrow}".strip()
    head = [*[""] * (HEAD_LINES - len(words)), *(f"{line} " for line in words)]
    width = max(map(len, head + cells))
    return [f"{text:>{width}}" for text in head + cells]


def _terminal_entry(entry: Entry) -> str:
    spread = entry.spread_text.replace(" ± ", "±")
    note = f" {entry.aside}" if entry.aside else ""
    return f"{entry.mean_text}{spread}{note}{entry.mark}{'*' if entry.bold else ' '}"


def _split(columns: list[list[str]], room: int) -> Iterator[list[list[str]]]:
    """Yield neighbouring columns in blocks that fit; a column too wide for any block has one of its own."""
    block: list[list[str]] = []
    for column in columns:
        if block and sum(len(other[0]) + 2 for other in [*block, column]) > room:
            yield block
            block = []
        block.append(column)
    yield block


def to_markdown(table: Table) -> str:
    """Write a GitHub table, in which control rows are in italics."""
    seeds = ["seeds"] if table.show_seeds else []
    heads = [table.corner, *seeds, *(f"{markdown(h.group)} {markdown(h.text)}".strip() for h in table.headings)]
    rows: list[list[str]] = []
    for line in table.lines:
        if isinstance(line, Row):
            rows.append(_markdown_cells(line, table.show_seeds))
        elif line:
            rows.append([f"**{markdown(line)}**", *("" for _ in heads[1:])])
    lines = "\n".join(markdown_lines(heads, rows, numbers=True))
    return f"### {markdown(table.full_title)}\n\n{lines}\n\n{markdown(table.caption)}\n"


def _markdown_cells(row: Row, show_seeds: bool) -> list[str]:
    name = markdown(row.label)
    seeds = [_count(row.seeds)] if show_seeds else []
    return [f"*{name}*" if row.control else name, *seeds, *map(_markdown_entry, row.entries)]


def _markdown_entry(entry: Entry) -> str:
    mean = f"**{entry.mean_text}**" if entry.bold else entry.mean_text
    mean = f"<ins>{mean}</ins>" if entry.underline else mean
    note = f" {markdown(entry.aside)}" if entry.aside else ""
    return f"{mean}{entry.spread_text}{entry.mark}{note}"


def to_csv(table: Table) -> str:
    """Write in full precision mean, std (or both ends of the interval) and smallest n of every column, RFC 4180."""
    out = io.StringIO()
    writer = csv.writer(out)
    spread = ("low", "high") if table.has_intervals else ("std",)
    heads = [f"{heading.key} {what}" for heading in table.headings for what in ("mean", *spread, "n")]
    writer.writerow([*map(spreadsheet, ("group", table.corner)), "control", "seeds", *map(spreadsheet, heads)])
    for row in table.rows:
        ends = [entry.interval or (None, None) if table.has_intervals else (entry.std,) for entry in row.entries]
        cells = zip(row.entries, ends, strict=True)
        numbers = [_exact(value) for entry, end in cells for value in (entry.mean, *end, entry.n)]
        names = [spreadsheet(row.group), spreadsheet(row.label)]
        writer.writerow([*names, "yes" if row.control else "no", _exact(row.seeds), *numbers])
    return out.getvalue()


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
