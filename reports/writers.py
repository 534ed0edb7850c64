"""The files that a table becomes, by their suffix; names are labelled where people read them."""

from __future__ import annotations

from collections.abc import Callable

from xeval.reports.latex import to_latex
from xeval.reports.style import Style
from xeval.reports.tables import Table, named, to_csv, to_markdown

WRITERS: dict[str, Callable[[Table, Style], str]] = {
    "tex": to_latex,
    "md": lambda table, style: to_markdown(named(table, style)),
    "csv": lambda table, _style: to_csv(table),
}
