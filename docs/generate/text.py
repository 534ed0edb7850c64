"""Turns docstrings into paragraphs of Markdown and lists of cells into tables, for the generated reference."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xeval.runtime.tables import escape_bars, markdown_lines

ROLE = re.compile(r":(?:class|func|meth|mod):`~?(?:[\w.]*\.)?([\w]+)`")
REFUSALS = "Raises "


def paragraphs(thing: Any) -> list[str]:
    """Return the paragraphs of a docstring as Markdown; an indented block becomes a block of code."""
    doc = inspect.getdoc(thing) or ""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", doc):
        if not part.startswith("    "):
            blocks.append(words(part))
        elif blocks and blocks[-1].startswith("```"):
            blocks[-1] = blocks[-1].removesuffix("\n```") + f"\n\n{_dedented(part)}\n```"
        else:
            blocks.append(f"```text\n{_dedented(part)}\n```")
    return [block for block in blocks if block]


def words(text: str) -> str:
    """Turn a reStructuredText paragraph into one line of Markdown, with roles and literals as plain code."""
    return ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")


def _dedented(text: str) -> str:
    return "\n".join(line.removeprefix("    ").rstrip() for line in text.splitlines())


def summary(thing: Any) -> str:
    """Return the first sentence of a docstring."""
    return re.split(r"(?<=[.?;:]) ", paragraphs(thing)[0])[0].rstrip(".;:")


def described(thing: Any) -> list[str]:
    """Return the paragraphs of a docstring without the one on what is refused."""
    return [block for block in paragraphs(thing) if not block.startswith(REFUSALS)]


def refusals(thing: Any) -> list[str]:
    """Return what a docstring says is refused."""
    raised = re.compile(rf"{REFUSALS}`UsageError` for ")
    return [raised.sub("", block) for block in paragraphs(thing) if block.startswith(REFUSALS)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; bars inside cells are escaped."""
    cells = [[escape_bars(cell) or "–" for cell in line] for line in (header, *rows)]
    return "\n".join(markdown_lines(cells[0], cells[1:]))


def listed(parts: Sequence[str], word: str = "and") -> str:
    """Join parts to "a, b and c", with ``word`` in front of the last."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def shown(value: Any) -> str:
    """Return a setting's value as it would be typed; a dash for nothing."""
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple | list):
        return ", ".join(str(shown(part)) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def page(title: str, *blocks: str) -> str:
    """Return a page from its title and its blocks; empty blocks are left out."""
    return "\n\n".join([f"# {title}", *[block for block in blocks if block]]) + "\n"


def section(title: str, *blocks: str) -> str:
    """Return a heading with its blocks, or an empty text where there are none."""
    given = [block for block in blocks if block]
    return "\n\n".join([f"## {title}", *given]) if given else ""


def source(function: Callable[..., Any], root: Path) -> str:
    """Return the file that defines a function, relative to the repository."""
    return Path(inspect.getsourcefile(inspect.unwrap(function)) or "").resolve().relative_to(root).as_posix()
