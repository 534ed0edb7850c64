"""Compares all scored runs of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def compare(runs: Path | str, out: Path | str | None = None, **options: Any) -> Any:
    """Compare all scored runs below ``runs``; the report goes to ``out``, by default ``runs/report``."""
    from xeval.reports import compare as reports

    folder = Path(runs)
    return reports.compare(folder, Path(out) if out else folder / "report", **options)
