import shutil
import sqlite3
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xeval.errors import DataError
from xeval.scoring.scorer import joined, lost
from xeval.scoring.store import Block, Cell, Store

CELLS = [Cell("ckpt", "data", "grad-cam", "drop", name, "v1") for name in ("drop.mag@0.15", "drop.rate@0.15")]


def block(*values, **reasons):
    array = np.array(values, dtype=np.float64)
    return Block(array, {("undefined", name): np.array(mask) for name, mask in reasons.items()})


def test_values_status_and_reasons_come_back(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        ids = store.ids(CELLS)
        store.put(2, {ids[CELLS[0]]: block(0.5, np.nan, empty=[False, True])})
        store.put(0, {ids[CELLS[0]]: block(0.1, 0.2)})
    with Store(tmp_path / "s.sqlite") as store:
        series = store.read(store.ids(CELLS)[CELLS[0]])
    assert series.values[:3].tolist() == [0.1, 0.2, 0.5]
    assert np.isnan(series.values[3])
    assert series.ok.tolist() == [True, True, True, False]
    assert series.counts("undefined") == {"empty": 1}
    assert series.counts("error") == {}


def test_curves_keep_their_width(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        cell = store.ids(CELLS)[CELLS[0]]
        store.put(0, {cell: Block(np.arange(6.0).reshape(2, 3), {})})
        store.put(2, {cell: Block(np.full((1, 3), 9.0), {})})
        assert store.read(cell).values.tolist() == [[0, 1, 2], [3, 4, 5], [9, 9, 9]]


def test_a_chunk_is_all_or_nothing(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        ids = store.ids(CELLS)

        class Broken(Block):
            @property
            def reasons(self):
                raise KeyboardInterrupt

        broken = object.__new__(Broken)
        object.__setattr__(broken, "values", np.zeros(1))
        with pytest.raises(KeyboardInterrupt):
            store.put(0, {ids[CELLS[0]]: block(1.0), ids[CELLS[1]]: broken})
        assert store.done(ids.values()) == {cell: [] for cell in ids.values()}
        store.put(0, {ids[CELLS[0]]: block(1.0)})
        assert store.done(ids.values())[ids[CELLS[0]]] == [(0, 1)]


def test_another_definition_is_another_cell(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        old = store.ids(CELLS)[CELLS[0]]
        new = Cell("ckpt", "data", "grad-cam", "drop", "drop.mag@0.15", "v2")
        assert store.ids([new])[new] != old
        assert store.ids(CELLS)[CELLS[0]] == old
        assert len(store.cells()) == 3


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"this is no database, only text that is long enough to be taken for a header" * 20)
    before = path.read_bytes()
    with pytest.raises(DataError, match="file is not a database.* — .*--recompute"):
        Store(path)
    assert path.read_bytes() == before


def test_an_empty_cell_is_an_error(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        cell = store.ids(CELLS)[CELLS[0]]
        with pytest.raises(DataError, match="no values"):
            store.read(cell)
    assert sqlite3.connect(tmp_path / "s.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_chunks_with_an_error_are_not_done(tmp_path):
    lost_one = {("error", "RuntimeError"): np.array([False, True])}
    empty = {("undefined", "empty map"): np.array([True, True])}
    with Store(tmp_path / "s.sqlite") as store:
        cell = store.ids(CELLS)[CELLS[0]]
        store.put(0, {cell: Block(np.array([1.0, np.nan]), lost_one)})
        store.put(2, {cell: Block(np.full(2, np.nan), empty)})
        assert store.done([cell]) == {cell: [(2, 2)]}
        assert store.read(cell).counts("error") == {"RuntimeError": 1}
        store.put(0, {cell: Block(np.array([1.0, 2.0]), {})})
        assert store.done([cell]) == {cell: [(0, 2), (2, 2)]}
        assert store.read(cell).counts("error") == {}


def test_a_lost_chunk_of_a_curve_is_as_wide_as_the_curve(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        cell = store.ids(CELLS)[CELLS[0]]
        store.put(0, {cell: Block(np.arange(6.0).reshape(2, 3), {})})
        store.put(2, {cell: lost("RuntimeError")})
        found = store.read(cell)
        assert found.values[:2].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert np.isnan(found.values[2]).all()
        assert found.ok.tolist() == [True, True, False]


def test_half_a_curve_that_is_lost_joins_the_other_half():
    curve = Block(np.arange(6.0).reshape(2, 3), {("undefined", "empty map"): np.array([True, False])})
    both = joined(curve, lost("RuntimeError"))
    assert both.values.shape == (3, 3)
    assert both.reasons["undefined", "empty map"].tolist() == [True, False, False]
    assert both.reasons["error", "RuntimeError"].tolist() == [False, False, True]
    assert joined(lost("a"), lost("b")).values.shape == (2,)


def test_readers_leave_a_store_alone(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.put(0, {number: Block(np.zeros(2), {}) for number in store.ids(CELLS).values()})
    before = path.read_bytes()
    with Store(path, check=True) as store:  # a run with nothing to do
        store.ids(CELLS)
    with Store(path, read_only=True) as store:
        assert [store.read(number).values.tolist() for number, _ in store.cells()] == [[0, 0], [0, 0]]
    assert path.read_bytes() == before
    path.write_bytes(b"\xa5" * len(before))
    with pytest.raises(DataError, match="--recompute"):
        Store(path, read_only=True)
    assert [each.name for each in tmp_path.iterdir()] == ["s.sqlite"]


STATEMENTS = (
    "PRAGMA user_version = 2",
    "CREATE TABLE cell (id INTEGER PRIMARY KEY, checkpoint TEXT, data TEXT, explainer TEXT, metric TEXT, name TEXT, "
    "definition TEXT, UNIQUE (checkpoint, data, explainer, metric, name, definition))",
    "CREATE TABLE chunk (cell INTEGER, first INTEGER, n INTEGER, data BLOB, status BLOB, failed INTEGER, "
    "checksum INTEGER, PRIMARY KEY (cell, first)) WITHOUT ROWID",
    "CREATE INDEX finished ON chunk (failed, cell, first)",
    "CREATE TABLE image (data TEXT, number INTEGER, id TEXT, PRIMARY KEY (data, number)) WITHOUT ROWID",
)
FULL = {"cell", "chunk", "finished", "image", "reason"}


def names(path):
    with sqlite3.connect(path) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}


@pytest.mark.fault("S25")
@pytest.mark.parametrize("made", range(len(STATEMENTS) + 1))
def test_a_file_whose_creation_was_cut_short_is_completed(tmp_path, made):
    """The schema as it was once written, statement by statement, and cut off after each of them."""
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path, isolation_level=None) as db:
        for statement in STATEMENTS[:made]:
            db.execute(statement)
    with Store(path, check=True) as store:
        cell = store.ids(CELLS)[CELLS[0]]
        store.name_images("data", ["a", "b"])
        store.put(0, {cell: block(0.5, np.nan, empty=[False, True])})
        assert store.read(cell).counts("undefined") == {"empty": 1}
        assert store.images("data") == ["a", "b"]
    assert names(path) == FULL


def interrupted_after(steps):
    """``sqlite3.connect`` for a connection that is interrupted after so many steps of SQLite's machine."""
    left, connect = iter(range(steps)), sqlite3.connect

    def connected(*given, **options):
        db = connect(*given, **options)
        db.set_progress_handler(lambda: int(next(left, None) is None), 1)
        return db

    return connected


@pytest.mark.fault("S25")
def test_a_file_is_created_at_once_or_not_at_all(tmp_path, monkeypatch):
    found = []
    for steps in range(1, 400, 3):
        path = tmp_path / f"{steps}.sqlite"
        with monkeypatch.context() as patch, suppress(DataError):
            patch.setattr(sqlite3, "connect", interrupted_after(steps))
            Store(path).__exit__(None, None, None)
        found.append(names(path))
        with Store(path):
            assert names(path) == FULL
    assert {frozenset(one) for one in found} == {frozenset(), frozenset(FULL)}
    assert found == sorted(found, key=len)


@pytest.mark.fault("S28")
def test_a_reader_of_what_a_kill_left_is_told_to_score_again(tmp_path):
    """A file whose journal is to be rolled back: read only, it cannot be read; scoring mends it."""
    path, left = tmp_path / "s.sqlite", tmp_path / "left"
    with Store(path) as store:
        ids = store.ids([Cell("ckpt", "data", "grad-cam", "drop", str(n), "v1") for n in range(50)])
        for first in range(0, 20 * 64, 64):
            store.put(first, {number: Block(np.full(64, 0.5), {}) for number in ids.values()})
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("PRAGMA cache_size = 5")  # pages that do not fit are written before the transaction ends
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE chunk SET failed = 1, data = zeroblob(length(data))")
        left.mkdir()
        for file in tmp_path.glob("s.sqlite*"):
            shutil.copy(file, left)
    assert (left / "s.sqlite-journal").stat().st_size > 0
    before = (left / "s.sqlite").read_bytes()
    with pytest.raises(DataError, match="killed while it wrote.* same `xeval score` command again"):
        Store(left / "s.sqlite", read_only=True)
    assert (left / "s.sqlite").read_bytes() == before
    with Store(left / "s.sqlite", check=True) as store:
        assert all(store.read(number).values.tolist() == [0.5] * 20 * 64 for number in ids.values())


@pytest.mark.fault("S16")
def test_a_missing_table_that_values_need_is_damage(tmp_path):
    for number, table in enumerate(("cell", "reason")):
        path = tmp_path / f"{number}.sqlite"
        with Store(path) as store:
            store.put(0, {store.ids(CELLS)[CELLS[0]]: block(0.5, np.nan, empty=[False, True])})
        with sqlite3.connect(path) as db:
            db.execute(f"DROP TABLE {table}")
        before = path.read_bytes()
        with pytest.raises(DataError, match="a table is missing"):
            Store(path)
        assert path.read_bytes() == before == path.with_name(f"{path.name}.corrupt").read_bytes()


def expected_after(puts):
    """What a cell of ten images holds after some puts (first, values, errors), one image at a time."""
    images = {}
    for first, values, errors in puts:
        for number, (value, error) in enumerate(zip(values, errors, strict=True)):
            images[first + number] = (value, error)
    return images


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.integers(0, 9).flatmap(
            lambda first: st.tuples(
                st.just(first), st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=10 - first)
            )
        ),
        min_size=1,
        max_size=6,
    )
)
def test_blocks_of_any_size_replace_the_images_they_hold_and_no_others(tmp_path, drawn):
    puts = [(0, [0.0] * 10, [False] * 10)]
    puts += [(first, [float(v) for v, _ in pairs], [error for _, error in pairs]) for first, pairs in drawn]
    path = tmp_path / "s.sqlite"
    path.unlink(missing_ok=True)
    with Store(path) as store:
        cell, other = store.ids(CELLS).values()
        store.put(0, {other: block(*[7.0] * 10)})
        for first, values, errors in puts:
            store.put(first, {cell: Block(np.array(values), {("error", "broken"): np.array(errors)})})
        found, left, done = store.read(cell), store.read(other), store.done([cell])[cell]
    images = expected_after(puts)
    assert found.values.tolist() == [images[number][0] for number in range(10)]
    assert found.ok.tolist() == [not images[number][1] for number in range(10)]
    assert left.values.tolist() == [7.0] * 10
    for first, count in done:  # what counts as done has no error, and all chunks together lie side by side
        assert not any(images[number][1] for number in range(first, first + count))
    assert {n for n in images if not images[n][1]} >= {n for first, count in done for n in range(first, first + count)}


def test_a_damaged_chunk_is_not_cut(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        cell = store.ids(CELLS)[CELLS[0]]
        store.put(0, {cell: block(1.0, 2.0, 3.0, 4.0)})
    with sqlite3.connect(path) as db:
        db.execute("UPDATE chunk SET data = ?", (bytes(32),))
    with Store(path) as store, pytest.raises(DataError, match="not as they were written"):
        store.put(1, {cell: block(9.0)})
    with Store(path) as store:  # one that is replaced as a whole needs nothing of the old
        store.put(0, {cell: block(5.0, 6.0, 7.0, 8.0)})
        assert store.read(cell).values.tolist() == [5, 6, 7, 8]


def test_what_was_measured_is_kept_by_place(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        assert store.tuned("here") is None
        store.tune("here", {"form": "folded", "batch_size": 64})
        store.tune("here", {"form": "as it is", "batch_size": 32})
    with Store(tmp_path / "s.sqlite", read_only=True) as store:
        assert store.tuned("here") == {"form": "as it is", "batch_size": 32}
        assert store.tuned("there") is None
