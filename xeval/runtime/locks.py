"""Lock files, so that one process at a time writes; ``run.lock`` does this for a directory.

The locks are those of the library ``filelock``. The kernel frees a lock when its owner dies. Some file systems, mostly
network mounts, have no such locks: there the lock is that the file exists. This costs the following:

- A killed owner leaves the file. The next process on the same host sees that the owner is dead and takes the file over,
  where the file system can exchange two names in one step. Elsewhere, and on another host, the file must be removed by
  hand, as the message says.
- Two hosts exclude each other only if both see the file system with locks or both without.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout, lock_descriptor

from xeval.errors import BusyError
from xeval.runtime.files import sweep

LOCK = "run.lock"
PATIENCE = 0.2  # seconds until a lock counts as held: enough for the turns of others that only ask
POLL = 0.02
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory and remove the unfinished files that a killed owner left there.

    A lock file whose owner is dead is taken over silently.

    Raises:
        BusyError: another process holds the lock; the message names its process, host and start.
    """
    path = directory / LOCK
    kernel = _has_locks(directory)
    lock = _make(path, kernel, sign=True)
    _acquire(lock, path, kernel)
    try:
        sweep(directory)
        yield
    finally:
        if kernel:  # else the release removes it
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it; the file is gone afterwards."""
    with _make(path, _has_locks(path.parent)), _removed(path):
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a file; those that ask at the same time take turns.

    The file that a killed owner left is removed.
    """
    try:
        with _make(path, _has_locks(path.parent)).acquire(PATIENCE), _removed(path):
            return False
    except Timeout:
        return True


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Remove a lock file before its lock is released: whoever waits for it sees that and makes a new one."""
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _has_locks(directory: Path) -> bool:
    """Return whether the file system of a directory has locks; a file without a name is tried, so as to leave none."""
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return False
            raise
    return True


def _make(path: Path, kernel: bool, sign: bool = False) -> FileLock:
    """Return a lock that is not held yet: the kernel's, whose file is signed if asked for, or else the file itself."""
    if not kernel:
        return SoftFileLock(path, poll_interval=POLL, thread_local=False)
    signed = _sign if sign else None
    return FileLock(path, poll_interval=POLL, thread_local=False, fallback_to_soft=False, on_acquired=signed)


def _acquire(lock: FileLock, path: Path, kernel: bool) -> None:
    while not lock.is_locked:
        try:
            lock.acquire(PATIENCE)
        except Timeout:
            try:
                owner = _read_owner(path)
            except FileNotFoundError:  # the owner has just removed it
                continue
            raise _busy(path, owner, kernel) from None


def _sign(descriptor: int) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": datetime.now(UTC).isoformat("T", "seconds")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _read_owner(path: Path) -> str:
    """Return who signed a lock file: our JSON, or, where the file is the lock, the lines of filelock: pid and host."""
    with path.open("rb") as file:
        content, modified = file.read(1000), os.fstat(file.fileno()).st_mtime
    try:
        if content.startswith(b"{"):
            found = json.loads(content)
            pid, host, started = int(found["pid"]), found["host"], found["started"]
        else:
            first, second = content.decode().splitlines()[:2]
            pid, host = int(first), second.partition("?pidns-")[0]  # filelock adds the container's process namespace
            started = datetime.fromtimestamp(modified, UTC).isoformat("T", "seconds")
    except (ValueError, KeyError, TypeError):
        return "another process"
    return f"process {pid} on {host} since {started}"


def _busy(path: Path, owner: str, kernel: bool) -> BusyError:
    remedy = "wait for it to end, or choose another folder with --out"
    if not kernel:
        remedy += f"; this file system has no locks: if that process is gone, remove {path}"
    return BusyError(f"{path.parent} is in use by {owner}", remedy)
