"""Markdown tables, line by line; the cells say themselves how they want to be escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_lines(header: Sequence[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> list[str]:
    """The lines of a table; with ``numbers`` its first column is set to the left and all others to the right."""
    rule = [":---", *["---:"] * (len(header) - 1)] if numbers else ["---"] * len(header)
    return [markdown_row(cells) for cells in (header, rule, *rows)]


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def escape_bars(text: str) -> str:
    """A text whose bars do not end its cell."""
    return text.replace("|", r"\|")
