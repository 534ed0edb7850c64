"""Turn what pydantic refused into words that a person can act on, without importing pydantic here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xeval.errors import UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError


LEAST_SEED, GREATEST_SEED = -(2**63), 2**64 - 1  # what PyTorch's generators take


def require_seed(seed: int) -> None:
    """Raise :class:`UsageError` for a seed of more than 64 bits."""
    if not LEAST_SEED <= seed <= GREATEST_SEED:
        raise UsageError(f"--seed: {seed} has more than 64 bits", f"give one from {LEAST_SEED} to {GREATEST_SEED}")


@dataclass(frozen=True)
class Mistake:
    """A refused value: the path of its key, the message, pydantic's name for the reason, and the value itself."""

    path: tuple[str, ...]
    message: str
    reason: str
    value: Any

    @property
    def key(self) -> str:
        """The path of the key, joined by dots."""
        return ".".join(self.path)

    def __str__(self) -> str:
        """Return ``table.key: why``."""
        return f"{self.key}: {self.message}"


def first_mistake(error: ValidationError) -> Mistake:
    """Return the first mistake that a validation found."""
    first = error.errors()[0]
    return Mistake(tuple(str(part) for part in first["loc"]), first["msg"], first["type"], first["input"])
