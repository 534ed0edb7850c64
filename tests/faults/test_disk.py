"""Faults while scoring: a disk that is full or cannot be written loses nothing and is told early."""

import errno
from pathlib import Path

import pytest

from tests.faults.scored import FAST, equal, files, table
from xeval.errors import ResourceError, UsageError
from xeval.runtime import files as runs
from xeval.scoring import run as scoring
from xeval.scoring.run import score
from xeval.scoring.store import Store


@pytest.mark.fault("S3")
def test_a_disk_that_fills_up_at_a_commit(run, whole, tmp_path, monkeypatch):
    """SQLite itself refuses to grow the file; the first chunk stays and nothing else is left behind."""
    original = Store.put

    def put(self, first, blocks):
        if first:
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            self._db.execute(f"PRAGMA max_page_count = {pages}")
        original(self, first, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", put)
        with pytest.raises(ResourceError, match=r"the disk is full: .*scores.sqlite needs [\d,]+ bytes, [\d,]+ are"):
            score(run, out=tmp_path, **FAST)
    assert files(tmp_path) == {"scores.sqlite"}
    assert len(table(tmp_path)["", "p0"].values) == 64
    equal(table(score(run, out=tmp_path, **FAST)), whole)


@pytest.mark.fault("S3")
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_disk_that_fills_up_at_export(run, tmp_path, monkeypatch, broken):
    out = score(run, out=tmp_path, **FAST)
    before, names = (out / "scores.json").read_bytes(), files(out)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if broken == "fsync":
            patch.setattr(runs.os, "fsync", full)
        else:
            patch.setattr(Path, "replace", full)
        with pytest.raises(ResourceError, match=r"needs [\d,]+ bytes, [\d,]+ are free") as caught:
            score(run, out=tmp_path, **{**FAST, "metrics": ("drop",)})
    assert caught.value.exit_code == 5
    assert (out / "scores.json").read_bytes() == before
    assert files(out) == names


@pytest.mark.fault("S3")
def test_too_little_room_is_told_before_the_loop(run, tmp_path, monkeypatch):
    usage = type(scoring.shutil.disk_usage("/"))
    monkeypatch.setattr(scoring.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(ResourceError, match=r"bytes needed, 1,000 are free"):
        score(run, out=tmp_path, **FAST)


@pytest.mark.fault("S3")
def test_what_a_killed_writer_left_is_cleaned_at_the_next_start(run, tmp_path):
    (tmp_path / ".xeval-scores.json.abc.tmp").write_text("half")
    (tmp_path / ".mine.tmp").write_text("not ours")
    score(run, out=tmp_path, **FAST)
    assert {name for name in files(tmp_path) if name.startswith(".")} == {".mine.tmp"}


@pytest.mark.fault("S4")
def test_the_output_is_tried_before_the_model_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr("xeval.scoring.plan.load_model", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot write to"):
            score(run, out=out, **FAST)
    monkeypatch.setattr(runs, "_probe", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UsageError, match="Permission denied"):
        score(run, out=tmp_path, **FAST)


@pytest.mark.fault("S4")
def test_a_missing_output_folder_is_made(run, tmp_path):
    assert score(run, out=tmp_path / "a" / "b", **FAST) == tmp_path / "a" / "b"
