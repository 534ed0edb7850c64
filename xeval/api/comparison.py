"""Compares all scored runs of some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xeval.errors import UsageError

if TYPE_CHECKING:
    from xeval.reports.compare import Comparison
    from xeval.reports.gallery import Selection
    from xeval.reports.rows import Rows
    from xeval.reports.style import Style


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
    style: Style | Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare all scored runs below ``runs``, a folder or several; the report goes to ``out``.

    By default that is ``report`` in the folder, the first of several.

    The keywords are the options of ``xeval compare``; :func:`xeval.reports.compare.compare` says what is written.
    Those of the tables stand in ``style``, such as ``{"decimals": 2, "percent": True}``.
    """
    from xeval.reports import compare as reports

    roots = _roots(runs)
    return reports.compare(
        roots,
        Path(out) if out else roots[0] / "report",
        reference=reference,
        primary=primary,
        rows=rows,
        against=Path(against) if against else None,
        gallery=gallery,
        gallery_ids=gallery_ids,
        style=style,
    )


def table(
    runs: Path | str | Sequence[Path | str],
    to: Literal["tex", "md", "csv"] = "tex",
    *,
    reference: str | None = None,
    primary: Sequence[str] | None = None,
    style: Style | Mapping[str, Any] | None = None,
) -> str:
    """Return one table over all scored runs below ``runs``, a folder or several, as LaTeX, Markdown or CSV.

    ``style`` holds the other options of ``xeval table`` by name, such as ``{"columns": ["model.accuracy"]}``.
    """
    from xeval.reports import single

    return single.table(_roots(runs), to, reference=reference, primary=primary, style=style)


def _roots(runs: Path | str | Sequence[Path | str]) -> list[Path]:
    roots = [Path(runs)] if isinstance(runs, Path | str) else [Path(one) for one in runs]
    if not roots:
        raise UsageError("no folder was given to compare", "name the folders that hold the run directories")
    return roots
