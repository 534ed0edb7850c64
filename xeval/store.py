"""``scores.sqlite``: every per-image value, in chunks, one transaction a batch.

A *cell* is one column of one explainer on one checkpoint and image set under one definition (its hash); a *chunk* holds
a run of images of a cell: float64 values and one status byte an image. What was committed survives a kill.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from xeval.errors import DataError

OK = 0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cell (
    id INTEGER PRIMARY KEY, checkpoint TEXT, data TEXT, explainer TEXT, metric TEXT, name TEXT, definition TEXT,
    UNIQUE (checkpoint, data, explainer, metric, name, definition));
CREATE TABLE IF NOT EXISTS chunk (
    cell INTEGER, first INTEGER, n INTEGER, data BLOB, status BLOB, PRIMARY KEY (cell, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (data TEXT, number INTEGER, id TEXT, PRIMARY KEY (data, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reason (code INTEGER PRIMARY KEY, kind TEXT, text TEXT, UNIQUE (kind, text));
"""


@dataclass(frozen=True)
class Cell:
    """The key of one column; ``definition`` is the hash of everything else that changes its values."""

    checkpoint: str
    data: str
    explainer: str
    metric: str
    name: str
    definition: str


@dataclass(frozen=True)
class Block:
    """Values (n,) or (n, K) of consecutive images; NaN where not ok. ``reasons``: (kind, text) → bool (n,)."""

    values: NDArray[np.float64]
    reasons: Mapping[tuple[str, str], NDArray[np.bool_]]


@dataclass(frozen=True)
class Series:
    """A whole cell: values (N,) or (N, K), status codes (N,) with 0 = ok, and the meaning of the codes."""

    values: NDArray[np.float64]
    status: NDArray[np.uint8]
    meaning: Mapping[int, tuple[str, str]]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Where there is a value."""
        there: NDArray[np.bool_] = self.status == OK
        return there

    def counts(self, kind: str) -> dict[str, int]:
        """How many images are not ok for each reason of a kind (``undefined`` or ``error``)."""
        codes, counts = np.unique(self.status[self.status != OK], return_counts=True)
        found = {self.meaning[int(code)]: int(count) for code, count in zip(codes, counts, strict=True)}
        return {text: count for (of, text), count in sorted(found.items()) if of == kind}


class Store:
    """One open ``scores.sqlite``; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is not a readable score store ({error})", "move it away and score again") from None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, _t: type[BaseException] | None, _v: BaseException | None, _tb: TracebackType | None) -> None:
        self._db.close()

    def ids(self, cells: Sequence[Cell]) -> dict[Cell, int]:
        """The row id of each cell, created where new."""
        columns = "checkpoint, data, explainer, metric, name, definition"
        self._db.execute("BEGIN IMMEDIATE")
        keys = [(c.checkpoint, c.data, c.explainer, c.metric, c.name, c.definition) for c in cells]
        self._db.executemany(f"INSERT OR IGNORE INTO cell ({columns}) VALUES (?, ?, ?, ?, ?, ?)", keys)
        self._db.execute("COMMIT")
        rows = self._db.execute(f"SELECT id, {columns} FROM cell").fetchall()
        known = {Cell(*row[1:]): int(row[0]) for row in rows}
        return {cell: known[cell] for cell in cells}

    def done(self, cells: Iterable[int]) -> dict[int, set[int]]:
        """First images of the chunks that each cell already has."""
        return {
            cell: {int(row[0]) for row in self._db.execute("SELECT first FROM chunk WHERE cell = ?", (cell,))}
            for cell in cells
        }

    def put(self, first: int, blocks: Mapping[int, Block]) -> None:
        """Commit one chunk of many cells in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            rows = [
                (cell, first, len(block.values), block.values.astype("<f8").tobytes(), self._status(block).tobytes())
                for cell, block in blocks.items()
            ]
            self._db.executemany("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?, ?)", rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _status(self, block: Block) -> NDArray[np.uint8]:
        status = np.zeros(len(block.values), np.uint8)
        for (kind, text), where in block.reasons.items():
            if where.any():
                status[where & (status == OK)] = self._code(kind, text)
        return status

    def _code(self, kind: str, text: str) -> int:
        self._db.execute("INSERT OR IGNORE INTO reason (kind, text) VALUES (?, ?)", (kind, text))
        row = self._db.execute("SELECT code FROM reason WHERE kind = ? AND text = ?", (kind, text)).fetchone()
        return int(row[0])

    def read(self, cell: int) -> Series:
        """All images of a cell in order."""
        rows = self._db.execute("SELECT n, data, status FROM chunk WHERE cell = ? ORDER BY first", (cell,)).fetchall()
        if not rows:
            raise DataError(f"{self.path} has no values for one of its columns", "score the checkpoint again")
        parts = [np.frombuffer(data, "<f8").reshape(n, -1) for n, data, _ in rows]
        values = np.concatenate(parts)
        status = np.concatenate([np.frombuffer(status, np.uint8) for _, _, status in rows])
        meaning = {int(code): (kind, text) for code, kind, text in self._db.execute("SELECT * FROM reason")}
        return Series(values[:, 0] if values.shape[1] == 1 else values, status, meaning)

    def name_images(self, data: str, ids: Sequence[str]) -> None:
        """Remember the ids of an image set, in order."""
        self._db.execute("BEGIN IMMEDIATE")
        rows = [(data, number, name) for number, name in enumerate(ids)]
        self._db.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def images(self, data: str) -> list[str]:
        """The ids of an image set, in order."""
        rows = self._db.execute("SELECT id FROM image WHERE data = ? ORDER BY number", (data,))
        return [str(row[0]) for row in rows]

    def cells(self) -> list[tuple[int, Cell]]:
        """Every cell with its id."""
        rows = self._db.execute(
            "SELECT id, checkpoint, data, explainer, metric, name, definition FROM cell ORDER BY id"
        )
        return [(int(row[0]), Cell(*row[1:])) for row in rows]
