"""A folder of runs from somebody else: whatever its files are, comparing ends within seconds in a documented code."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.commands import xeval
from tests.faults.test_compare import edited
from tests.reports.synthetic import scores as made
from tests.reports.synthetic import write_artifacts, write_run
from xeval.errors import DataError
from xeval.reports.collect import collect
from xeval.reports.compare import compare
from xeval.scoring.gallery import ABOUT, ARRAYS
from xeval.scoring.store import Store

Damage = Callable[[Path], None]
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def fifo(name: str) -> Damage:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def fifo_as_gallery(run: Path) -> None:
    (run / ABOUT).write_text('{"schema": "xeval.gallery/1"}')
    os.mkfifo(run / ARRAYS)


def deep(name: str, key: str) -> Damage:
    def change(run: Path) -> None:
        text = (run / name).read_text()
        (run / name).write_text(text[: text.rindex("}")] + f', "{key}": {"[" * 900}{"]" * 900}}}')

    return change


def sql(*statements: str) -> Damage:
    def change(run: Path) -> None:
        with sqlite3.connect(run / "scores.sqlite", isolation_level=None) as db:
            for statement in statements:
                db.execute(statement)

    return change


def chunks(n: object, data: bytes, status: bytes, first: int = 0) -> Damage:
    """Every chunk replaced by another with the right checksum."""

    def change(run: Path) -> None:
        with sqlite3.connect(run / "scores.sqlite", isolation_level=None) as db:
            for (cell,) in db.execute("SELECT cell FROM chunk").fetchall():
                place = pack("<qqq", cell, first, n)
                checksum = zlib.crc32(status, zlib.crc32(data, zlib.crc32(place)))
                row = (first, n, data, status, checksum, cell)
                db.execute("UPDATE chunk SET first = ?, n = ?, data = ?, status = ?, checksum = ? WHERE cell = ?", row)

    return change


def second_chunk_of_another_width(run: Path) -> None:
    with Store(run / "scores.sqlite") as store:
        cells = [number for number, _ in store.cells()]
    with sqlite3.connect(run / "scores.sqlite") as db:
        for cell in cells:
            for first, n, data in ((0, 2, bytes(8 * 2 * 2)), (2, 2, bytes(8 * 3 * 2))):
                checksum = zlib.crc32(bytes(n), zlib.crc32(data, zlib.crc32(pack("<qqq", cell, first, n))))
                row = (cell, first, n, data, bytes(n), 0, checksum)
                db.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)", row)


HOSTILE: dict[str, tuple[Damage, str]] = {
    "fifo scores": (fifo("scores.json"), "is not a regular file"),
    "fifo card": (fifo("run.json"), "is not a regular file"),
    "fifo history": (fifo("history.csv"), "is not a regular file"),
    "fifo store": (fifo("scores.sqlite"), "is not a regular file"),
    "fifo gallery": (fifo_as_gallery, "is not a regular file"),
    "fifo about the gallery": (fifo(ABOUT), "is not a regular file"),
    "fifo artifacts": (fifo("artifacts.json"), "is not a regular file"),
    "endless view": (
        sql("DROP TABLE chunk", f"CREATE VIEW chunk AS {ENDLESS} SELECT 1 a, x b, 1 c, x'' d, x'' e, 0 f, 0 g FROM n"),
        "its tables are not those of a store",
    ),
    "endless cells": (
        sql("DROP TABLE cell", f"CREATE VIEW cell AS {ENDLESS} SELECT x id, '' checkpoint FROM n"),
        "its tables are not those of a store",
    ),
    "bomb in a column": (
        sql(
            "DROP TABLE image", "CREATE TABLE image (data TEXT, number INTEGER, id TEXT AS (hex(zeroblob(400000000))))"
        ),
        "its tables are not those of a store",
    ),
    "no images": (chunks(0, b"", b""), "not as they were written"),
    "fewer values than images": (chunks(4, bytes(24), bytes(4)), "not as they were written"),
    "half a value": (chunks(4, bytes(33), bytes(4)), "not as they were written"),
    "no values": (chunks(4, b"", bytes(4)), "not as they were written"),
    "fewer states than images": (chunks(4, bytes(32), bytes(3)), "not as they were written"),
    "many images": (chunks(2**62, bytes(32), bytes(4)), "not as they were written"),
    "curves of two widths": (second_chunk_of_another_width, "its curves have different lengths"),
    "deep scores": (deep("scores.json", "provenance"), "nested too deep"),
    "deep card": (deep("run.json", "recipe"), "nested too deep"),
    "broken history": (lambda run: (run / "history.csv").write_text("a,b\n1,x\n"), "history.csv cannot be read"),
}


@pytest.mark.fault("P14")
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_in_a_documented_code(runs: Path, tmp_path: Path, kind: str) -> None:
    damage, message = HOSTILE[kind]
    damage(edited(runs, lambda _: None))
    with pytest.raises(DataError, match=message):
        compare(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("P14")
def test_the_command_does_not_wait_for_a_fifo(runs: Path, tmp_path: Path) -> None:
    fifo_as_gallery(write_run(runs, made("ce", 0, 0.3)))
    assert "is not a regular file" in xeval("compare", str(runs), cwd=tmp_path, check=3).stderr


@pytest.mark.fault("P14")
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", ["labels are missing", "labels are numbers", "points are missing", "not a table"])
def test_hostile_embeddings(runs: Path, tmp_path: Path, kind: str) -> None:
    run = write_run(runs, made("ce", 0, 0.3))
    write_artifacts(run, 0)
    arrays = {"tsne.points": np.zeros((4, 2), np.float32), "tsne.labels": np.zeros(4, np.int64)}
    arrays["tsne.masked"] = np.zeros(4, np.uint8)
    change = {
        "labels are missing": {"tsne.labels": None},
        "labels are numbers": {"tsne.labels": np.full(4, np.nan)},
        "points are missing": {"tsne.masked": None},
        "not a table": {"tsne.labels": np.zeros((4, 1), np.int64)},
    }[kind]
    save_file(
        {name: array for name, array in {**arrays, **change}.items() if array is not None},
        run / "artifacts.safetensors",
    )
    from xeval.reports.embedding import panels

    with pytest.raises(DataError, match="does not fit its artifacts.json"):
        panels(collect(runs).groups[0])


@pytest.mark.fault("P14")
@pytest.mark.usefixtures("no_figures")
def test_an_old_report_of_any_kind_is_replaced(runs: Path, tmp_path: Path) -> None:
    write_run(runs, made("ce", 0, 0.3))
    out = tmp_path / "out"
    for content in ("[" * 900 + "]" * 900, json.dumps({"schema": "xeval.comparison/1", "files": 7}), "[]", "7"):
        out.mkdir(exist_ok=True)
        (out / "results.json").write_text(content)
        compare(runs, out)
    (out / "results.json").unlink()
    os.mkfifo(out / "results.json")
    assert compare(runs, out).results == json.loads((out / "results.json").read_text())
