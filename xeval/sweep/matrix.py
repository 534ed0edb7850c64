"""Reads matrix files: the recipes, methods, seeds, overrides and scores of a whole paper in one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xeval import training
from xeval.errors import UsageError
from xeval.runtime.validation import first_mistake

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_BYTES = 2**20


class Part(BaseModel):
    """Runs that are compared with each other and lie in a folder of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(pattern=NAME, max_length=80)
    recipes: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] | None = Field(default=None, min_length=1)
    set: tuple[str, ...] = ()


class Matrix(BaseModel):
    """The content of a matrix file; without ``methods`` every recipe of a part is trained with its own method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    seeds: str = "0-5"
    limit: int | None = Field(default=None, ge=2)
    parts: tuple[Part, ...] = Field(min_length=1)
    score: dict[str, Any] = {}
    slurm: dict[str, Any] = {}


def folder() -> Path:
    """Return the folder of the matrices that come with the package."""
    return Path(training.__file__).parent / "matrices"


def matrix_names() -> list[str]:
    """Return the names of the matrices that come with the package."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def find_matrix(name_or_path: str) -> tuple[str, Matrix] | None:
    """Return name and content of a matrix, given by name or file; None where it is none and may be a recipe.

    Raises :class:`UsageError` naming the wrong key of a file with ``parts``.
    """
    path = folder() / f"{name_or_path}.toml" if name_or_path in matrix_names() else Path(name_or_path)
    content = _content(path) if path.suffix == ".toml" else {}
    if "parts" not in content:
        return None
    try:
        matrix = Matrix.model_validate(content)
    except ValidationError as error:
        found = first_mistake(error)
        raise UsageError(f"the matrix file {path}: key {found.key!r}: {found.message}", "correct the file") from None
    folders = [one.folder for one in matrix.parts]
    twice = next((name for name in folders if folders.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"the matrix file {path} has two parts in the folder {twice!r}", "give each its own")
    parts = [one.model_copy(update={"recipes": _beside(path, one.recipes)}) for one in matrix.parts]
    return path.stem, matrix.model_copy(update={"parts": tuple(parts)})


def _beside(path: Path, recipes: tuple[str, ...]) -> tuple[str, ...]:
    """Replace recipe files that lie beside the matrix file by their full paths; others are looked for elsewhere."""
    here = path.parent.absolute()
    return tuple(str(here / name) if name.endswith(".toml") and (here / name).is_file() else name for name in recipes)


def _content(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; none where it cannot be read, because the reader of recipes explains that."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def lines_about() -> list[str]:
    """Return the lines of ``xeval list matrices``."""
    found = [(name, find_matrix(name)) for name in matrix_names()]
    return [f"{name:<30} {matrix[1].description}" for name, matrix in found if matrix is not None]
