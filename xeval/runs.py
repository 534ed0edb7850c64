"""Run directories: names, the manifest, provenance and atomic writes.

A run directory holds ``best.safetensors``, ``last.safetensors``, ``history.csv`` and ``run.json``, which is written
last and lists the others with size and SHA-256: a directory without it is incomplete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import xeval
from xeval.data import DatasetInfo
from xeval.errors import DataError, ResourceError, UsageError, XevalError
from xeval.models import ModelSpec

MANIFEST = "run.json"
TEMPORARY = ".xeval-"  # how the names of unfinished files begin
FULL = (errno.ENOSPC, errno.EDQUOT)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old or its new content, whatever happens in between.

    The temporary file stands beside the target, so the rename never crosses file systems. Raises
    :class:`ResourceError` where the disk is full, OSError for anything else.
    """
    try:
        _replace(path, data)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(path, len(data)) from None
        raise


def disk_full(path: Path, needed: int) -> ResourceError:
    """The error for ``needed`` bytes that found no room beside ``path``."""
    there = next(place for place in path.absolute().parents if place.exists())
    free = shutil.disk_usage(there).free
    return ResourceError(
        f"the disk is full: {path} needs {needed:,} bytes, {free:,} are free",
        "make room and run the same command again; what was saved is kept",
    )


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # noqa: PTH101 - mkstemp made it private
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory entry to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Strict JSON (no NaN literals), atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(path, text.encode())


def read_json(path: Path, schema: str | None = None) -> Any:
    """Parse strict JSON; with ``schema`` also require that value under the key ``schema``.

    Raises :class:`DataError` for a missing, damaged or foreign file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "check the path") from None
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error})", "restore it or run the command that writes it again"
        ) from None
    if schema is not None and (not isinstance(content, dict) or content.get("schema") != schema):
        found = content.get("schema") if isinstance(content, dict) else None
        raise DataError(f"{path} has schema {found!r}, not {schema!r}", "write it again with this version of xeval")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the literal {name}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of ``content``."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def slug(text: str) -> str:
    """A safe file name: letters, digits, ``._-``; a short hash is added where anything had to be replaced."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:80]
    if safe == text and safe:
        return safe
    return f"{safe or 'run'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def run_name(dataset: str, method: str, seed: int) -> str:
    """The name of a run's directory: ``<dataset>-<method>-s<seed>``."""
    return slug(f"{dataset}-{method}-s{seed}")


def provenance() -> dict[str, Any]:
    """Versions, platform and commit, for every file that claims a number."""
    import numpy
    import torch

    return {
        "xeval": xeval.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command": " ".join(["xeval", *sys.argv[1:]]),
    }


def _commit() -> str:
    """The commit of the source tree that runs, with ``+dirty`` where it has changes; ``unknown`` outside a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return "unknown"
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return run.stdout.strip() or "unknown"


class FileEntry(BaseModel):
    """Size and hash of one file of a run."""

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
    """The content of ``run.json``: everything a scorer needs to know about a checkpoint besides its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    schema_: Literal["xeval.run/1"] = "xeval.run/1"
    name: str
    method: str
    seed: int
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
        """The JSON object of ``run.json``."""
        content = self.model_dump(mode="json")
        return {"schema": content.pop("schema_"), **content}

    @classmethod
    def from_json(cls, content: dict[str, Any], origin: str) -> RunCard:
        """Validate a parsed ``run.json``; raises :class:`DataError` naming the first wrong key."""
        fields = dict(content) if isinstance(content, dict) else {}
        fields["schema_"] = fields.pop("schema", None)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"{origin}: {key}: {first['msg']}", "write the run again with this version of xeval"
            ) from None


def write_card(directory: Path, card: RunCard, files: list[str]) -> None:
    """Finish a run: hash ``files`` and write the manifest, last."""
    entries = {
        name: FileEntry(sha256=file_sha256(directory / name), bytes=(directory / name).stat().st_size) for name in files
    }
    write_json(directory / MANIFEST, card.model_copy(update={"files": entries}).to_json())


def read_card(directory: Path) -> RunCard:
    """The manifest of a complete run; raises :class:`DataError` where there is none."""
    if not (directory / MANIFEST).is_file():
        raise DataError(f"{directory} holds no complete run (no {MANIFEST})", "finish it with: xeval train … --resume")
    return RunCard.from_json(read_json(directory / MANIFEST), str(directory / MANIFEST))


def find_runs(root: Path) -> list[Path]:
    """All complete run directories at or below ``root``, sorted by name."""
    return sorted(path.parent for path in root.rglob(MANIFEST))


def writable_directory(path: Path) -> Path:
    """Create ``path`` and prove that it can be written, before any long work; raises :class:`UsageError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _probe(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def require_writable(path: Path) -> None:
    """Prove that ``path`` can be written or created, without creating anything; raises :class:`UsageError`."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        _probe(there)
    except OSError as error:
        raise _unwritable(path, error) from None


def _probe(directory: Path) -> None:
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"probe")
        file.flush()


def _unwritable(path: Path, error: OSError) -> XevalError:
    if error.errno in FULL:
        return disk_full(path, 1)
    return UsageError(f"cannot write to {path} ({error.strerror})", "choose another folder with --out")


def sweep(directory: Path) -> None:
    """Remove the unfinished files that a killed process left in a directory that this process holds the lock of."""
    for path in directory.glob(f"{TEMPORARY}*.tmp"):
        path.unlink(missing_ok=True)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file to the first free name of ``<name>.<suffix>``, ``<name>.<suffix>2``, …; returns the new name."""
    target = free_name(path, suffix)
    path.rename(target)
    return target


def free_name(path: Path, suffix: str) -> Path:
    """The first name of ``<name>.<suffix>``, ``<name>.<suffix>2``, … that nothing has."""
    numbers = ("" if number == 1 else str(number) for number in count(1))
    return next(name for n in numbers if not (name := path.with_name(f"{path.name}.{suffix}{n}")).exists())
