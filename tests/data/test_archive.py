"""Hostile and damaged archives: refused by name, nothing written outside, nothing left behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.makers import snapshot, tar_of, zip_of
from xeval.data import archive
from xeval.data.archive import MARKER, extract, read_members
from xeval.data.files import ZipTree, open_zip
from xeval.errors import CheckpointError, DataError, UsageError

GOOD = {"set/a.bin": b"aaa", "set/deep/b.bin": b"b" * 3_000_000, "set/c.txt": b""}


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Path], Path]:
    """A maker of tar.gz files: a good member, then the hostile one."""

    def make(root: Path) -> Path:
        path = root / "x.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for member_name, member_kind, data in (("set/first", tarfile.REGTYPE, b"1"), (name, kind, b"evil")):
                info = tarfile.TarInfo(member_name)
                info.type, info.linkname = member_kind, link
                info.size = len(data) if member_kind == tarfile.REGTYPE else 0
                tar.addfile(info, io.BytesIO(data))
        return path

    return make


def zip_with(name: str, mode: int = 0) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        path = zip_of(root / "x.zip", {"set/first": b"1"})
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        with zipfile.ZipFile(path, "a") as packed:
            packed.writestr(info, b"/etc/passwd")
        return path

    return make


HOSTILE = {
    "tar parent": (tar_with("../evil"), "a path to a parent"),
    "tar inner parent": (tar_with("set/../../evil"), "a path to a parent"),
    "tar absolute": (tar_with("/evil"), "an absolute path"),
    "tar symlink": (tar_with("set/link", tarfile.SYMTYPE, "/etc"), "a link or a device"),
    "tar hard link": (tar_with("set/link", tarfile.LNKTYPE, "set/first"), "a link or a device"),
    "tar device": (tar_with("set/device", tarfile.CHRTYPE), "a link or a device"),
    "tar pipe": (tar_with("set/pipe", tarfile.FIFOTYPE), "a link or a device"),
    "tar backslash": (tar_with("set\\..\\evil"), "a backslash"),
    "tar drive": (tar_with("C:evil"), "an absolute path"),
    "tar escape sequence": (tar_with("set/\x1b[31mred"), "unprintable"),
    "tar newline": (tar_with("set/a\nb"), "unprintable"),
    "tar long name": (tar_with("set/" + "n" * 5000), "an over-long name"),
    "tar long part": (tar_with("set/" + "é" * 200), "an over-long name"),
    "tar twice": (tar_with("set/first"), "comes twice"),
    "tar file as folder": (tar_with("set/first/second"), "comes twice"),
    "zip parent": (zip_with("../evil"), "a path to a parent"),
    "zip absolute": (zip_with("/evil"), "an absolute path"),
    "zip symlink": (zip_with("set/link", stat.S_IFLNK | 0o777), "a link or a device"),
    "zip long name": (zip_with("set/" + "n" * 5000), "an over-long name"),
}


@pytest.mark.fault("D1", "D2")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused(kind: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[kind]
    (tmp_path / "in").mkdir()
    root = tmp_path / "out" / "root"
    root.mkdir(parents=True)
    path = make(tmp_path / "in")
    before = snapshot(tmp_path / "in")
    with pytest.raises(CheckpointError, match=f"is refused .*{reason}") as caught:
        extract(path, root, "set")
    assert "\x1b" not in str(caught.value)
    assert list((tmp_path / "out").rglob("*")) == [root]
    assert snapshot(tmp_path / "in") == before
    assert not Path("/evil").exists()


@pytest.mark.parametrize("packed", ["tar.gz", "tar", "zip"])
def test_extract_and_read_in_memory(packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{packed}"
    if packed == "zip":
        zip_of(path, GOOD)
    else:
        data = tar_of(GOOD)
        path.write_bytes(data if packed == "tar.gz" else gzip.decompress(data))
    target = extract(path, tmp_path, "set")
    assert {name: (tmp_path / name).read_bytes() for name in GOOD} == GOOD
    assert json.loads((target / MARKER).read_text())["files"] == 3
    assert sorted(item.name for item in tmp_path.iterdir()) == ["set", path.name]
    assert read_members(path, {"set/a.bin", "none"}) == {"set/a.bin": b"aaa"}


def test_modes_of_members_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("set/a")
        info.mode = 0o6777
        tar.addfile(info, io.BytesIO())
    extract(path, tmp_path, "set")
    assert not (tmp_path / "set/a").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


@pytest.mark.parametrize("keep", [0, 10, 200, -100])
def test_truncated_archives(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    noise = os.urandom(2000)
    path.write_bytes(tar_of({"set/a": noise})[:keep])
    with pytest.raises(CheckpointError, match="damaged or no archive"):
        extract(path, tmp_path, "set")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8bno gzip", b"PK\x05\x06short", bytes(10240)])
def test_no_archive_at_all(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        extract(path, tmp_path, "set")
    assert list(tmp_path.iterdir()) == [path]


def test_bombs_are_refused_before_they_unfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 100_000)
    (tmp_path / "x.tar.gz").write_bytes(tar_of({"set/a": bytes(60_000), "set/b": bytes(60_000)}))
    zip_of(tmp_path / "x.zip", {"set/a": bytes(60_000), "set/b": bytes(60_000)})
    for name in ("x.tar.gz", "x.zip"):
        with pytest.raises(CheckpointError, match="more than 100,000 bytes"):
            extract(tmp_path / name, tmp_path, "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [(50_000_000, 1, "a header declares 50,000,000 bytes"), (60_416, 3, "unpacks to more")],
)
def test_headers_that_unfold_are_refused(
    size: int, count: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extended header of the tar format is read whole: its size must be bounded, and that of many together."""
    monkeypatch.setattr(archive, "MAX_BYTES", 100_000)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 10)
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, size
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress((info.tobuf() + bytes(size)) * count, 1))
    with pytest.raises(CheckpointError, match=message):
        extract(tmp_path / "x.tar.gz", tmp_path, "set")


@pytest.mark.fault("D2")
def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    files = {f"set/{number}": b"" for number in range(6)}
    (tmp_path / "x.tar.gz").write_bytes(tar_of(files))
    zip_of(tmp_path / "x.zip", files)
    for name in ("x.tar.gz", "x.zip"):
        with pytest.raises(CheckpointError, match="more than 5 members"):
            extract(tmp_path / name, tmp_path, "set")


def test_a_directory_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "x.zip", {f"set/{number}": b"" for number in range(50)})
    monkeypatch.setattr(archive, "MAX_READ", 2_000)
    for act in (lambda: extract(path, tmp_path, "set"), lambda: open_zip(path)):
        with pytest.raises(CheckpointError, match=r"x\.zip is damaged .*bytes at once, 2,000 are read"):
            act()


def test_unusual_compressions_are_refused(tmp_path: Path) -> None:
    """Their decompressors take the memory that the file asks for."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("set/a", b"a" * 100)
    with pytest.raises(CheckpointError, match="an unusual compression"):
        extract(tmp_path / "x.zip", tmp_path, "set")
    with pytest.raises(DataError, match="unusual compression"):
        ZipTree(tmp_path / "x.zip").read("set/a")


@pytest.mark.slow
@pytest.mark.fault("D2")
def test_a_million_entries_in_bounded_time_and_memory(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {f"set/{number:06d}": b"" for number in range(10**6)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()  # other processes do not count
    with pytest.raises(CheckpointError):
        extract(path, tmp_path, "set")
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_other_folder_inside(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(tar_of({"other/a": b""}))
    with pytest.raises(CheckpointError, match="holds no folder 'set'"):
        extract(tmp_path / "x.tar.gz", tmp_path, "set")
    assert [item.name for item in tmp_path.iterdir()] == ["x.tar.gz"]


def test_not_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        read_members(tmp_path, set())


KILLED = """
import os, signal, sys
from pathlib import Path
from xeval.data import archive
def die():
    os.kill(os.getpid(), signal.SIGKILL)
write, written = archive._write, []
def write_and_die(*arguments):
    write(*arguments)
    written.append(1)
    if len(written) == 2:
        die()
if sys.argv[3] == "files":
    archive._write = write_and_die
if sys.argv[3] == "marker":
    archive.file_hash = lambda *_: die()
if sys.argv[3] == "rename":
    Path.rename = lambda *_: die()
archive.extract(Path(sys.argv[1]), Path(sys.argv[2]), "set")
"""


@pytest.mark.fault("D5")
@pytest.mark.parametrize("moment", ["files", "marker", "rename"])
def test_killed_while_extracting_then_run_again(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar_of(GOOD))
    root = tmp_path / "root"
    root.mkdir()
    run = subprocess.run([sys.executable, "-c", KILLED, str(path), str(root), moment], check=False)
    assert run.returncode == -9
    (left,) = root.iterdir()
    assert left.name.startswith(archive.TEMPORARY)  # the final name never showed half of it
    extract(path, root, "set")
    assert [item.name for item in root.iterdir()] == ["set"]
    assert {name: (root / name).read_bytes() for name in GOOD} == GOOD


def test_another_process_was_faster(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar_of(GOOD))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "theirs").write_bytes(b"")
    extract(path, tmp_path, "set")
    assert [item.name for item in (tmp_path / "set").iterdir()] == ["theirs"]


def test_temporary_folder_of_a_living_process_stays(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(tar_of(GOOD))
    living = tmp_path / f"{archive.TEMPORARY}{os.getppid()}"
    living.mkdir()
    extract(tmp_path / "x.tar.gz", tmp_path, "set")
    assert living.exists()
