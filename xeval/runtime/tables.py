"""Build Markdown tables line by line; the callers escape the cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_lines(header: Sequence[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> list[str]:
    """Return the lines of a table; with ``numbers``, align the first column left and all others right."""
    rule = [":---", *["---:"] * (len(header) - 1)] if numbers else ["---"] * len(header)
    return [markdown_row(cells) for cells in (header, rule, *rows)]


def markdown_row(cells: Iterable[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def escape_bars(text: str) -> str:
    """Escape the bars of a text, so that they do not end its cell."""
    return text.replace("|", r"\|")
