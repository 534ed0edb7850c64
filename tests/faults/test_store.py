"""Faults while scoring: a store that is in use or damaged is left as it is and named."""

import json
import os
import sqlite3

import pytest

import xeval
from tests.commands import here
from tests.faults.scored import FAST, SMALL, equal, files, table
from xeval.errors import BusyError
from xeval.runtime.locks import locked
from xeval.scoring.run import score


@pytest.mark.fault("S15")
def test_a_second_process_is_told_who_is_at_work(run, whole, tmp_path, capsys):
    with locked(tmp_path):
        left, _, last = here(capsys, "score", str(run), "--out", str(tmp_path), *SMALL)
        assert left == 6
        assert f"is in use by process {os.getpid()} on {os.uname().nodename} since" in last
        assert files(tmp_path) == {"run.lock"}
    assert files(tmp_path) == set()
    dead = {"pid": 999999, "host": "elsewhere", "started": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "run.lock").write_text(json.dumps(dead))
    equal(table(score(run, out=tmp_path, **FAST)), whole)  # its owner is dead: taken over
    assert "run.lock" not in files(tmp_path)
    with locked(tmp_path):
        xeval.results(tmp_path)  # reading needs no lock


def test_a_lock_that_is_not_ours_to_read_is_busy_all_the_same(tmp_path):
    with locked(tmp_path):
        (tmp_path / "run.lock").write_text("nonsense")
        with pytest.raises(BusyError, match="in use by another process"), locked(tmp_path):
            pass


def edit(statement):
    def apply(path):
        with sqlite3.connect(path) as db:
            db.execute(statement)

    return apply


def page(path):
    """Overwrite a page in the middle."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)


@pytest.mark.fault("S16")
@pytest.mark.parametrize(
    ("damage", "message", "copied"),
    [
        (page, "is damaged", True),
        (lambda path: path.write_bytes(b"no database at all, only text" * 99), "file is not a database", True),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is damaged", True),
        (edit("UPDATE chunk SET status = x'ff' WHERE first = 64"), "not as they were written", True),
        (edit("UPDATE chunk SET data = x'0102' WHERE first = 64"), "not as they were written", True),
        (edit("UPDATE chunk SET data = zeroblob(length(data)) WHERE cell = 5"), "not as they were written", True),
        (edit("UPDATE chunk SET status = 'text' || x'ff' WHERE first = 0"), "is damaged", True),
        (edit("UPDATE chunk SET n = 'many'"), "not as they were written", True),
        (edit("UPDATE chunk SET n = 63 WHERE first = 0"), "not as they were written", True),
        (edit("DROP TABLE reason"), "", True),
        (edit("PRAGMA user_version = 1"), "was written by another version of xeval", False),
    ],
    ids=["page", "garbage", "truncated", "status", "blob", "value", "text", "n text", "n", "table", "version"],
)
def test_a_damaged_store_is_kept_and_named(run, whole, tmp_path, capsys, damage, message, copied):
    score(run, out=tmp_path, **FAST)
    damage(tmp_path / "scores.sqlite")
    before = (tmp_path / "scores.sqlite").read_bytes()
    (tmp_path / "scores.json").unlink()
    arguments = ("score", str(run), "--out", str(tmp_path), *SMALL)
    for _ in range(2):
        left, _, last = here(capsys, *arguments)
        assert left == 3
        assert message in last
        assert "--recompute" in last
    kept = list(tmp_path.glob("scores.sqlite.corrupt*"))
    assert len(kept) == copied
    assert (tmp_path / "scores.sqlite").read_bytes() == before
    assert all(path.read_bytes() == before for path in kept)
    assert here(capsys, *arguments, "--recompute")[0] == 0
    equal(table(tmp_path), whole)
    assert (tmp_path / "scores.sqlite.old").read_bytes() == before
