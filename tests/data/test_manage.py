"""xeval data list, get and check, against a server on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.commands import here
from tests.data import makers
from xeval.data import manage, open_dataset
from xeval.data.archive import MARKER
from xeval.data.manage import check, get, listing
from xeval.data.sources import READERS, Source
from xeval.errors import CheckpointError, DataError, ResourceError, UsageError

IMAGES, LABELS = makers.noise(12, 32, seed=1), np.array([3, 9, 3, 0, 1, 2, 9, 9, 8, 7, 6, 5])
ARCHIVE = makers.tar_of(makers.cifar100_binary(IMAGES, LABELS))
FILE, FOLDER = "cifar-100-binary.tar.gz", "cifar-100-binary"


class Server(BaseHTTPRequestHandler):
    """Serves ``content``; cuts the first ``cuts`` answers at 70 % and misbehaves as ``manner`` says."""

    content: ClassVar[bytes] = ARCHIVE
    cuts: ClassVar[int] = 0
    ranges: ClassVar[list[str | None]] = []
    manner: ClassVar[str] = ""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        Server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start and start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.end_headers()
            return
        body, status, span = self.answer(start)
        self.send_response(status)
        if span:
            self.send_header("Content-Range", span)
        if self.manner != "no length":
            self.send_header("Content-Length", "many" if self.manner == "odd length" else str(len(body)))
        self.end_headers()
        if Server.cuts:
            Server.cuts -= 1
            body = body[: len(body) * 7 // 10]
        self.wfile.write(body)

    def answer(self, start: int) -> tuple[bytes, int, str]:
        """Body, status and Content-Range."""
        data, last, total = self.content, len(self.content) - 1, len(self.content)
        plain = (data[start:], 206, f"bytes {start}-{last}/{total}") if start else (data, 200, "")
        resumed = {
            "ignores ranges": (data, 200, ""),
            "from the beginning": (data, 206, f"bytes 0-{last}/{total}"),
            "further on": (data[start + 7 :], 206, f"bytes {start + 7}-{last}/{total}"),
            "no range said": (data[start + 7 :], 206, ""),
            "shorter file": (data[start:], 206, f"bytes {start}-{last}/{start - 1}"),
            "in steps": (data[start : start + 50], 206, f"bytes {start}-{start + 49}/{total}"),
        }
        first = {"unasked part": (data[5:], 206, f"bytes 5-{last}/{total}")}
        return (resumed if start else first).get(self.manner, plain)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class InChunks(Server):
    """Serves the content in chunks, without its length; a cut leaves the last chunk out."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        half = len(self.content) // 2
        for part in (self.content[:half], self.content[half:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            if Server.cuts:
                Server.cuts -= 1
                return
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """The official host, played here; CIFAR-100's archive has the checksum of a small one."""
    Server.content, Server.cuts, Server.ranges, Server.manner = ARCHIVE, 0, [], ""
    host = ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", Server))
    threading.Thread(target=host.serve_forever, daemon=True).start()
    serve_from(monkeypatch, f"http://127.0.0.1:{host.server_port}/{FILE}")
    yield Server
    host.shutdown()
    host.server_close()


def serve_from(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    source = READERS["cifar100"]
    official = replace(source.archives[0], url=url, md5=hashlib.md5(ARCHIVE).hexdigest())
    changed: dict[str, Source] = {**READERS._things, "cifar100": replace(source, archives=(official,))}
    monkeypatch.setattr(READERS, "_things", changed)


def names(root: Path) -> list[str]:
    return sorted(item.name for item in root.iterdir())


def test_get_verifies_unpacks_and_is_idempotent(server: type[Server], tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    assert get("cifar100", root) == root / FOLDER
    assert names(root) == [FOLDER, FILE]
    assert (root / FOLDER / MARKER).is_file()
    split = open_dataset("cifar100", root).split("train")
    assert np.array_equal(split.read(range(8)).numpy(), IMAGES[:8])
    (root / FILE).unlink()  # what is unpacked and marked complete needs no archive any more
    before = makers.snapshot(root)
    assert get("cifar100", root) == root / FOLDER
    assert makers.snapshot(root) == before
    assert len(server.ranges) == 1


def test_get_by_file_url_and_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "published.tar.gz").write_bytes(ARCHIVE)
    serve_from(monkeypatch, (tmp_path / "published.tar.gz").as_uri())
    monkeypatch.setenv("XEVAL_DATA", str(tmp_path / "root"))
    assert get("cifar100") == tmp_path / "root" / FOLDER


@pytest.mark.fault("D3")
def test_wrong_checksum_is_set_aside_and_never_unpacked(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = makers.tar_of({"cifar-100-binary/train.bin": b"other"})
    code, _, last = here(capsys, "data", "get", "cifar100", "--data", str(tmp_path))
    assert code == 4
    found, expected = (hashlib.md5(data).hexdigest() for data in (server.content, ARCHIVE))
    assert f"{FILE}.bad has the wrong checksum: md5 {found}, expected {expected}" in last
    assert names(tmp_path) == [f"{FILE}.bad"]
    server.content = ARCHIVE
    assert get("cifar100", tmp_path).is_dir()


@pytest.mark.fault("D4")
def test_cut_connection_then_continued(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts = 1
    command = ("data", "get", "cifar100", "--data", str(tmp_path))
    code, _, last = here(capsys, *command)
    assert (code, "was cut after" in last) == (5, True)
    assert names(tmp_path) == [f"{FILE}.part"]
    code, out, _ = here(capsys, *command)
    assert (code, out.strip()) == (0, str(tmp_path / FOLDER))
    assert names(tmp_path) == [FOLDER, FILE]
    assert server.ranges == [None, f"bytes={len(ARCHIVE) * 7 // 10}-"]


def test_complete_part_is_not_fetched_again(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(ARCHIVE)
    assert get("cifar100", tmp_path).is_dir()
    assert server.ranges == [f"bytes={len(ARCHIVE)}-"]


BEGUN = 100
"""So many bytes of the archive are there already."""


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    "manner", ["ignores ranges", "from the beginning", "further on", "no range said", "shorter file"]
)
def test_other_bytes_than_asked_start_the_download_anew(manner: str, server: type[Server], tmp_path: Path) -> None:
    server.manner = manner
    (tmp_path / f"{FILE}.part").write_bytes(ARCHIVE[:BEGUN])
    assert get("cifar100", tmp_path) == tmp_path / FOLDER
    assert (tmp_path / FILE).read_bytes() == ARCHIVE
    assert server.ranges == [f"bytes={BEGUN}-", None]


@pytest.mark.fault("D4")
def test_a_part_longer_than_the_file_starts_the_download_anew(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(ARCHIVE + b"more")
    assert get("cifar100", tmp_path).is_dir()
    assert server.ranges == [f"bytes={len(ARCHIVE) + 4}-", None]


@pytest.mark.fault("D4")
def test_a_server_that_gives_less_than_asked_is_asked_again(server: type[Server], tmp_path: Path) -> None:
    """The whole is as long as the range says, not as the answer: nothing is mistaken for a wrong checksum."""
    server.manner = "in steps"
    (tmp_path / f"{FILE}.part").write_bytes(ARCHIVE[:BEGUN])
    for step in (1, 2):
        with pytest.raises(ResourceError, match=f"was cut after {BEGUN + 50 * step} of {len(ARCHIVE):,} bytes"):
            get("cifar100", tmp_path)
        assert (tmp_path / f"{FILE}.part").read_bytes() == ARCHIVE[: BEGUN + 50 * step]


@pytest.mark.fault("D4")
@pytest.mark.parametrize("manner", ["no length", "odd length"])
def test_without_a_length_the_checksum_says_whether_all_is_there(
    manner: str, server: type[Server], tmp_path: Path
) -> None:
    server.manner, server.cuts = manner, 1
    with pytest.raises(ResourceError, match=f"did not say how long the file is, and {len(ARCHIVE) * 7 // 10:,} bytes"):
        get("cifar100", tmp_path)
    assert names(tmp_path) == [f"{FILE}.part"]
    assert get("cifar100", tmp_path).is_dir()
    assert (tmp_path / FILE).read_bytes() == ARCHIVE
    assert server.ranges == [None, f"bytes={len(ARCHIVE) * 7 // 10}-"]


@pytest.mark.fault("D4")
@pytest.mark.parametrize("server", [InChunks], indirect=True)
def test_chunks_say_where_the_file_ends(server: type[Server], tmp_path: Path) -> None:
    server.cuts = 1
    with pytest.raises(ResourceError, match="could not be fetched"):
        get("cifar100", tmp_path)
    assert (tmp_path / f"{FILE}.part").is_file()
    assert get("cifar100", tmp_path).is_dir()
    server.content = ARCHIVE[:-1]
    with pytest.raises(CheckpointError, match="wrong checksum"):
        get("cifar100", tmp_path / "b")


@pytest.mark.fault("D4")
def test_a_part_that_nobody_asked_for_is_no_file(server: type[Server], tmp_path: Path) -> None:
    server.manner = "unasked part"
    with pytest.raises(ResourceError, match="a part of the file, although all of it was asked for"):
        get("cifar100", tmp_path)
    assert names(tmp_path) == []


def test_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_from(monkeypatch, "http://127.0.0.1:9/x.tar.gz")
    with pytest.raises(ResourceError, match=r"could not be fetched.*put the file into"):
        get("cifar100", tmp_path)


def test_an_archive_that_lies_there_is_verified_and_never_touched(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else")
    for act in (get, check):
        with pytest.raises(CheckpointError, match="wrong checksum"):
            act("cifar100", tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"something else"
    assert server.ranges == []


@pytest.mark.fault("D1")
def test_hostile_official_archive_leaves_no_folder(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = makers.tar_of({"cifar-100-binary/train.bin": b"x", "../evil": b"x"})
    monkeypatch.setattr("tests.data.test_manage.ARCHIVE", hostile)
    server.content = hostile
    source = READERS["cifar100"]
    official = replace(source.archives[0], md5=hashlib.md5(hostile).hexdigest())
    monkeypatch.setitem(READERS._things, "cifar100", replace(source, archives=(official,)))
    root = tmp_path / "root"
    with pytest.raises(CheckpointError, match=r"'\.\./evil' is refused"):
        get("cifar100", root)
    assert names(root) == [FILE]
    assert names(tmp_path) == ["root"]


def test_full_disk_is_a_resource_error(server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xeval.data.download.shutil.copyfileobj", full)
    with pytest.raises(ResourceError, match="No space left"):
        get("cifar100", tmp_path)
    assert names(tmp_path) in ([], [f"{FILE}.part"])


@pytest.mark.parametrize("name", ["digits", "photo10", "shapes", "folder"])
def test_nothing_to_download(name: str) -> None:
    with pytest.raises(UsageError, match="nothing to download"):
        get(name)


def test_check_reports(server: type[Server], tmp_path: Path) -> None:
    get("cifar100", tmp_path)
    report = check("cifar100", tmp_path)
    split = open_dataset("cifar100", tmp_path).split("test")
    assert report == {
        "name": "cifar100",
        "place": str(tmp_path / FOLDER),
        "checksum": "official",
        "classes": 100,
        "splits": {
            "train": {
                "images": 8,
                "manifest": open_dataset("cifar100", tmp_path).split("train").manifest(),
                "damaged": [],
                "notes": [],
            },
            "test": {"images": 4, "manifest": split.manifest(), "damaged": [], "notes": []},
        },
    }


@pytest.mark.fault("D7")
def test_check_lists_damaged_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = makers.image_folder(makers.noise(5, 32, seed=0))
    makers.write_tree(tmp_path, {**files, "train/ant/1.png": b"", "val/bee/4.png": b"x"})
    code, out, last = here(capsys, "data", "check", f"folder:{tmp_path}")
    report = json.loads(out)
    assert report == check(f"folder:{tmp_path}")
    assert report["place"] == str(tmp_path)
    assert report["splits"]["train"]["damaged"] == [f"{tmp_path}/train/ant/1.png is a 0-byte file"]
    assert report["splits"]["test"]["manifest"] is None
    assert len(report["splits"]["test"]["damaged"]) == 1
    assert code == 3
    assert f"2 of 5 images of folder:{tmp_path} cannot be read, first: {tmp_path}/train/ant/1.png" in last


def test_check_of_built_in_and_missing_sets(tmp_path: Path) -> None:
    assert check("digits")["place"] == "built in"
    with pytest.raises(DataError, match="was not found"):
        check("cifar10", tmp_path)
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        check("cifar11", tmp_path)


def test_listing_has_a_row_for_every_reader(tmp_path: Path) -> None:
    makers.zip_of(tmp_path / "tiny-imagenet-a20.zip", makers.tiny_imagenet(makers.noise(9, 64, 0)))
    rows = {row["name"]: row for row in listing(tmp_path)}
    assert set(rows) == set(READERS)
    assert rows["digits"]["state"] == "built in"
    assert rows["cifar10"]["state"] == "not here: xeval data get cifar10"
    assert rows["tiny-imagenet"]["state"] == str(tmp_path / "tiny-imagenet-a20.zip")
    makers.zip_of(tmp_path / "tiny-imagenet-b20.zip", {})
    assert "several subsets" in {row["name"]: row for row in manage.listing(tmp_path)}["tiny-imagenet"]["state"]


def test_official_archives_name_host_and_checksum() -> None:
    for name in ("cifar10", "cifar100", "tiny-imagenet"):
        for archive in READERS[name].archives:
            assert archive.url.startswith("https://")
            assert archive.url.endswith(f"/{archive.file}")
            assert len(bytes.fromhex(archive.md5)) == 16
