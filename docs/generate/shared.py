"""What the pages of metrics and of explainers have in common: the tests, the other libraries and the citation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.generate.text import listed, source, table
from xeval.reports import methods
from xeval.verify.check import Check
from xeval.verify.run import checks

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {
    "captum": "captum",
    "quantus": "Quantus",
    "pytorch_grad_cam": "pytorch-grad-cam",
    "zennit": "zennit",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "scipy": "SciPy",
}
"""Libraries with which tests compute the same values: import name → name in the text."""


def tests(function: Callable[..., Any]) -> str:
    """Link the test file of the file that defines ``function``, and name the libraries that the test compares with."""
    path = Path(source(function, ROOT))
    name = f"tests/{path.parent.name}/test_{path.name}"
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
    beside = [library for package, library in LIBRARIES.items() if package in imported]
    return f"[{name}](../../{name})" + (f", beside {listed(beside)}" if beside else "")


def parity(names: set[str]) -> str:
    """Return the table of those comparisons of ``xeval verify`` whose subject is one of ``names``."""
    found = [check for check in checks() if subject(check) in names]
    if not found:
        return "No other library in [`xeval verify`](../parity.md)."
    rows = [(check.name, check.oracle, f"{check.tolerance:g}") for check in found]
    return (
        "Compared by [`xeval verify`](../parity.md), on your own checkpoint, with a tolerance on |a − b| / max(1, |b|):"
        f"\n\n{table(('here', 'there', 'tolerance'), rows)}"
    )


def subject(check: Check) -> str:
    """Return the metric, column or explainer that a check is about; the name of the check begins with it."""
    return re.split(r"[, ]", check.name)[0]


def bibtex(citation: str) -> list[str]:
    """Return the short citation and its entries in a report's references.bib."""
    entries = dict(methods.references().values())
    found = "\n".join(entries[key].strip() for key in methods.keys_of(citation))
    return [f"{citation}.", f"```bibtex\n{found}\n```" if found else ""]


def footer(function: Callable[..., Any]) -> str:
    """Return the line that says which file the words of a page come from."""
    path = source(function, ROOT)
    return f"*Written by `make docs` from [{path}](../../{path}). Change the words there.*"
