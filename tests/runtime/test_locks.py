"""One writer a directory: who holds a lock is told, a dead owner holds nothing, and asking changes nothing."""

import errno
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
def owner(lock: str, path: Path, first: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock; it runs other code ``first``."""
    command = [sys.executable, "-c", first + OWNER.format(lock=lock), str(path)]
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
    path, flock, tries = tmp_path / LOCK, fcntl.flock, []

    def removed_first(descriptor: int, kind: int) -> None:
        if path.exists() and kind != fcntl.LOCK_UN:
            if not tries:
                path.unlink()
            tries.append(kind)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    monkeypatch.setattr(locks, "PATIENCE", 0)  # even where the machine leaves no time for a second try
    with locked(tmp_path):
        assert path.exists()
    assert len(tries) == 2


def test_a_lock_is_not_taken_twice_in_one_process(tmp_path: Path) -> None:
    with locked(tmp_path):
        for _ in range(2):
            with pytest.raises(BusyError, match=f"process {os.getpid()} on"), locked(tmp_path):
                pass
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    with locked(tmp_path):
        pass


def test_a_file_is_held_while_its_owner_lives(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with owner("waiting", path) as process:
        assert is_held(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()
    assert not is_held(path)
    assert list(tmp_path.iterdir()) == []
    with waiting(path):
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_that_only_ask_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock, tries = tmp_path / "a.lock", fcntl.flock, []

    def taken_first(descriptor: int, kind: int) -> None:
        if path.exists() and kind != fcntl.LOCK_UN:
            tries.append(kind)
            if len(tries) < 3:
                raise BlockingIOError(errno.EWOULDBLOCK, "another asks")
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", taken_first)
    monkeypatch.setattr(locks, "PATIENCE", 60)
    assert not is_held(path)
    assert len(tries) == 3
    monkeypatch.undo()
    with waiting(path):
        assert is_held(path)


@pytest.fixture(params=["ENOSYS", "ENOTSUP", "ENOLCK"])
def unsupported(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system without locks, in this process; the code that makes it one in another process."""
    code = f"""
import errno, fcntl
def refuse(*_):
    raise OSError(errno.{request.param}, "no locks here")
fcntl.flock = refuse
"""
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # put back afterwards
    exec(code, {})
    return code


def test_without_kernel_locks_the_file_is_the_lock(
    tmp_path: Path, unsupported: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    with owner("locked", tmp_path, unsupported) as process:
        before = (tmp_path / LOCK).read_bytes()
        for _ in range(2):
            named = f"process {process.pid} on {os.uname().nodename} since 20.*T.*remove {tmp_path / LOCK}"
            with pytest.raises(BusyError, match=named), locked(tmp_path):
                pass
        assert (tmp_path / LOCK).read_bytes() == before
        assert is_held(tmp_path / LOCK)
        process.communicate()
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"), locked(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == [tmp_path / LOCK]
    assert list(tmp_path.iterdir()) == []
    assert not recwarn.list
    assert not caplog.records


def test_without_kernel_locks_a_file_is_held_while_its_owner_works(tmp_path: Path, unsupported: str) -> None:
    path = tmp_path / "a.lock"
    with owner("waiting", path, unsupported) as process:
        assert is_held(path)
        process.communicate()
    assert not is_held(path)
    with waiting(path):
        assert is_held(path)


def test_without_kernel_locks_a_killed_owner_is_taken_over_or_its_file_is_named(
    tmp_path: Path, unsupported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner("locked", tmp_path, unsupported) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    path = tmp_path / LOCK
    left = path.read_text()
    elsewhere = left.replace(left.splitlines()[1], "elsewhere")
    path.write_text(elsewhere)
    with (
        pytest.raises(BusyError, match=rf"process {process.pid} on elsewhere since .* remove {path}"),
        locked(tmp_path),
    ):
        pass
    assert path.read_text() == elsewhere
    path.write_text(left)
    monkeypatch.setattr(locks, "PATIENCE", 60)
    with locked(tmp_path):
        assert path.read_text().splitlines()[0] == str(os.getpid())
    assert list(tmp_path.iterdir()) == []
