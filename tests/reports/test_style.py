"""How tables are printed: every key of the style changes what it says and nothing else, typed or declared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import xeval
from tests.reports.synthetic import write_study
from xeval.cli.main import cli
from xeval.errors import UsageError
from xeval.reports.collect import collect
from xeval.reports.declaration import declared_style
from xeval.reports.single import table
from xeval.reports.style import PAGES, Style, style_of
from xeval.statistics.intervals import scalar_interval

KEY = "drop.mag@0.45"
#: Means .4, .2, .3 with standard deviations .1, .02, .05 over the five seeds of each.
DROPS = {
    "supcon": (0.3, 0.35, 0.4, 0.45, 0.5),
    "excon": (0.18, 0.19, 0.2, 0.21, 0.22),
    "exconb": (0.25, 0.28, 0.3, 0.32, 0.35),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("styled") / "runs", DROPS, artifacts=False)


def cells(runs: Path, **style: Any) -> dict[str, str]:
    """The cell of each row in a table of one column."""
    text = table(runs, "md", style={"columns": (KEY,), **style})
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip("*"): row[1] for row in rows[2:] if len(row) == 2}


def test_decimals_and_percent(runs: Path) -> None:
    assert cells(runs)["SupCon"] == "0.400 ± 0.079"
    assert cells(runs, decimals=1)["SupCon"] == "0.4 ± 0.1"
    assert cells(runs, percent=True)["SupCon"] == "40.0 ± 7.9"
    assert cells(runs, percent=True, decimals=2)["SupCon"] == "40.00 ± 7.91"
    assert "drop mag 45\u00a0% (%) ↓" in table(runs, "md", style={"columns": (KEY,), "percent": True})


def test_only_shares_are_printed_in_percent(runs: Path) -> None:
    text = table(runs, "md", style={"columns": ("model.accuracy", "complexity.entropy"), "percent": True})
    assert "| SupCon | 98.0 ± 0.0 | 0.400 ± 0.079 |" in text


def test_the_csv_keeps_what_was_measured(runs: Path) -> None:
    style = {"columns": (KEY,), "percent": True, "decimals": 0, "spread": "none", "label": {"supcon": "X"}}
    head, first, *_ = table(runs, "csv", style=style).splitlines()
    assert head == "group,method,control,seeds,drop.mag@0.45 mean,drop.mag@0.45 std,drop.mag@0.45 n"
    assert first.split(",")[:4] == ["", "supcon", "no", "5"]
    assert float(first.split(",")[4]) == pytest.approx(0.4)
    assert float(first.split(",")[5]) == pytest.approx(math.sqrt(0.025 / 4))


def test_spreads(runs: Path) -> None:
    low, high = scalar_interval(list(DROPS["supcon"])).interval or (math.nan, math.nan)
    assert cells(runs, spread="se")["SupCon"] == f"0.400 ± {math.sqrt(0.025 / 4 / 5):.3f}"
    assert cells(runs, spread="ci")["SupCon"] == f"0.400 [{low:.3f}, {high:.3f}]"
    assert cells(runs, spread="none")["SupCon"] == "0.400"
    for spread, words in {
        "sd": "mean ± std (n−1) over 5 seeds",
        "se": "mean ± standard error over 5 seeds",
        "ci": "95 % interval for other seeds and images",
        "none": "Entries are means over 5 seeds",
    }.items():
        assert words in table(runs, "md", style={"columns": (KEY,), "spread": spread})


def test_bold_and_underline(runs: Path) -> None:
    assert cells(runs)["ExCon"].startswith("**0.200**")
    assert not cells(runs, bold="none")["ExCon"].startswith("**")
    assert cells(runs, underline="second")["ExConB"].startswith("<ins>0.300</ins>")
    assert "<ins>" not in cells(runs, underline="second")["SupCon"]


def test_best_is_bold_alone_where_others_are_tied(tmp_path: Path) -> None:
    """Against ce, excon and exconb are both not worse than the best; with ``best`` only one of them is bold."""
    drops = {
        "ce": (0.5, 0.51, 0.52, 0.5, 0.49),
        "excon": (0.2, 0.21, 0.19, 0.2, 0.22),
        "exconb": (0.19, 0.21, 0.2, 0.21, 0.2),
    }
    write_study(tmp_path / "runs", drops, artifacts=False)
    tied, best = (cells(tmp_path / "runs", bold=how) for how in ("tied", "best"))
    assert [name for name in ("CE", "ExCon", "ExConB") if tied[name].startswith("**")] == ["ExCon", "ExConB"]
    assert [name for name in ("CE", "ExCon", "ExConB") if best[name].startswith("**")] == ["ExConB"]
    assert "whatever a test says" in table(tmp_path / "runs", "md", style={"columns": (KEY,), "bold": "best"})


def test_controls_methods_labels_and_caption(runs: Path) -> None:
    assert [name for name in cells(runs, controls="random") if name.startswith("random")] == ["random"]
    assert list(cells(runs, controls="none")) == ["SupCon", "ExCon", "ExConB"]
    assert list(cells(runs, controls="none", methods=("exconb",))) == ["ExConB", "SupCon", "ExCon"]
    named = table(
        runs, "md", style={"columns": (KEY,), "label": {"supcon": "Ours", "digits": "UCI digits", KEY: "drop"}}
    )
    assert "| Ours |" in named
    assert "† differs from Ours" in named
    assert "on UCI digits (test, 360 images)" in named
    assert "| drop ↓ |" in named
    assert table(runs, "md", style={"columns": (KEY,), "caption": "My own."}).endswith("\n\nMy own.\n")


def test_an_order_of_methods_changes_no_comparison(runs: Path) -> None:
    given = {"columns": (KEY,), "controls": "none", "decimals": 3}
    usual, other = (table(runs, "csv", style={**given, "methods": order}) for order in ((), ("exconb", "excon")))
    assert usual != other
    assert sorted(usual.splitlines()) == sorted(other.splitlines())
    assert cells(runs, methods=("exconb",))["ExConB"] == cells(runs)["ExConB"]


def test_names_are_whole_words() -> None:
    style = Style(label={"ce": "CE loss", "a.b": "Z"})
    assert (
        style.named("ce, face ce-2 xce supcon-ori supcon. a.b aXb")
        == "CE loss, face ce-2 xce SupCon (original) SupCon. Z aXb"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": "acm"}, "--width: 'acm' is neither iclr, neurips, cvpr nor a number of inches"),
        ({"width": "0.5"}, "--width: a table is from 2 to 20 inches wide"),
        ({"decimals": 99}, "--decimals: .*less than or equal to 8"),
        ({"bold": "all"}, "--bold: .*'best', 'tied' or 'none'"),
        ({"label": ("supcon",)}, "--label: 'supcon' is no NAME=TEXT"),
        ({"colour": "red"}, "--colour: Extra inputs are not permitted"),
    ],
)
def test_values_that_no_key_can_have_are_refused(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        style_of(Style(), given)


def test_names_that_nobody_has_are_refused(runs: Path) -> None:
    with pytest.raises(UsageError, match="unknown column 'drop.mag@0.5'.*did you mean"):
        table(runs, style={"columns": ("drop.mag@0.5",)})
    with pytest.raises(UsageError, match="unknown method 'exon'"):
        table(runs, style={"methods": ("exon",)})


def test_every_key_is_an_option_of_both_commands_and_one_of_the_file(tmp_path: Path) -> None:
    flags = {f"--{name}" for name in Style.model_fields}
    for command in ("compare", "table"):
        assert flags <= {flag for option in cli.commands[command].params for flag in option.opts}
    content = """[table]
columns = ["model.accuracy", "drop.mag@0.45"]
methods = ["excon"]
decimals = 2
percent = true
bold = "best"
underline = "second"
spread = "se"
controls = "random"
caption = "Ours."
style = "siunitx"
width = 3.25
[table.label]
supcon = "SupCon (ours)"
"""
    (tmp_path / "comparison.toml").write_text(content)
    declared = declared_style(tmp_path)
    assert declared.model_fields_set == set(Style.model_fields)
    assert (declared.page.column, declared.label) == (3.25, {"supcon": "SupCon (ours)"})
    assert style_of(declared, {"decimals": 1}) == declared.model_copy(update={"decimals": 1})


def test_the_declaration_is_written_above_the_table_and_both_are_read_again(tmp_path: Path) -> None:
    runs = write_study(tmp_path / "runs", {"supcon": (0.3,), "excon": (0.2,)}, artifacts=False)
    (runs / "comparison.toml").write_text("# mine\n[table]\ndecimals = 1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xeval.reports.compare.figures", lambda *_: [])
        made = xeval.compare(runs, primary=[KEY])
        again = xeval.compare(runs)
    text = (runs / "comparison.toml").read_text()
    assert text.endswith("# mine\n[table]\ndecimals = 1\n")
    assert re.search(r'^primary = \["drop.mag@0.45"\]$', text, re.MULTILINE)
    assert again.sections[0].declaration.primary == made.sections[0].declaration.primary == (KEY,)
    assert made.tables[0].rows[0].entries[1].mean_text == "0.3"


def test_one_style_serves_the_command_the_function_and_the_file(runs: Path, tmp_path: Path) -> None:
    typed = ["--columns", KEY, "--percent", "--decimals", "1", "--label", "supcon=Base", "--to", "md"]
    shown = CliRunner().invoke(cli, ["table", str(runs), *typed], catch_exceptions=False)
    style = {"columns": [KEY], "percent": True, "decimals": 1, "label": {"supcon": "Base"}}
    assert shown.output == xeval.table(runs, "md", style=style) == xeval.table(runs, "md", style=Style(**style))
    assert "| Base | 40.0 ± 7.9 |" in shown.output
    assert not (runs / "comparison.toml").exists()  # a look at a table declares nothing
    assert collect(runs).runs


def test_the_widths_are_those_of_the_style_files() -> None:
    """2 × 3.25 in and the gap of 5/16 in make cvpr's 6 7/8 in, but for a sixteenth."""
    assert (PAGES["iclr"].text, PAGES["neurips"].text) == (5.5, 5.5)
    assert PAGES["cvpr"].widths == (3.25, 6.875)
    assert 0 <= PAGES["cvpr"].text - 5 / 16 - 2 * PAGES["cvpr"].column <= 1 / 16
