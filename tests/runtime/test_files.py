"""What an atomic write leaves: the old file or the new one, with the mode that the umask allows, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xeval.runtime.files import TEMPORARY, atomic_write, folder_beside

WRITER = """
import os, sys
from pathlib import Path
from xeval.runtime import files
def stopped(*_):
    print("writing", flush=True)
    sys.stdin.read()
os.fsync = stopped
target = Path(sys.argv[1])
if sys.argv[2] == "file":
    files.atomic_write(target, b"never")
else:
    with files.folder_beside(target) as folder:
        (folder / "half").write_text("half")
        stopped()
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.fault("R13")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_dead_writers_leftovers_go_and_a_living_ones_stay(tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "a[b]*", tmp_path / f"{TEMPORARY}else.tmp"
    other.write_text("of another target")
    command = [sys.executable, "-c", WRITER, str(target), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        (begun,) = names(tmp_path) - {other.name}
        atomic_write(target, b"meanwhile")
        assert names(tmp_path) == {begun, other.name, target.name}
        writer.send_signal(signal.SIGKILL)
    assert names(tmp_path) == {begun, other.name, target.name}
    atomic_write(target, b"new")
    assert names(tmp_path) == {other.name, target.name}
    assert target.read_bytes() == b"new"
    with folder_beside(target) as folder:
        assert folder.parent == tmp_path
        (folder / "file").write_text("to be moved")
    assert names(tmp_path) == {other.name, target.name}


def test_a_writer_whose_file_was_taken_for_abandoned_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xeval.runtime import files

    lock, removed = files.lock_descriptor, []

    def robbed(descriptor: int, *, blocking: bool) -> bool:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        return lock(descriptor, blocking=blocking)

    monkeypatch.setattr(files, "lock_descriptor", robbed)
    atomic_write(tmp_path / "a", b"data")
    assert len(removed) == 1
    assert (tmp_path / "a").read_bytes() == b"data"
    assert names(tmp_path) == {"a"}


def test_without_locks_nothing_is_taken_for_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xeval.runtime import files

    def unsupported(*_: object, **__: object) -> bool:
        raise OSError(95, "no locks here")

    monkeypatch.setattr(files, "lock_descriptor", unsupported)
    left = tmp_path / f"{TEMPORARY}a.0.tmp"
    left.write_text("perhaps another's")
    atomic_write(tmp_path / "a", b"data")
    assert names(tmp_path) == {"a", left.name}


def test_the_umask_is_obeyed_and_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("another thread could create a file meanwhile"))
        threads = [threading.Thread(target=atomic_write, args=(tmp_path / str(n), b"x")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(names(tmp_path)) == 8


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "🙂" * 63], ids=["ascii", "two bytes", "four bytes"])
def test_every_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    atomic_write(tmp_path / name, b"x")
    assert names(tmp_path) == {name}
