"""Locks on files, which the kernel frees when their owner dies; ``run.lock`` lets one writer into a directory.

They use flock(2) itself. The library ``filelock`` calls a file busy that its owner has just removed (4.3) or takes it
(3.16), empties the file of the owner where another process asks (3.16), and has no shared lock for those that only ask.
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
    """Hold the lock of a directory; what a killed owner left unfinished there is removed.

    Raises :class:`BusyError` that names process, host and start of the owner while another process holds it. A lock
    file whose owner is dead is taken over silently.
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
    """Hold the lock of a file once nobody else does; the file stays."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; those that only ask never meet each other."""
    with path.open("a") as file:
        return not _try(file.fileno(), fcntl.LOCK_SH)


def _try(descriptor: int, kind: int) -> bool:
    """Take a lock of this kind where that needs no waiting; returns whether it is ours."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _acquire(path: Path) -> int:
    """An open descriptor of the lock file that is ours and still has its name."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try(descriptor, fcntl.LOCK_EX):
            owner = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            raise _busy(path, owner)
        if _same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # its owner removed it between our open and our lock


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
