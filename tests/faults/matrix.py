"""Which tests prove which rows of the fault matrix: read from the markers, counted in docs/reliability.md.

``python -m tests.faults.matrix`` rewrites the last column of the page's tables and the count;
``pytest --fault C1`` runs the tests of a row.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\| (?P<row>[A-Z]\d+) \| (?P<text>.*?) \| (?P<exit>[^|]*?) \| (?P<proof>[^|]*) \|$", re.MULTILINE)
COUNT = re.compile(r"\d+ of \d+ rows are proved by tests")
NOT_HERE = "not tested: "


def proofs() -> dict[str, list[str]]:
    """Row → the tests that carry its marker, as ``file::name`` below tests/."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, marked in _marked(ast.parse(path.read_text(encoding="utf-8"))):
            for row in marked:
                found.setdefault(row, []).append(f"{path.relative_to(ROOT / 'tests').as_posix()}::{name}")
    return found


def _marked(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    yield node.name, [ast.literal_eval(argument) for argument in decorator.args]


def rows(page: str) -> dict[str, str]:
    """Row → its proof column as the page has it."""
    return {match["row"]: match["proof"].strip() for match in ROW.finditer(page)}


def chosen(asked: Iterable[str], page: str) -> set[str]:
    """The rows that ``--fault`` names, alone or separated by commas.

    Raises :class:`ValueError` for a row that the page does not have, or that no test can prove.
    """
    names = [name.strip() for words in asked for name in words.split(",")]
    table = rows(page)
    for name in names:
        if name not in table:
            raise ValueError(f"no row {name!r} in docs/reliability.md, which has {', '.join(table)}")
        if table[name].startswith(NOT_HERE):
            raise ValueError(f"row {name} is {table[name]}")
    return set(names)


def rewritten(page: str) -> str:
    """The page with the number of tests that there are now; a row without a test keeps its reason."""
    known = proofs()

    def line(match: re.Match[str]) -> str:
        row, number = match["row"], len(known.get(match["row"], ()))
        proof = f"`fault {row}`, {number} test{'s' * (number > 1)}" if number else match["proof"].strip()
        return f"| {row} | {match['text']} | {match['exit']} | {proof} |"

    text = ROW.sub(line, page)
    return COUNT.sub(f"{sum(row in known for row in rows(text))} of {len(rows(text))} rows are proved by tests", text)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
