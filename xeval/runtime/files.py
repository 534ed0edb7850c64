"""Work with files: atomic writes, strict JSON, hashes, safe names and folders that can be written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor

from xeval.errors import DataError, ResourceError, UsageError, XevalError

TEMPORARY = ".xeval-"  # the names of unfinished files begin with this
FULL = (errno.ENOSPC, errno.EDQUOT)
DEEPEST = 64  # levels of JSON; what xeval writes has fewer than ten


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old or its new content, whatever happens in between.

    The temporary file is created beside the target, so that the rename never crosses file systems. Those that killed
    writers of the same target have left are removed.

    Raises:
        ResourceError: the disk is full.
        OSError: anything else fails.
    """
    try:
        remove_abandoned(path.parent, _prefix(path))
        _replace(path, data)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(path, len(data)) from None
        raise


def disk_full(path: Path, needed: int) -> ResourceError:
    """Return the error for ``needed`` bytes that the disk of ``path`` has no room for."""
    free = shutil.disk_usage(nearest_existing(path.absolute().parent)).free
    return ResourceError(
        f"the disk is full: {path} needs {needed:,} bytes, {free:,} are free",
        "make room and run the same command again; what was saved is kept",
    )


def _replace(path: Path, data: bytes) -> None:
    name, file = _begun(path)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            name.replace(path)
    except BaseException:
        with suppress(OSError):
            name.unlink()
        raise
    sync_directory(path.parent)


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """Create and lock the unfinished file of a target; once more where another took it for abandoned before that."""
    while True:
        name = _unfinished(path)
        file = name.open("xb")
        if not _lock(file.fileno()) or os.fstat(file.fileno()).st_nlink:
            return name, file
        file.close()


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder for what is to be moved to ``path``; it is gone afterwards, or when the next one is made."""
    remove_abandoned(path.parent, _prefix(path))
    folder = _unfinished(path)
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.tmp")


def _prefix(path: Path) -> str:
    """Return how the names of the unfinished files of a target begin: short, as a name has at most 255 bytes."""
    return f"{TEMPORARY}{path.name[:40]}."


def remove_abandoned(directory: Path, prefix: str) -> None:
    """Remove the unfinished files and folders whose names begin so, and whose writers no longer hold their locks."""
    for path in [path for path in directory.iterdir() if path.name.startswith(prefix)]:
        with suppress(OSError):  # it is gone, or not ours to open
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _lock(descriptor):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Try to lock an open file or folder; the lock ends with its process. Where there are no locks, nothing is held."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return False


def sync_directory(path: Path) -> None:
    """Flush a directory entry to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN literals), atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(path, text.encode())


def read_json(path: Path, schema: str | None = None) -> Any:
    """Parse strict JSON; with ``schema``, also require that value under the key ``schema``.

    Raises:
        DataError: the file is missing, damaged or has another schema.
    """
    require_regular(path)
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "check the path") from None
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON ({error})", "restore it or run the command that writes it again"
        ) from None
    if schema is not None and (not isinstance(content, dict) or content.get("schema") != schema):
        found = content.get("schema") if isinstance(content, dict) else None
        raise DataError(f"{path} has schema {found!r}, not {schema!r}", "write it again with this version of xeval")
    return content


def parse_json(data: bytes) -> Any:
    """Parse strict JSON in UTF-8, nested at most ``DEEPEST`` deep; raise ValueError for anything else."""
    text = data.decode()
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        if r"\ud" in text.lower():  # half of a pair, which is no text and cannot be written again
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(content) > DEEPEST:
        raise ValueError("it is nested too deep")
    return content


def _depth(content: Any) -> int:
    """Return how deep JSON is nested, without a call for each level."""
    level, depth = [content], 0
    while level := [one for one in level if isinstance(one, dict | list) and one]:
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the literal {name}")


def require_regular(path: Path) -> None:
    """Raise :class:`DataError` for what is there and no regular file: reading a FIFO or a device may never end."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file", "remove it, or run the command that writes it again")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hash of a file's bytes as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def digest(content: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``content`` as hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def slug(text: str) -> str:
    """Return a safe file name of letters, digits and ``._-``; a short hash is added if anything had to be replaced."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:80]
    if safe == text and safe:
        return safe
    return f"{safe or 'run'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def writable_directory(path: Path) -> Path:
    """Create ``path`` and check, before any long work, that it can be written; raise :class:`UsageError` if not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _probe(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def require_writable(path: Path) -> None:
    """Check that ``path`` can be written or created, without creating it; raise :class:`UsageError` if not."""
    try:
        _probe(nearest_existing(path))
    except OSError as error:
        raise _unwritable(path, error) from None


def require_target(path: Path) -> None:
    """Check, before any long work, that a file can be written at ``path``; raise :class:`UsageError` if not."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of {path} does not exist", "make it, or name another file")
    try:
        _probe(path.absolute().parent)
    except OSError as error:
        raise _unwritable(path, error, "name another file") from None


def nearest_existing(path: Path) -> Path:
    """Return ``path``, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _probe(directory: Path) -> None:
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"probe")
        file.flush()


def _unwritable(path: Path, error: OSError, remedy: str = "choose another folder with --out") -> XevalError:
    if error.errno in FULL:
        return disk_full(path, 1)
    return UsageError(f"cannot write to {path} ({error.strerror})", remedy)


def sweep(directory: Path) -> None:
    """Remove the unfinished files of a killed process from a directory whose lock this process holds."""
    for path in directory.glob(f"{TEMPORARY}*.tmp"):
        path.unlink(missing_ok=True)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file to the first free name of ``<name>.<suffix>``, ``<name>.<suffix>2``, …; return the new name."""
    target = free_name(path, suffix)
    path.rename(target)
    return target


def free_name(path: Path, suffix: str) -> Path:
    """Return the first name of ``<name>.<suffix>``, ``<name>.<suffix>2``, … that does not exist yet."""
    numbers = ("" if number == 1 else str(number) for number in count(1))
    return next(name for n in numbers if not (name := path.with_name(f"{path.name}.{suffix}{n}")).exists())
