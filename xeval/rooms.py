"""The other rooms of the house, reached by name: ``xeval/`` never imports training/ or reports/ outright."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def part(name: str) -> Any:
    """``training.…`` or ``reports.…``: installed as ``xeval.<name>``, in a bare checkout found as ``<name>``."""
    room = f"xeval.{name.split('.', maxsplit=1)[0]}"
    try:
        return import_module(f"xeval.{name}")
    except ModuleNotFoundError as error:
        if error.name != room:
            raise
        return import_module(name)
