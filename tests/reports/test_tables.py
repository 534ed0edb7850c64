from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from xeval.reports.latex import to_latex
from xeval.reports.tables import Entry, Heading, Row, Table, to_csv, to_markdown, to_terminal

SMALL = Table(
    slug="toy-headline",
    title="Headline",
    caption="Headline, toy (test, 360 images). Entries are mean ± std (n−1) over 3 seeds.",
    headings=(
        Heading("model.accuracy", "accuracy", "↑"),
        Heading("drop.mag@0.45", "drop mag 45\u00a0%", "↓", "45\u00a0% kept"),
        Heading("infidelity.raw", "infidelity raw", "", "45\u00a0% kept"),
    ),
    rows=(
        Row("supcon", (Entry(0.98, 0.01, 360, 2), Entry(0.4, 0.1, 360, 3, mark="‡"), Entry(12.5, None, 360, 2)), 3),
        Row(
            "ex_con", (Entry(0.99, 0.02, 360, 2, bold=True), Entry(0.12, 0.02, 350, 3, True, note="[350]"), Entry()), 2
        ),
        Row("random", (Entry(), Entry(0.6, 0.0, 360, 3), Entry(-0.5, 0.1, 360, 2)), 3, control=True),
    ),
    controls_on="controls on supcon",
)

MARKDOWN = """### Headline

| method | seeds | accuracy ↑ | 45\u00a0% kept drop mag 45\u00a0% ↓ | 45\u00a0% kept infidelity raw |
| :--- | ---: | ---: | ---: | ---: |
| supcon | 3 | 0.98 ± 0.01 | 0.400 ± 0.100‡ | 12.50 |
| ex\\_con | 2 | **0.99** ± 0.02 | **0.120** ± 0.020 \\[350\\] | – |
| **controls on supcon** |  |  |  |  |
| *random* | 3 | – | 0.600 ± 0.000 | −0.50 ± 0.10 |

Headline, toy (test, 360 images). Entries are mean ± std (n−1) over 3 seeds.
"""


def test_markdown_golden() -> None:
    assert to_markdown(SMALL) == MARKDOWN


def test_csv_keeps_full_precision_and_reads_back() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(SMALL))))
    assert rows[0][:5] == ["group", "method", "control", "seeds", "model.accuracy mean"]
    assert rows[2][4:10] == ["0.99", "0.02", "360", "0.12", "0.02", "350"]
    assert rows[3][1:5] == ["random", "yes", "3", ""]


def test_terminal_shows_bold_as_a_star_and_controls_under_their_heading() -> None:
    lines = to_terminal(SMALL).splitlines()
    assert lines[0] == "Headline"
    assert any(line.startswith("ex_con") and "0.99±0.02*" in line and "0.120±0.020 [350]*" in line for line in lines)
    assert lines.index("controls on supcon") < next(i for i, line in enumerate(lines) if line.startswith("random"))
    assert "0.400±0.100‡" in to_terminal(SMALL)


@pytest.mark.parametrize("columns", [1, 5, 12, 26])
def test_terminal_is_at_most_100_columns_wide_and_loses_no_column(columns: int) -> None:
    headings = tuple(Heading(f"m.c{i}", f"column number {i}", "↑") for i in range(columns))
    row = Row("method with a name", tuple(Entry(i / 7, 0.01, 360, 4) for i in range(columns)), 3)
    text = to_terminal(Table("t", "Wide", "", headings, (row, replace(row, label="x" * 300))))
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"{i / 7:.4f}±" in text for i in range(columns))


def test_seeds_are_a_column_only_where_they_differ() -> None:
    assert SMALL.show_seeds
    same = replace(SMALL, rows=tuple(replace(row, seeds=3) for row in SMALL.rows))
    assert not same.show_seeds
    assert "seeds &" not in to_latex(same)


HOSTILE = r"=HYPERLINK(1)\input{/etc/passwd}$x$|<script>" + "\x1b[31m\u202e&%#_^~"


@pytest.mark.fault("R2", "R3", "R4")
def test_hostile_names_are_inert_in_every_rendering() -> None:
    hostile = replace(
        SMALL,
        title=HOSTILE,
        caption=HOSTILE,
        headings=tuple(replace(heading, label=HOSTILE, group=HOSTILE) for heading in SMALL.headings),
        rows=tuple(replace(row, label=HOSTILE, group=HOSTILE) for row in SMALL.rows),
    )
    for render in (to_terminal, to_markdown, to_csv, to_latex):
        text = render(hostile)
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert r"\input" not in to_latex(hostile)
    assert "<script>" not in to_markdown(hostile)
    cells = [cell for row in csv.reader(io.StringIO(to_csv(hostile))) for cell in row]
    assert not any(cell.startswith("=") for cell in cells)
