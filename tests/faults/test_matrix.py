"""docs/reliability.md promises what the tests prove, row by row, and ``--fault ROW`` runs the proofs of a row."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.faults.matrix import COUNT, NOT_HERE, PAGE, chosen, proofs, rewritten, rows

TEXT = PAGE.read_text(encoding="utf-8")


def collected(*arguments: str) -> tuple[int, str]:
    """Exit code and output of ``pytest --collect-only`` with these arguments."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def test_the_page_counts_the_proofs_of_every_row() -> None:
    assert rewritten(TEXT) == TEXT, "run: python -m tests.faults.matrix"
    assert COUNT.search(TEXT), "a count across two lines is not brought up to date"


def test_every_row_has_a_proof_or_a_reason() -> None:
    table, proved = rows(TEXT), proofs()
    assert len(table) > 100
    assert set(proved) <= set(table)
    without = {row: reason for row, reason in table.items() if row not in proved}
    assert all(reason.startswith(NOT_HERE) and len(reason) > 30 for reason in without.values()), without
    for row, tests in proved.items():
        assert table[row].startswith(f"`fault {row}`, {len(tests)} test")


def test_the_lines_of_the_page_are_short() -> None:
    assert max(map(len, TEXT.splitlines())) <= 150


def test_rows_are_named_alone_or_by_commas() -> None:
    assert chosen([], TEXT) == set()
    assert chosen(["C1", "D2, D3"], TEXT) == {"C1", "D2", "D3"}


@pytest.mark.parametrize(
    ("asked", "told"), [("C999", "no row 'C999'"), ("C1,", "no row ''"), ("c1", "no row 'c1'"), ("S20", "not tested: ")]
)
def test_a_row_without_proofs_is_refused(asked: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        chosen([asked], TEXT)


def test_the_option_runs_the_tests_with_the_marker_and_no_other() -> None:
    file = "data/test_manifest.py"
    expected = {name for row in ("D7", "D16") for name in proofs()[row] if name.startswith(file)}
    status, shown = collected(f"tests/{file}", "--fault", "D7", "--fault", "D16,C1")
    found = {line.split("[")[0].removeprefix("tests/") for line in shown.splitlines() if "::" in line}
    assert (status, found) == (0, expected)
    assert len(expected) == 2


def test_an_unknown_row_is_a_usage_error() -> None:
    status, shown = collected("--fault", "C999")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--fault: no row 'C999'" in shown
