"""What a validation refused, in words that a person can act on; pydantic itself is not imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True)
class Mistake:
    """One refused value: the path of its key, why it is refused, pydantic's name for the reason, and the value."""

    path: tuple[str, ...]
    message: str
    reason: str
    value: Any

    @property
    def key(self) -> str:
        """The key with its tables, separated by dots."""
        return ".".join(self.path)

    def __str__(self) -> str:
        """``table.key: why``."""
        return f"{self.key}: {self.message}"


def first_mistake(error: ValidationError) -> Mistake:
    """The first thing that a validation refused."""
    first = error.errors()[0]
    return Mistake(tuple(str(part) for part in first["loc"]), first["msg"], first["type"], first["input"])
