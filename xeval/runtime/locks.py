"""Lock files, so that one process at a time writes; ``run.lock`` does this for a directory.

The kernel frees a lock when its owner dies. This module uses flock(2) itself, because the library ``filelock`` reports
a file as busy that its owner has just removed (4.3) or takes it (3.16), empties the owner's file when another process
asks for the lock (3.16), and has no shared lock for processes that only ask whether a file is locked.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from xeval.errors import BusyError
from xeval.runtime.files import sweep

LOCK = "run.lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory and remove the unfinished files that a killed owner left there.

    A lock file whose owner is dead is taken over silently.

    Raises:
        BusyError: another process holds the lock; the message names its process, host and start.
    """
    descriptor = _acquire(directory / LOCK)
    try:
        _sign(descriptor)
        sweep(directory)
        yield
    finally:
        with suppress(FileNotFoundError):
            (directory / LOCK).unlink()
        os.close(descriptor)


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it; the file is not removed afterwards."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a file; those that ask share a lock, so as not to block each other."""
    with path.open("a") as file:
        return not _try(file.fileno(), fcntl.LOCK_SH)


def _try(descriptor: int, kind: int) -> bool:
    """Try to take a lock of this kind without waiting; return whether this process now holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _acquire(path: Path) -> int:
    """Return an open descriptor of the lock file that this process has locked and that still has its name."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try(descriptor, fcntl.LOCK_EX):
            owner = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            raise _busy(path, owner)
        if _same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # the previous owner removed the file after we opened it and before we locked it


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": datetime.now(UTC).isoformat("T", "seconds")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _busy(path: Path, owner: bytes) -> BusyError:
    try:
        found = json.loads(owner)
        who = f"process {int(found['pid'])} on {found['host']} since {found['started']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return BusyError(f"{path.parent} is in use by {who}", "wait for it to end, or choose another folder with --out")
