"""Compares all scored runs of some folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xeval.errors import UsageError

if TYPE_CHECKING:
    from xeval.reports.compare import Comparison
    from xeval.reports.gallery import Selection
    from xeval.reports.rows import Rows


def compare(
    runs: Path | str | Sequence[Path | str],
    out: Path | str | None = None,
    *,
    reference: str | None = None,
    primary: Sequence[str] | None = None,
    rows: Rows = "methods",
    against: Path | str | None = None,
    gallery: Selection | None = None,
    gallery_ids: Sequence[str] | None = None,
) -> Comparison:
    """Compare all scored runs below ``runs``, a folder or several; the report goes to ``out``.

    By default that is ``report`` in the folder, the first of several.

    The keywords are the options of ``xeval compare``; :func:`xeval.reports.compare.compare` says what is written.
    """
    from xeval.reports import compare as reports

    roots = [Path(runs)] if isinstance(runs, Path | str) else [Path(one) for one in runs]
    if not roots:
        raise UsageError("no folder was given to compare", "name the folders that hold the run directories")
    return reports.compare(
        roots,
        Path(out) if out else roots[0] / "report",
        reference=reference,
        primary=primary,
        rows=rows,
        against=Path(against) if against else None,
        gallery=gallery,
        gallery_ids=gallery_ids,
    )
