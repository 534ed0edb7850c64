"""``comparison.toml``: what is compared with what, declared before looking and dated when it was first written."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xeval.errors import UsageError
from xeval.reports.style import Style
from xeval.runtime.files import atomic_write
from xeval.runtime.validation import first_mistake

M = TypeVar("M", bound=BaseModel)
FILE = "comparison.toml"
ALPHA = 0.05


class Declared(BaseModel):
    """The file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    declared: date
    reference: str
    primary: tuple[str, ...]
    alpha: float = Field(default=ALPHA, gt=0, lt=0.5)


class _Content(BaseModel):
    """What the file may hold beside it: how tables are printed, which may stand there alone."""

    model_config = ConfigDict(frozen=True, extra="allow")

    table: Style = Style()

    @property
    def declares(self) -> dict[str, Any]:
        """Return the keys of the declaration."""
        return self.model_extra or {}


@dataclass(frozen=True)
class Declaration:
    """The choices in force: ``changes`` names those that differ from what was declared on ``date``."""

    reference: str
    primary: tuple[str, ...]
    alpha: float = ALPHA
    date: str | None = None
    changes: tuple[str, ...] = field(default=())

    @property
    def sentence(self) -> str:
        """Say when the choices were made."""
        if self.date is None:
            return "The reference and the primary columns were not recorded before looking."
        if self.changes:
            return f"Not as declared on {self.date}: {'; '.join(self.changes)}. Every test here is exploratory."
        return f"Reference and primary columns as declared on {self.date} in {FILE}."

    @property
    def sentence_of_columns(self) -> str:
        """Say when the primary columns were chosen, where the reference is an explainer, which is not declared."""
        if self.date is None:
            return "The primary columns were not recorded before looking."
        if self.changes:
            return self.sentence
        return f"Primary columns as declared on {self.date} in {FILE}; the reference explainer is not declared there."


def declare(
    folder: Path,
    reference: str,
    primary: Sequence[str],
    asked_reference: str | None,
    asked_primary: Sequence[str] | None,
    *,
    keep: bool = True,
) -> Declaration:
    """Read what the folder declares, changed by what is asked for; write it down where nothing is declared yet.

    ``reference`` and ``primary`` are what holds where nobody says otherwise. With ``keep`` off nothing is written.
    Raises UsageError for a damaged file.
    """
    path = folder / FILE
    content = _read(path)
    if content.declares:
        return _in_force(_validated(path, Declared, content.declares), asked_reference, asked_primary)
    chosen = Declared(
        declared=_today(), reference=asked_reference or reference, primary=tuple(asked_primary or primary)
    )
    if not keep:
        return Declaration(chosen.reference, chosen.primary, chosen.alpha)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = f"\n{path.read_text(encoding='utf-8')}" if path.is_file() else ""
        atomic_write(path, (_toml(chosen) + before).encode())  # keys stand before the tables of a TOML file
    except OSError:  # a folder that cannot be written is compared all the same, and the page says what is missing
        return Declaration(chosen.reference, chosen.primary, chosen.alpha)
    return Declaration(chosen.reference, chosen.primary, chosen.alpha, chosen.declared.isoformat())


def _in_force(found: Declared, reference: str | None, primary: Sequence[str] | None) -> Declaration:
    changes = []
    if reference is not None and reference != found.reference:
        changes.append(f"reference {reference} in place of {found.reference}")
    if primary is not None and tuple(primary) != found.primary:
        changes.append(f"primary columns {', '.join(primary)} in place of {', '.join(found.primary)}")
    day = found.declared.isoformat()
    return Declaration(reference or found.reference, tuple(primary or found.primary), found.alpha, day, tuple(changes))


def declared_style(folder: Path) -> Style:
    """Return how the folder's tables are printed: the keys below [table]. Raises UsageError for a damaged file."""
    return _read(folder / FILE).table


def _read(path: Path) -> _Content:
    if not path.is_file():
        return _Content()
    try:
        return _validated(path, _Content, tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(path, str(error)) from None


def _validated(path: Path, model: type[M], content: dict[str, Any]) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _unreadable(path, str(first_mistake(error))) from None


def _unreadable(path: Path, problem: str) -> UsageError:
    return UsageError(f"{path} cannot be read ({problem})", "mend it, or remove it to declare anew")


def _toml(declared: Declared) -> str:
    lines = [
        "# Written by the first `xeval compare` here: what was declared before looking.",
        f"declared = {declared.declared.isoformat()}",
        f"reference = {json.dumps(declared.reference)}",
        f"primary = {json.dumps(declared.primary)}",
        f"alpha = {declared.alpha:g}",
    ]
    return "\n".join(lines) + "\n"


def _today() -> date:
    """Return today in UTC; ``SOURCE_DATE_EPOCH`` fixes it for builds that must repeat."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC).date() if epoch else datetime.now(UTC).date()
