"""Define ``run.json``, the card that describes a trained checkpoint.

A run directory holds ``best.safetensors``, ``last.safetensors``, ``history.csv`` and ``run.json``. The card is written
last and lists the others with size and SHA-256, so a directory without it is incomplete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xeval.checkpoints.folder import MANIFEST
from xeval.data import DatasetInfo
from xeval.errors import DataError
from xeval.models import ModelSpec
from xeval.runtime.files import file_hash, read_json, write_json
from xeval.runtime.validation import first_mistake


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
    name: str
    method: str
    seed: int | None
    recipe_name: str
    recipe: dict[str, Any]
    recipe_hash: str
    dataset: DatasetInfo
    train_manifest: str
    model: ModelSpec
    layer: str | None = None
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
        fields["schema_"] = fields.pop("schema", None)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise DataError(
                f"{origin}: {first_mistake(error)}", "write the run again with this version of xeval"
            ) from None


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
