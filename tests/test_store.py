import sqlite3

import numpy as np
import pytest

from xeval.errors import DataError
from xeval.store import Block, Cell, Store

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
        assert store.done(ids.values()) == {cell: set() for cell in ids.values()}
        store.put(0, {ids[CELLS[0]]: block(1.0)})
        assert store.done(ids.values())[ids[CELLS[0]]] == {0}


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
    with pytest.raises(DataError, match="is damaged .file is not a database. — score again with --recompute"):
        Store(path)
    assert path.read_bytes() == before


def test_an_empty_cell_is_an_error(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        cell = store.ids(CELLS)[CELLS[0]]
        with pytest.raises(DataError, match="no values"):
            store.read(cell)
    assert sqlite3.connect(tmp_path / "s.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)
