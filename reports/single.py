"""``xeval table RUNS``: the headline table of everything that was scored below some folders, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xeval.reports.against import Earlier
from xeval.reports.collect import collect
from xeval.reports.compare import declaration_of, in_group, ordered, style_in
from xeval.reports.contents import analysis_of
from xeval.reports.paper_tables import asked_table
from xeval.reports.rows import Ground
from xeval.reports.style import Style
from xeval.reports.writers import WRITERS


def table(
    runs: Path | Sequence[Path],
    to: str = "tex",
    *,
    reference: str | None = None,
    primary: Sequence[str] | None = None,
    style: Style | Mapping[str, Any] | None = None,
) -> str:
    """Return one table over all groups of runs below ``runs`` as ``tex``, ``md`` or ``csv``; nothing is written.

    Groups that are not compared with each other are blocks of rows. ``style`` says what is shown and how; what
    comparison.toml declares in the folder, the first of several, holds where nothing is given. Raises DataError and
    UsageError as :func:`xeval.reports.compare.compare`.
    """
    roots = [runs] if isinstance(runs, Path) else list(runs)
    collection = collect(*roots)
    printed = style_in(roots[0], collection, style)
    declaration = declaration_of(roots[0], collection, reference, primary, keep=False)
    grounds = []
    for group in collection.groups:
        own = in_group(group, declaration)
        ground = Ground(ordered(group, printed), analysis_of(group, own), Earlier(), printed)
        grounds.append((ground, own.reference, own.primary))
    return WRITERS[to](asked_table(grounds), printed)
