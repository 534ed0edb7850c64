"""Define ``run.json``, the card that describes a trained checkpoint.

A run directory holds ``best.safetensors``, ``last.safetensors``, ``history.csv`` and ``run.json``. The card is written
last and lists the others with size and SHA-256, so a directory without it is incomplete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xeval.checkpoints.folder import MANIFEST
from xeval.data import DatasetInfo
from xeval.errors import DataError
from xeval.models import ModelSpec
from xeval.runtime.files import file_hash, read_json, write_json
from xeval.runtime.validation import first_mistake

MAX_DEPTH = 50
Line = Annotated[str, Field(max_length=200)]
"""A text that tables show."""


class FileEntry(BaseModel):
    """The size and hash of one file of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class Selection(BaseModel):
    """How the best epoch was chosen, and what it reached on the selection split (None where nothing was held out)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    select_on: str
    best_epoch: int
    best_accuracy: float | None
    last_accuracy: float | None


class RunCard(BaseModel):
    """The content of ``run.json``, which tells a scorer all that it needs about a checkpoint besides its tensors.

    ``seed`` is None where a checkpoint of another project does not say it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    schema_: Literal["xeval.run/1"] = "xeval.run/1"
    name: Line
    method: Line
    seed: int | None
    recipe_name: Line
    recipe: dict[str, Any]
    recipe_hash: str
    dataset: DatasetInfo
    train_manifest: str
    model: ModelSpec
    layer: Line | None = None
    explained_from: int | None = None  # first epoch, from 1, with explanations; None: none are used, or a run of before
    selection: Selection
    provenance: dict[str, Any]
    files: dict[str, FileEntry] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of ``run.json``."""
        content = self.model_dump(mode="json")
        return {"schema": content.pop("schema_"), **content}

    @classmethod
    def from_json(cls, content: dict[str, Any], origin: str) -> RunCard:
        """Validate a parsed ``run.json``; raise :class:`DataError` naming the first wrong key."""
        fields = dict(content) if isinstance(content, dict) else {}
        if _depth(fields) > MAX_DEPTH:
            raise DataError(f"{origin} nests its values more than {MAX_DEPTH} deep", "restore it from its source")
        fields["schema_"] = fields.pop("schema", None)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise DataError(
                f"{origin}: {first_mistake(error)}", "write the run again with this version of xeval"
            ) from None


def _depth(content: Any) -> int:
    """Return how deep dictionaries and lists are nested, without a call for each level."""
    level, depth = [content], 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
        depth += 1
    return depth


def write_card(directory: Path, card: RunCard, files: list[str]) -> None:
    """Finish a run: hash ``files``, and write the card last."""
    entries = {
        name: FileEntry(sha256=file_hash(directory / name), bytes=(directory / name).stat().st_size) for name in files
    }
    write_json(directory / MANIFEST, card.model_copy(update={"files": entries}).to_json())


def read_card(directory: Path) -> RunCard:
    """Return the card of a complete run; raise :class:`DataError` where there is none."""
    if not (directory / MANIFEST).is_file():
        raise DataError(
            f"{directory} holds no complete run (no {MANIFEST})", "finish it: type the same `xeval train` command again"
        )
    return RunCard.from_json(read_json(directory / MANIFEST), str(directory / MANIFEST))
