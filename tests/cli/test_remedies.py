"""An error's remedy names only commands and options that exist; and so does every other text of the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from tests.commands import ROOT
from xeval.cli.leave import JSON_ERRORS
from xeval.cli.main import cli
from xeval.cli.tools import KINDS

COMMAND = re.compile(r"\bxeval ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")

ELSEWHERE = {
    "--nproc-per-node",  # torchrun's
    "--help",  # of every command
    JSON_ERRORS,  # of every command, taken away before click looks
}
"""Options of other programs, and those that no command lists."""

PROSE = {"that", "needs", "opens", "with", "versions", "was", "wrote", "itself"}
"""What follows the name of the library in a sentence about it; whoever names a command so gets it out of here."""

FILES = [path for room in ("xeval", "training", "reports") for path in sorted((ROOT / room).rglob("*.py"))]


def commands(group: click.Group = cli, before: str = "") -> dict[str, click.Command]:
    """Every command with the words that it is called by."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[before + name] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
    return found


COMMANDS = commands()


def options(names: Sequence[str]) -> set[str]:
    """The options of these commands, of those below them, and of every one where none is named."""
    chosen = [one for key, one in COMMANDS.items() if not names or any(f"{key} ".startswith(f"{n} ") for n in names)]
    return {option for one in chosen for part in one.params for option in (*part.opts, *part.secondary_opts)}


def shown(node: ast.AST) -> str:
    """The constant parts of a string; what is put into it is an ellipsis."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def strings(node: ast.AST) -> Iterator[str]:
    """Every string below a node; one that a string is built from is not looked at again."""
    if isinstance(node, ast.JoinedStr | ast.Constant):
        yield shown(node)
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def sentences(code: str) -> set[str]:
    """Every string of more than one word: what errors are made with, remedies under any name, help and docstrings."""
    return {text for text in strings(ast.parse(code)) if " " in text}


def wrong(text: str) -> list[str]:
    """The commands and options of a text that do not exist."""
    asked = [match for match in COMMAND.finditer(text) if match[1].split()[0] not in PROSE]
    lost = [f"xeval {match[1]}" for match in asked if not _known(match[1])]
    for option in OPTION.finditer(text):
        before = [name for match in asked if match.start() < option.start() and (name := _known(match[1]))]
        if option[0] not in options(before[-1:]) | ELSEWHERE:
            lost.append(option[0])
    return lost


def _known(words: str) -> str | None:
    """The command that begins with these words; the second of them is its argument, a kind of list or a subcommand."""
    first, *second = words.split()
    if words in COMMANDS:
        return words
    if second and (first == "data" or (first == "list" and second[0] not in KINDS)):
        return None
    return first if first in COMMANDS else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_remedy_names_what_exists(path: Path) -> None:
    found = {text: wrong(text) for text in sentences(path.read_text(encoding="utf-8"))}
    assert {text: lost for text, lost in found.items() if lost} == {}


def test_texts_are_found_at_all() -> None:
    texts = [text for path in FILES for text in sentences(path.read_text(encoding="utf-8"))]
    assert sum(bool(OPTION.search(text)) for text in texts) > 30
    assert sum(bool(COMMAND.search(text)) for text in texts) > 15


@pytest.mark.parametrize(
    ("code", "lost"),
    [
        ('raise DataError("no run", "finish it with: xeval train … --resume")', ["--resume"]),
        ('raise errors.UsageError(f"no {x}", f"use --devise {x}")', ["--devise"]),
        (
            'remedy = "run `xeval data fetch cifar100`, see: xeval list things"',
            ["xeval data fetch", "xeval list things"],
        ),
        ('remedy = "run `xeval fetch cifar100`"', ["xeval fetch cifar"]),
        ('raise UsageError("no", "see: xeval train --recompute" if x else "")', ["--recompute"]),
        ('raise missing(name, a, root, "run `xeval data get x --data DIR`, or use --out")', ["--out"]),
        ('raise DataError("x", "xeval sweep digits --retries 2, or xeval sweep status --retries 2")', ["--retries"]),
        ('Ending(2, "no", "use a smaller --batch-size, or torchrun --nproc-per-node=2")', []),
        ('raise DataError("x", "give --arch (see: xeval list models); --json-errors")', []),
    ],
)
def test_a_planted_remedy_is_judged(code: str, lost: list[str]) -> None:
    assert [one for text in sentences(code) for one in wrong(text)] == lost
