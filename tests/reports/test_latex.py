"""Tables as they are pasted into a paper: set for a width, never scaled, aligned, and every character has a mapping."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reports.synthetic import scores, write_images, write_run, write_study
from tests.reports.test_tables import SMALL
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS
from xeval.quantus_bridge import bridge  # noqa: F401 - registers the metrics that run through Quantus
from xeval.reports.compare import Comparison, compare
from xeval.reports.latex import SIZES, to_latex
from xeval.reports.style import NAMES, PAGES, Style
from xeval.reports.tables import Entry, Heading, Row, Table
from xeval.reports.text import latex
from xeval.reports.typeset import width_of
from xeval.scoring.protocols import PROTOCOLS

LATEX = r"""% needs booktabs, xcolor
\begin{table}[t]
\centering
\small
\setlength{\tabcolsep}{5pt}
\caption{Headline, toy (test, 360 images). Entries are mean $\pm$ std (n$-$1) over 3 seeds.}
\label{tab:toy-headline}
\smallskip
\begin{tabular}{@{}lrrr@{\,}lr}
\toprule
 &  & \multicolumn{1}{c}{} & \multicolumn{3}{c}{45~\% kept} \\
\cmidrule(lr){4-6}
method & seeds & accuracy~$\uparrow$ & \multicolumn{2}{c}{\shortstack[r]{drop mag\\45~\%~$\downarrow$}} & \shortstack[r]{infidelity\\raw} \\
\midrule
SupCon & 3 & $0.98 \pm 0.01$ & $0.400 \pm 0.100$ & $^{\ddagger}$ & $12.50$ \\
ex\_con & 2 & $\mathbf{0.99} \pm 0.02$ & $\mathbf{0.120} \pm 0.020$ & {\scriptsize [350]} & -- \\
\midrule
\multicolumn{6}{@{}l}{\emph{controls on SupCon}} \\
\textcolor{gray}{random} & \textcolor{gray}{3} & \textcolor{gray}{--} & \textcolor{gray}{$0.600 \pm 0.000$} &  & \textcolor{gray}{$-0.50 \pm 0.10$} \\
\bottomrule
\end{tabular}
\end{table}
"""  # noqa: E501 - a line of LaTeX is a row

SIUNITX = r"""method & {accuracy~$\uparrow$} & {drop~$\downarrow$} \\
\midrule
a & 0.98 \pm 0.01 & -12.50 \pm 1.25{$^{\dagger\ddagger}$} \\
b & \bfseries 0.99 \pm 0.02 & {--} \\
"""


def wide(columns: int, rows: int = 1, **more: str) -> Table:
    headings = tuple(Heading(f"m.c{i}", f"measure number {i}", "↑", **more) for i in range(columns))
    entries = tuple(Entry(i / 7, 0.01, 360, 4) for i in range(columns))
    return Table("t", "Wide", "A caption.", headings, tuple(Row(f"method {i}", entries, 3) for i in range(rows)))


def test_golden() -> None:
    assert to_latex(SMALL) == LATEX


def test_siunitx_aligns_numbers_and_braces_everything_else() -> None:
    rows = (
        Row("a", (Entry(0.98, 0.01, 9, 2), Entry(-12.5, 1.25, 9, 2, mark="†‡")), 3),
        Row("b", (Entry(0.99, 0.02, 9, 2, bold=True), Entry()), 3),
    )
    table = Table("t", "T", "", (Heading("x", "accuracy", "↑"), Heading("y", "drop", "↓")), rows)
    text = to_latex(table, Style(style="siunitx"))
    assert text.startswith("% needs booktabs, xcolor, siunitx 3\n")
    assert SIUNITX in text
    assert "lS[table-format=1.2(1)]S[table-format=-2.2(3), table-space-text-post={$^{\\dagger\\ddagger}$}]}" in text


@pytest.mark.parametrize("width", ["iclr", "cvpr", 3.25, 2.0])
def test_what_does_not_fit_continues_below_and_nothing_is_lost_or_scaled(width: str | float) -> None:
    text = to_latex(wide(26), Style(width=width))
    assert "adjustbox" not in text
    assert "resizebox" not in text
    assert text.count(r"\begin{tabular}") > 1
    assert [f"${i / 7:.4f}" in text for i in range(26)] == [True] * 26
    assert all(panel.count("method 0") == 1 for panel in text.split(r"\begin{tabular}")[1:])


def test_columns_under_one_heading_stay_together() -> None:
    parts = [replace(heading, group=f"{q} % kept") for q in (15, 30, 45) for heading in wide(4).headings]
    table = replace(wide(12), headings=tuple(parts), rows=wide(12).rows)
    panels = to_latex(table).split(r"\begin{tabular}")[1:]
    assert [re.findall(r"(\d+) \\% kept", panel) for panel in panels] == [["15"], ["30"], ["45"]]
    assert [panel.count(r"\pm") for panel in panels] == [4, 4, 4]


def test_a_table_is_a_column_wide_where_it_fits_and_a_page_wide_where_not() -> None:
    assert r"\begin{table}[t]" in to_latex(wide(2), Style(width="cvpr"))
    assert r"\begin{table*}[t]" in to_latex(wide(5), Style(width="cvpr"))
    assert r"\begin{table}[t]" in to_latex(wide(5), Style(width="iclr"))


def test_a_tall_table_continues_in_a_second_float_under_its_own_label() -> None:
    text = to_latex(wide(2, rows=120))
    assert re.findall(r"\\label\{(.*?)\}", text) == ["tab:t", "tab:t-2", "tab:t-3", "tab:t-4"]
    assert text.count("Wide, continued.") == 3
    assert re.findall(r"^method (\d+) &", text, re.MULTILINE) == [str(i) for i in range(120)]


def test_type_is_never_smaller_than_scriptsize() -> None:
    assert [size.command for size in SIZES] == [r"\small", r"\footnotesize", r"\scriptsize"]
    row = Row("a name that is much longer than what stands beside it " * 3, (Entry(123456.789, 123.4, 9, 8),), 3)
    text = to_latex(Table("t", "T", "", (Heading("x", "y"),), (row,)), Style(width=2.0))
    assert r"\scriptsize" in text
    assert "p{" in text  # the name is broken into lines
    assert "tiny" not in text


# ---- every registered text -------------------------------------------------------------------------------------------


def registered() -> Iterator[str]:
    """Everything with words that a table, a caption or the methods paragraph may print."""
    for name, metric in METRICS.items():
        settings = metric.settings()
        yield from (name, metric.convention(settings), metric.citation)
        for column in metric.columns(settings):
            yield from (column.name, column.title, column.unit)
    for name, explainer in EXPLAINERS.items():
        yield from (name, explainer.citation)
    for name, protocol in PROTOCOLS.items():
        yield from (name, protocol.about, *protocol.conventions())
    yield from NAMES.values()


def test_every_character_of_every_registered_text_has_a_mapping() -> None:
    texts = list(registered())
    assert len(texts) > 200
    assert any("₂" in text for text in texts)
    for text in texts:
        written = latex(text)
        assert "[U+" not in written, text
        assert all(char.isascii() or char in "öéü" for char in written), text


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        ("‖A‖₂² ≤ ε", r"$\Vert$A$\Vert$$_{2}$$^{2}$ $\leq$ $\epsilon$"),
        ("λ Λ Α ω", r"$\lambda$ $\Lambda$ $\mathrm{A}$ $\omega$"),
        ("x⁻¹ aⱼ µ", r"x$^{-}$$^{1}$ a$_{j}$ $\mu$"),
        ("Gödel, Goédel, cafe\u0301", "Gödel, Goédel, café"),
        ("中 ą", "[U+4E2D] [U+0105]"),
        ("½ ﬁ “q”", "1/2 fi ``q''"),
    ],
)
def test_characters(raw: str, written: str) -> None:
    assert latex(raw) == written


# ---- TeX -------------------------------------------------------------------------------------------------------------

TEX = shutil.which("pdflatex")
with_tex = pytest.mark.skipif(TEX is None, reason="pdfLaTeX is not installed")
FIVE = {
    "supcon": (0.30, 0.40, 0.50, 0.45, 0.35),
    "excon": (0.10, 0.12, 0.14, 0.16, 0.18),
    "a method with a name that is long": (0.2, 0.3, 0.25, 0.22, 0.28),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batch sizes, two data sets with long names, notes behind numbers, and all conventions that there are."""
    root = tmp_path_factory.mktemp("tex") / "runs"
    write_study(root / "a", FIVE, artifacts=False)
    write_study(root / "b", {"supcon": (0.3, 0.4)}, artifacts=False, recipe="digits-b256-and-more-words")
    for seed in range(5):
        for number, method in enumerate(("ce", "excon")):
            found = scores(method, seed, 0.4 - number / 5, dataset="photographs-of-birds", recipe="birds")
            found["conventions"] = [line for _, one in PROTOCOLS.items() for line in one.conventions()]
            found["conventions"] += [metric.convention(metric.settings()) for _, metric in METRICS.items()]
            found["dataset"].update(n=60, of=60, key="images")
            values = np.linspace(0, 1, 60) * (0.5 + 0.1 * number) + 0.02 * seed
            values[: 3 + seed] = np.nan
            mean, n = float(np.nanmean(values)), int(np.isfinite(values).sum())
            for cells in found["scores"].values():
                for cell in cells.values():
                    cell |= {
                        "mean": mean,
                        "n": n,
                        "undefined": {"empty map": 60 - n},
                        "n_correct": None,
                        "mean_correct": None,
                    }
            found["model"]["accuracy"] = 0.5
            write_images(write_run(root / "c", found), found, [True, False] * 30, list(values))
    return root


@pytest.fixture(scope="module")
def plain(runs: Path) -> Comparison:
    return compared(runs, Style())


@pytest.fixture(scope="module")
def dressed(runs: Path) -> Comparison:
    return compared(runs, Style(spread="ci", bold="best", underline="second", percent=True))


def compared(runs: Path, style: Style) -> Comparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xeval.reports.compare.figures", lambda *_: [])
        return compare(runs, runs.parent / style.spread, style=style)


def typeset(folder: Path, page: str, files: list[Path]) -> tuple[list[str], str]:
    """Set files as a paper would; what went wrong, file by file, and the whole log."""
    text, height, columns = {
        "iclr": ("5.5in", "9in", ""),
        "neurips": ("5.5in", "9in", ""),
        "cvpr": ("6.875in", "8.875in", ",twocolumn"),
        "narrow": ("3.25in", "9in", ""),
    }[page]
    body = "\n\\clearpage\n".join(rf"\typeout{{FILE {file.name}}}\input{{{file}}}" for file in files)
    (folder / f"{page}.tex").write_text(
        rf"\documentclass[10pt{columns}]{{article}}\usepackage{{times,booktabs,xcolor,siunitx}}"
        rf"\usepackage[textwidth={text},textheight={height},columnsep=0.3125in]{{geometry}}"
        rf"\begin{{document}}{body}\end{{document}}"
    )
    command = [str(TEX), "-no-shell-escape", "-halt-on-error", "-interaction=batchmode", f"{page}.tex"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=300)
    log = (folder / f"{page}.log").read_text(errors="replace")
    wrong, file = [] if done.returncode == 0 else [log[-1500:]], ""
    for line in log.splitlines():
        file = line if line.startswith("FILE ") else file
        if re.match(r"Overfull|!|LaTeX Warning: Float too large|LaTeX Font Warning: Font shape", line):
            wrong.append(f"{file}: {line}")
    return wrong, log


@with_tex
@pytest.mark.parametrize(
    ("page", "kind", "style"),
    [
        ("iclr", "plain", Style()),
        ("neurips", "plain", Style(width="neurips")),
        ("cvpr", "plain", Style(width="cvpr")),
        ("narrow", "dressed", Style(width=3.25)),
    ],
    ids=["iclr", "neurips", "cvpr", "narrow"],
)
def test_everything_compiles_and_nothing_is_overfull(
    request: pytest.FixtureRequest, tmp_path: Path, page: str, kind: str, style: Style
) -> None:
    made: Comparison = request.getfixturevalue(kind)
    files = [tmp_path / f"{table.slug}.tex" for table in made.tables]
    for file, table in zip(files, made.tables, strict=True):
        file.write_text(to_latex(table, style))
    assert len(files) > 30
    wrong, log = typeset(tmp_path, page, [*files, made.out / "methods.tex"])
    assert wrong == []
    assert log.count("FILE ") == len(files) + 1
    assert "[U+" not in (made.out / "methods.tex").read_text()


@with_tex
def test_siunitx_compiles_too(plain: Comparison, tmp_path: Path) -> None:
    """Only some tables: siunitx takes TeX a second for each."""
    tables = [*plain.layouts[:4], *(section.tables[0] for section in plain.sections)]
    files = [tmp_path / f"{table.slug}.tex" for table in tables]
    for file, table in zip(files, tables, strict=True):
        file.write_text(to_latex(table, Style(style="siunitx", width="cvpr")))
        assert "S[table-format" in file.read_text()
    assert typeset(tmp_path, "cvpr", files)[0] == []


def test_compare_writes_what_is_typeset_here(plain: Comparison) -> None:
    assert {path.stem for path in (plain.out / "tables").glob("*.tex")} == {table.slug for table in plain.tables}
    assert all((plain.out / f"tables/{table.slug}.tex").read_text() == to_latex(table) for table in plain.tables)


@with_tex
def test_an_overfull_box_and_an_error_would_be_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.tex"
    bad.write_text(r"\begin{table}\begin{tabular}{l}\rule{7in}{1pt}\end{tabular}\end{table}")
    assert any("Overfull" in line for line in typeset(tmp_path, "iclr", [bad])[0])
    bad.write_text(r"\undefined")
    assert typeset(tmp_path, "iclr", [bad])[0]


@with_tex
def test_widths_are_estimated_a_little_too_wide(tmp_path: Path) -> None:
    """Against TeX's own measure of the same line at 9 points."""
    texts = ["0.123 ± 0.045", "accuracy ↑", "[0.1, −0.2]", "SupCon (original)", "drop magnitude ↓", "MWmw ijl", "98.7%"]
    lines = [rf"\setbox0=\hbox{{\small {latex(text)}}}\typeout{{WIDE \the\wd0}}" for text in texts]
    (tmp_path / "w.tex").write_text("\n".join(lines))
    measured = [
        float(found) for found in re.findall(r"WIDE ([\d.]+)pt", typeset(tmp_path, "iclr", [tmp_path / "w.tex"])[1])
    ]
    for text, wide in zip(texts, measured, strict=True):
        assert wide <= 9 * width_of(text) <= 1.35 * wide, text


def test_pages_have_the_widths_that_tables_are_set_for() -> None:
    assert {name: page.widths for name, page in PAGES.items()} == {
        "iclr": (5.5,),
        "neurips": (5.5,),
        "cvpr": (3.25, 6.875),
    }
