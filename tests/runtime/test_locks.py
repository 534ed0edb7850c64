"""One writer a directory: who holds a lock is told, a dead owner holds nothing, and asking changes nothing."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xeval.errors import BusyError
from xeval.runtime import locks
from xeval.runtime.locks import LOCK, is_held, locked, waiting

OWNER = """
import sys
from pathlib import Path
from xeval.runtime.locks import locked, waiting
with {lock}(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(lock: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", OWNER.format(lock=lock), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)


def test_the_owner_is_named_and_keeps_its_file_however_often_another_asks(tmp_path: Path) -> None:
    with owner("locked", tmp_path) as process:
        before = (tmp_path / LOCK).read_text()
        for _ in range(2):
            with pytest.raises(BusyError, match=f"process {process.pid} on .* since 20"), locked(tmp_path):
                pass
        assert (tmp_path / LOCK).read_text() == before
        assert set(json.loads(before)) == {"pid", "host", "started"}


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    with owner("locked", tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_its_owner_removes_under_our_hands_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, tries = fcntl.flock, []

    def removed_first(descriptor: int, kind: int) -> None:
        if not tries:
            (tmp_path / LOCK).unlink()
        tries.append(kind)
        flock(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", removed_first)
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert len(tries) == 2


def test_a_file_is_held_while_its_owner_lives(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with owner("waiting", path) as process:
        assert is_held(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_held(path)


def test_two_that_only_ask_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_held(path)
    with waiting(path):
        assert is_held(path)
