"""docs/reliability.md promises what the tests prove, row by row."""

from __future__ import annotations

from tests.faults.matrix import NOT_HERE, PAGE, proofs, rewritten, rows


def test_the_page_names_every_proof_and_counts_them() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page), "run: python -m tests.faults.matrix"


def test_every_row_has_a_proof_or_a_reason() -> None:
    table, proved = rows(PAGE.read_text(encoding="utf-8")), set(proofs())
    assert len(table) > 100
    assert proved <= set(table)
    without = {row: reason for row, reason in table.items() if row not in proved}
    assert all(reason.startswith(NOT_HERE) and len(reason) > 30 for reason in without.values()), without
