"""Writes the page on what xeval looks at by itself, from the rows of ``checks.txt``, the code and the tests.

A row quotes a few words of a message. The words must stand in the function that checks and in the test
that proves it; the whole message, the kind of error and its exit code are taken from the function. So the page can name
neither a check nor a test that does not exist, and says what the code says now.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docs.generate.shared import ROOT
from docs.generate.text import page, section, table
from xeval import errors

HEADER = ("looked at", "when", "what is said", "checked in", "proof")
ROWS = Path(__file__).with_name("checks.txt")
INTRO = (
    "What xeval looks at by itself, without being asked, in models, answers, data, checkpoints and recipes. *What is "
    "said* is the message in the code, with … where it names your files and numbers. An error ends the command with "
    "its [exit code](reliability.md#exit-codes) and is an exception in Python. The test of a row asserts its message."
)


ADDING = (
    "*Written by `make docs` from [checks.txt](generate/checks.txt), one line a check, and from the code. A test fails "
    "where a line names a function, a message or a test that does not exist.*"
)


@dataclass(frozen=True)
class Checked:
    """One check: its subject, when it is made, its place ``module:function``, words of its message, and its test.

    ``module`` is a file below ``xeval/``, or begins with ``training`` or ``reports``; ``test`` is ``file::function``
    below ``tests/``. ``ending`` says what becomes of it where it is no error: a warning, a note, a count.
    """

    subject: str
    when: str
    place: str
    words: str
    test: str
    ending: str = ""


def sections() -> dict[str, list[Checked]]:
    """Return the rows of ``checks.txt`` by their headings; raise ValueError for a line that is no row."""
    found: dict[str, list[Checked]] = {}
    for line in ROWS.read_text(encoding="utf-8").partition("\n## ")[2].splitlines():
        title = line.removeprefix("## ")
        if title != line or not found:
            found[title] = []
        elif line:
            found[list(found)[-1]].append(row_of(line))
    return found


def row_of(line: str) -> Checked:
    """Return the row of a line; raise ValueError where it has not five or six parts."""
    parts = [part.strip() for part in line.split(" | ")]
    if not 5 <= len(parts) <= 6:
        raise ValueError(f"{ROWS.name}: {line!r} has {len(parts)} parts")
    return Checked(*parts)


def checks_page() -> str:
    """Return the page; raise LookupError for a row whose check or test does not exist."""
    tables = (section(title, table(HEADER, [_cells(row) for row in rows])) for title, rows in sections().items())
    return page("What is checked", INTRO, *tables, ADDING)


def _cells(row: Checked) -> tuple[str, ...]:
    require_proof(row)
    file, _, test = row.test.partition("::")
    code = _file(row.place).relative_to(ROOT).as_posix()
    return row.subject, row.when, said(row), f"[{code}](../{code})", f"[`{test}`](../tests/{file})"


def said(row: Checked) -> str:
    """Return how a check ends and its message; raise LookupError where the function does not say the words."""
    tree, function = _function(row.place)
    calls = list(_errors(tree, function))
    quoted = next((text for text in _texts(function) if row.words in text), None)
    kinds = {kind for kind, text in calls if row.words in text} or {kind for kind, _ in calls}
    if quoted is None or (not row.ending and len(kinds) != 1):
        raise LookupError(f"{row.place} does not say {row.words!r}{'' if quoted is None else ' in an error'}")
    ending = row.ending or f"exit {getattr(errors, kinds.pop()).exit_code}"
    return f"{ending}: “{quoted.strip().removeprefix('warning: ')}”"


def require_proof(row: Checked) -> None:
    """Raise LookupError where the test does not exist or does not quote the words."""
    file, _, name = row.test.partition("::")
    path = ROOT / "tests" / file
    found = _named(_tree(path), name) if path.is_file() else None
    if found is None:
        raise LookupError(f"tests/{row.test} does not exist")
    first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
    if row.words not in "\n".join(path.read_text(encoding="utf-8").splitlines()[first - 1 : found.end_lineno]):
        raise LookupError(f"tests/{row.test} does not quote {row.words!r}")


def unlisted(module: str, rows: Sequence[Checked]) -> list[str]:
    """Return the errors of a module that no row quotes, as ``function: message``."""
    tree = _tree(_file(module))
    return [
        f"{module}:{name}: {text}"
        for name, function in _functions(tree)
        for _, text in _errors(tree, function)
        if text.strip("… ") and not any(row.place == f"{module}:{name}" and row.words in text for row in rows)
    ]


# ---- reading the code ------------------------------------------------------------------------------------------------


def _file(place: str) -> Path:
    module = place.partition(":")[0]
    top = ROOT if module.split(".")[0] in ("training", "reports") else ROOT / "xeval"
    return top / f"{module.replace('.', '/')}.py"


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _function(place: str) -> tuple[ast.Module, ast.FunctionDef]:
    """Return the module and the function of a place; raise LookupError where there is none."""
    path = _file(place)
    found = dict(_functions(_tree(path))).get(place.partition(":")[2]) if path.is_file() else None
    if found is None:
        raise LookupError(f"{place} does not exist")
    return _tree(path), found


def _functions(node: ast.AST, parent: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield functions and methods below a node with their names, ``Class.method``; inner functions belong to them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield f"{parent}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{parent}{child.name}.")


def _named(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    return next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _errors(tree: ast.Module, function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """Yield kind and message of the errors that a function makes, itself or by a helper of its module."""
    helpers = {node.name: _kind(node.returns) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
            if kind := _kind(call.func):
                yield kind, _text(call.args[0])
            elif kind := helpers.get(call.func.id, ""):
                yield kind, " ".join(filter(None, map(_text, call.args)))


def _kind(node: ast.expr | None) -> str:
    """Return the name of an error's class, or an empty text for anything else."""
    return node.id if isinstance(node, ast.Name) and isinstance(getattr(errors, node.id, None), type) else ""


def _texts(function: ast.FunctionDef) -> list[str]:
    """Return the texts that a function holds, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    found: list[str] = []
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        text = _text(node)
        found += [text] if text else []
        waiting += [] if text else list(reversed(list(ast.iter_child_nodes(node))))
    return found


def _text(node: ast.AST) -> str:
    """Return a text with … for what is filled in; an empty text for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
