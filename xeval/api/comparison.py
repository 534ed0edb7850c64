"""Compares all scored runs of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xeval.reports.compare import Comparison
    from xeval.reports.gallery import Selection
    from xeval.reports.rows import Rows


def compare(
    runs: Path | str,
    out: Path | str | None = None,
    *,
    reference: str | None = None,
    primary: Sequence[str] | None = None,
    rows: Rows = "methods",
    against: Path | str | None = None,
    gallery: Selection | None = None,
    gallery_ids: Sequence[str] | None = None,
) -> Comparison:
    """Compare all scored runs below ``runs``; the report goes to ``out``, by default ``runs/report``.

    The keywords are the options of ``xeval compare``; :func:`xeval.reports.compare.compare` says what is written.
    """
    from xeval.reports import compare as reports

    return reports.compare(
        Path(runs),
        Path(out) if out else Path(runs) / "report",
        reference=reference,
        primary=primary,
        rows=rows,
        against=Path(against) if against else None,
        gallery=gallery,
        gallery_ids=gallery_ids,
    )
