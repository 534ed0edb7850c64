"""Parses ``--seeds`` and ``--set``: lists of seeds, and keys with several values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from xeval.errors import UsageError

MAX_SEEDS = 1000
OPENING, CLOSING, QUOTES = "[{", "]}", "\"'"


@dataclass(frozen=True)
class Axis:
    """A key of the recipe with the values that are tried."""

    key: str
    values: tuple[str, ...]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse ``0-2,7`` to (0, 1, 2, 7); raise :class:`UsageError` for anything else and for a seed given twice."""
    seeds: list[int] = []
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", piece)
        if found is None:
            raise UsageError(f"the seeds {text!r} are no list of numbers", "write for example 0-5 or 0,2,7")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + MAX_SEEDS:
            raise UsageError(f"the seeds {piece.strip()!r} are no range", "write the smaller number first: 0-5")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"the seeds {text!r} name one of them twice", "give each seed once")
    return tuple(seeds)


def split_values(text: str) -> list[str]:
    """Split ``0,50,100`` into three values; commas inside brackets, braces and quotes do not separate."""
    pieces, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in QUOTES:
            quote = char
        else:
            depth += (char in OPENING) - (char in CLOSING)
        if char == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += char
    return [piece.strip() for piece in pieces]


def divide(overrides: Iterable[str], settings: Any) -> tuple[list[str], list[Axis]]:
    """Separate overrides with one value from keys that have several; short names become full ones.

    ``settings`` is the pydantic model of a recipe. Raises :class:`UsageError` for a value that is missing or given
    twice, and for a short name that more than one table has.
    """
    fixed, axes = [], []
    for override in overrides:
        key, equals, text = override.partition("=")
        full = full_key(key.strip(), settings)
        values = split_values(text)
        if len(values) == 1:
            fixed.append(f"{full}{equals}{text}")
            continue
        if "" in values or len(set(values)) < len(values):
            raise UsageError(
                f"the override {override!r} lists a value twice, or none", "write for example key=0,50,100"
            )
        axes.append(Axis(full, tuple(values)))
    return fixed, axes


def full_key(key: str, settings: Any) -> str:
    """Complete ``explain_from_epoch`` to ``excon.explain_from_epoch``; raise UsageError for a key of several tables."""
    paths = list(_paths(settings))
    if "." in key or key in paths:
        return key
    matches = [path for path in paths if path.endswith(f".{key}")]
    if len(matches) > 1:
        raise UsageError(f"the key {key!r} stands in several tables", f"write one of: {', '.join(matches)}")
    return matches[0] if matches else key


def _paths(settings: Any, prefix: str = "") -> Iterable[str]:
    """Yield the dotted names of all keys of a recipe."""
    for name, about in settings.model_fields.items():
        yield f"{prefix}{name}"
        if hasattr(about.annotation, "model_fields"):
            yield from _paths(about.annotation, f"{prefix}{name}.")


def combinations(axes: Sequence[Axis]) -> list[list[str]]:
    """Return every combination of values as overrides; one empty list where nothing varies."""
    return [list(one) for one in product(*([f"{axis.key}={value}" for value in axis.values] for axis in axes))]
