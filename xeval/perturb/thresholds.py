"""Check the fractions of pixels that drop/increase keeps, and name the kinds of masks that keep them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from xeval.errors import UsageError

Mask: TypeAlias = Literal["topk", "soft", "cutoff"]


def require_thresholds(values: Iterable[float]) -> tuple[float, ...]:
    """Return the keep fractions; raise :class:`UsageError` saying why for one outside [0, 1] or given twice."""
    found = tuple(values)
    if not found:
        raise UsageError("no threshold was given", "give fractions of pixels kept, such as 0.15,0.3,0.45")
    for value in found:
        if not 0 <= value <= 1:
            hint = (
                f"did you mean {value / 100:g}?" if 1 < value <= 100 and value >= 2 else "give a fraction from 0 to 1"
            )
            raise UsageError(f"the threshold {value:g} is not a fraction of pixels kept", hint)
        if found.count(value) > 1:
            raise UsageError(f"the threshold {value:g} is given twice", "give each threshold once")
    return found


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Parse ``0.15,0.3,0.45`` to three floats; raise :class:`UsageError` for what is not a number."""
    values: list[float] = []
    for part in text.split(","):
        try:
            values.append(float(part))
        except ValueError:
            raise UsageError(
                f"the threshold {part!r} is not a number", "give fractions such as 0.15,0.3,0.45"
            ) from None
    return require_thresholds(values)
