"""Markdown for the generated reference: docstrings become paragraphs, lists of cells become tables."""

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
    """The paragraphs of a thing's docstring as Markdown; an indented block becomes a block of code."""
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
    """One line of Markdown from a reStructuredText paragraph: plain roles and literals."""
    return ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")


def _dedented(text: str) -> str:
    return "\n".join(line.removeprefix("    ").rstrip() for line in text.splitlines())


def summary(thing: Any) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=[.?;:]) ", paragraphs(thing)[0])[0].rstrip(".;:")


def described(thing: Any) -> list[str]:
    """What a docstring says, without the paragraph on what is refused."""
    return [block for block in paragraphs(thing) if not block.startswith(REFUSALS)]


def refusals(thing: Any) -> list[str]:
    """What a docstring says is refused."""
    raised = re.compile(rf"{REFUSALS}`UsageError` for ")
    return [raised.sub("", block) for block in paragraphs(thing) if block.startswith(REFUSALS)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    cells = [[escape_bars(cell) or "–" for cell in line] for line in (header, *rows)]
    return "\n".join(markdown_lines(cells[0], cells[1:]))


def listed(parts: Sequence[str], word: str = "and") -> str:
    """a, b and c."""
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def shown(value: Any) -> str:
    """A setting's value as one would type it; a dash for nothing."""
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple | list):
        return ", ".join(str(shown(part)) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def page(title: str, *blocks: str) -> str:
    """A page: its title and its blocks, those that are empty left out."""
    return "\n\n".join([f"# {title}", *[block for block in blocks if block]]) + "\n"


def section(title: str, *blocks: str) -> str:
    """A heading with its blocks; nothing where there are none."""
    given = [block for block in blocks if block]
    return "\n\n".join([f"## {title}", *given]) if given else ""


def source(function: Callable[..., Any], root: Path) -> str:
    """The file that defines a function, relative to the repository."""
    return Path(inspect.getsourcefile(inspect.unwrap(function)) or "").resolve().relative_to(root).as_posix()
