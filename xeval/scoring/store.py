"""``scores.sqlite`` holds every per-image value, in chunks, with one transaction for each batch of chunks.

A *cell* is one column of one explainer on one checkpoint and image set under one definition (its hash). A *chunk* holds
a run of images of a cell: float64 values, one status byte per image, how many of them are errors, and a checksum. What
was committed survives a kill. What does not match its checksum is never read as a number.
"""

from __future__ import annotations

import filecmp
import json
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xeval.errors import BusyError, DataError, ResourceError, UsageError, XevalError
from xeval.runtime.files import digest, disk_full, free_name, require_regular, set_aside

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]
Row: TypeAlias = tuple[int, int, int, bytes, bytes, int, int]

OK = 0
VERSION = 2
KILLED = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_READONLY_CANTINIT)
COMPANIONS = ("-wal", "-shm", "-journal")
RECOMPUTE = "score again with --recompute: the old file is kept"
_SCHEMA = {
    "cell": """CREATE TABLE IF NOT EXISTS cell (
        id INTEGER PRIMARY KEY, checkpoint TEXT, data TEXT, explainer TEXT, metric TEXT, name TEXT, definition TEXT,
        UNIQUE (checkpoint, data, explainer, metric, name, definition))""",
    "chunk": """CREATE TABLE IF NOT EXISTS chunk (
        cell INTEGER, first INTEGER, n INTEGER, data BLOB, status BLOB, failed INTEGER, checksum INTEGER,
        PRIMARY KEY (cell, first)) WITHOUT ROWID""",
    "finished": "CREATE INDEX IF NOT EXISTS finished ON chunk (failed, cell, first)",
    "image": "CREATE TABLE IF NOT EXISTS image (data TEXT, number INTEGER, id TEXT, PRIMARY KEY (data, number)) "
    "WITHOUT ROWID",
    "reason": "CREATE TABLE IF NOT EXISTS reason (code INTEGER PRIMARY KEY, kind TEXT, text TEXT, UNIQUE (kind, text))",
}
_TUNED = {"tuned": "CREATE TABLE IF NOT EXISTS tuned (place TEXT PRIMARY KEY, found TEXT) WITHOUT ROWID"}
"""What the first scoring creates: a run with nothing to do changes no byte of an older store that lacks it."""
_ORPHANS = """SELECT 1 FROM chunk WHERE cell NOT IN (SELECT id FROM cell)
    OR NOT EXISTS (SELECT 1 FROM reason) AND replace(hex(status), '0', '') <> '' LIMIT 1"""

_OVERLAPPING = """FROM chunk WHERE cell = ?1 AND first + n > ?2 AND first < ?3
    AND first >= coalesce((SELECT max(first) FROM chunk WHERE cell = ?1 AND first <= ?2), 0)"""
"""The chunks of a cell that hold any of some images; since chunks do not overlap, one search finds the first."""


BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file while it is written."""


@dataclass(frozen=True)
class Cell:
    """The key of one column; ``definition`` is the hash of everything else that changes its values."""

    checkpoint: str
    data: str
    explainer: str
    metric: str
    name: str
    definition: str


def definition_of_row(definition: str, code: str | None) -> str:
    """Return a column's definition for the row of an explainer; ``code`` is the hash of one from outside."""
    return definition if code is None else digest([definition, code])


def definition_of_model(target: str, precision: str) -> str:
    """Return the definition of what is known of each image before any explanation."""
    return target if precision == "float32" else f"{target}, {precision}"


@dataclass(frozen=True)
class Block:
    """Values (n,) or (n, K) of consecutive images, NaN where one is not ok; ``reasons``: (kind, text) → bool (n,)."""

    values: NDArray[np.float64]
    reasons: Mapping[tuple[str, str], NDArray[np.bool_]]


@dataclass(frozen=True)
class Series:
    """All that the store holds of a cell: values (N,) or (N, K), status codes (N,) with 0 = ok, and their meaning."""

    values: NDArray[np.float64]
    status: NDArray[np.uint8]
    meaning: Mapping[int, tuple[str, str]]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Where there is a value, bool (N,)."""
        there: NDArray[np.bool_] = self.status == OK
        return there

    def counts(self, kind: str) -> dict[str, int]:
        """Count the images that are not ok, for each reason of a kind (``undefined`` or ``error``)."""
        codes, counts = np.unique(self.status[self.status != OK], return_counts=True)
        found = {self.meaning[int(code)]: int(count) for code, count in zip(codes, counts, strict=True)}
        return {text: count for (of, text), count in sorted(found.items()) if of == kind}


class Store:
    """One open ``scores.sqlite``; use it as a context manager.

    ``read_only`` never writes; ``check`` reads every page first (60 ms for 100 MB). Any method raises
    :class:`DataError` for a damaged file, of which a copy is kept as ``scores.sqlite.corrupt``, :class:`ResourceError`
    for a full disk and :class:`BusyError` where another process writes.
    """

    def __init__(self, path: Path, *, read_only: bool = False, check: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._logging = False
        require_regular(path)
        with self._guard():
            mode = "ro" if read_only else "rwc"
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", isolation_level=None, uri=True)
        try:
            self._open(check)
        except BaseException:
            self._db.close()
            raise

    def _open(self, check: bool) -> None:
        with self._guard():
            found = [row[0] for row in self._db.execute("PRAGMA quick_check(1)")] if check else ["ok"]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            there = dict(self._db.execute("SELECT name, sql FROM sqlite_master"))
        if found != ["ok"]:
            raise self._damaged(str(found[0]).replace("\n", " "))
        if version != VERSION and there:
            raise DataError(f"{self.path} was written by another version of xeval", RECOMPUTE)
        known = {**_SCHEMA, **_TUNED}
        if any(_plain(there[name]) != _plain(known[name]) for name in there.keys() & known.keys()):
            raise self._damaged("its tables are not those of a store")
        if not self._read_only:
            with self._guard():
                self._db.execute("PRAGMA synchronous=FULL")
            if not there.keys() >= _SCHEMA.keys():
                self._complete()
            if any(self.path.with_name(self.path.name + end).exists() for end in BESIDE):
                self._log()  # and back to one plain file on closing, which removes what a kill has left beside it

    def _log(self) -> None:
        with self._guard():
            self._db.execute("PRAGMA journal_mode=WAL")
        self._logging = True

    def _complete(self) -> None:
        """Create the tables that are missing, all or none; refuse a file with values that need what was missing."""
        with self._transaction():
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            for statement in _SCHEMA.values():
                self._db.execute(statement)
            if self._db.execute(_ORPHANS).fetchone():
                raise self._damaged("a table is missing")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, _t: type[BaseException] | None, _v: BaseException | None, _tb: TracebackType | None) -> None:
        if self._logging:
            with suppress(sqlite3.Error):  # leave one plain file, which can be read in a read-only folder too
                self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    @contextmanager
    def _guard(self, needed: int = 0) -> Iterator[None]:
        """Turn errors of SQLite into errors with a remedy; ``needed`` bytes were to be written."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._meaning(error, needed) from None

    def _meaning(self, error: sqlite3.DatabaseError, needed: int) -> XevalError:
        whole = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        code = whole & 0xFF
        if whole in KILLED:
            again = "run the same `xeval score` command again: what it had committed is kept"
            return DataError(f"{self.path} was left by a scoring that was killed while it wrote", again)
        # Only a file that is shorter than it says is at fault itself; every other such error is the disk's.
        if code == sqlite3.SQLITE_IOERR and whole != sqlite3.SQLITE_IOERR_SHORT_READ:
            again = "check the disk and run the same command again; what was saved is kept"
            return ResourceError(f"{self.path} cannot be read or written ({error})", again)
        if code == sqlite3.SQLITE_FULL or "disk is full" in str(error):
            return disk_full(self.path, needed)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return BusyError(f"{self.path} is in use by another process ({error})", "wait for it to end")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return UsageError(f"cannot open {self.path} ({error})", "check its owner and mode, or choose another --out")
        return self._damaged(str(error))

    def _damaged(self, what: str) -> DataError:
        """Return the error for a store that cannot be trusted; the file stays, and a copy of it is kept."""
        if not self._read_only:
            with suppress(OSError):
                _keep_copy(self.path)
        return DataError(f"{self.path} is damaged ({what})", RECOMPUTE)

    @contextmanager
    def _transaction(self, needed: int = 0) -> Iterator[None]:
        with self._guard(needed):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back already where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def ids(self, cells: Sequence[Cell]) -> dict[Cell, int]:
        """Return the row id of each cell; new cells are created."""
        columns = "checkpoint, data, explainer, metric, name, definition"
        keys = [(c.checkpoint, c.data, c.explainer, c.metric, c.name, c.definition) for c in cells]
        with self._transaction():
            self._db.executemany(f"INSERT OR IGNORE INTO cell ({columns}) VALUES (?, ?, ?, ?, ?, ?)", keys)
        known = {cell: number for number, cell in self.cells()}
        return {cell: known[cell] for cell in cells}

    def done(self, cells: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
        """Return the first image and the number of images of the chunks that each cell has without any error."""
        found: dict[int, list[tuple[int, int]]] = {cell: [] for cell in cells}
        with self._guard():
            rows = self._db.execute("SELECT cell, first, n, length(status) FROM chunk WHERE failed = 0").fetchall()
        for cell, first, n, states in rows:
            if n != states:  # an edited row may hold anything
                raise self._damaged(f"the images from {first} on are not as they were written")
            if cell in found:
                found[cell].append((first, n))
        return found

    def put(self, first: int, blocks: Mapping[int, Block]) -> None:
        """Commit one chunk of many cells in one transaction; of chunks that it overlaps, the rest stays."""
        if not self._logging:  # not earlier: a run with nothing to do must not change a byte of the file
            self._log()
        with self._transaction(sum(block.values.nbytes for block in blocks.values())):
            rest = [row for cell, block in blocks.items() for row in self._rest(cell, first, len(block.values))]
            rows = [self._row(cell, first, block) for cell, block in blocks.items()]
            self._db.executemany("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)", rest + rows)

    def _rest(self, cell: int, first: int, n: int) -> list[Row]:
        """Take away the chunks of a cell that overlap some images; return their parts before and behind these."""
        rows: list[Row] = self._db.execute(f"SELECT * {_OVERLAPPING}", (cell, first, first + n)).fetchall()
        self._db.execute(f"DELETE {_OVERLAPPING}", (cell, first, first + n))
        pieces = [(row, piece) for row in rows for piece in ((row[1], first), (first + n, row[1] + row[2]))]
        return [self._piece(row, start, stop) for row, (start, stop) in pieces if start < stop]

    def _piece(self, row: Row, start: int, stop: int) -> Row:
        """Return the images from ``start`` to ``stop`` of a chunk as a chunk of their own."""
        if not _is_whole(row):
            raise self._damaged(f"the images from {row[1]} on are not as they were written")
        cell, first, n, data, status, _, _ = row
        width, count = len(data) // n, stop - start
        data, status = data[(start - first) * width : (stop - first) * width], status[start - first : stop - first]
        errors = {code for (code,) in self._db.execute("SELECT code FROM reason WHERE kind = 'error'")}
        failed = sum(code in errors for code in status)
        return cell, start, count, data, status, failed, _checksum(cell, start, count, data, status)

    def _row(self, cell: int, first: int, block: Block) -> Row:
        n, data, status = len(block.values), block.values.astype("<f8").tobytes(), self._status(block).tobytes()
        failed = np.zeros(n, bool)
        for (kind, _), where in block.reasons.items():
            failed |= where if kind == "error" else False
        return cell, first, n, data, status, int(failed.sum()), _checksum(cell, first, n, data, status)

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
        """Return all images of a cell in order; a chunk that failed as a whole has NaN at every point of a curve."""
        with self._guard():
            rows = self._db.execute("SELECT * FROM chunk WHERE cell = ? ORDER BY first", (cell,)).fetchall()
            meaning = {code: (str(kind), str(text)) for code, kind, text in self._db.execute("SELECT * FROM reason")}
        if not rows:
            raise DataError(f"{self.path} has no values for one of its columns", "score the checkpoint again")
        parts = self._parts(rows)
        width = max(values.shape[1] for values, _ in parts)
        if not {values.shape[1] for values, _ in parts} <= {1, width}:
            raise self._damaged("its curves have different lengths")
        values = np.concatenate([_widened(values, width) for values, _ in parts])
        status = np.concatenate([status for _, status in parts])
        if not set(np.unique(status).tolist()) <= {OK, *meaning}:
            raise self._damaged("a status has no meaning")
        return Series(values[:, 0] if width == 1 else values, status, meaning)

    def _parts(self, rows: list[Row]) -> list[tuple[Floats, Codes]]:
        """Return values (n, K) and status (n,) of each chunk; raise DataError for a missing or damaged one."""
        parts: list[tuple[Floats, Codes]] = []
        expected = 0
        for row in rows:
            _, first, n, data, status, _, _ = row
            if first != expected or not _is_whole(row):
                raise self._damaged(f"the images from {expected} on are not as they were written")
            parts.append((np.frombuffer(data, "<f8").reshape(n, -1), np.frombuffer(status, np.uint8)))
            expected += n
        return parts

    def name_images(self, data: str, ids: Sequence[str]) -> None:
        """Store the ids of an image set, in order."""
        rows = [(data, number, name) for number, name in enumerate(ids)]
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?)", rows)

    def images(self, data: str) -> list[str]:
        """Return the ids of an image set, in order."""
        with self._guard():
            rows = self._db.execute("SELECT id FROM image WHERE data = ? ORDER BY number", (data,)).fetchall()
        return [str(row[0]) for row in rows]

    def tuned(self, place: str) -> Any:
        """Return what was measured at a place, as :meth:`tune` has kept it; None where nothing is known or readable."""
        with self._guard():
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tuned'").fetchone():
                return None
            row = self._db.execute("SELECT found FROM tuned WHERE place = ?", (place,)).fetchone()
        try:
            return None if row is None else json.loads(row[0])
        except (TypeError, ValueError):
            return None

    def tune(self, place: str, found: Any) -> None:
        """Keep what was measured at a place (any JSON)."""
        with self._transaction():
            self._db.execute(_TUNED["tuned"])
            self._db.execute("INSERT OR REPLACE INTO tuned VALUES (?, ?)", (place, json.dumps(found)))

    def cells(self) -> list[tuple[int, Cell]]:
        """Return every cell with its id."""
        columns = "id, checkpoint, data, explainer, metric, name, definition"
        with self._guard():
            rows = self._db.execute(f"SELECT {columns} FROM cell ORDER BY id").fetchall()
        return [(int(row[0]), Cell(*row[1:])) for row in rows]


def _plain(sql: str | None) -> str:
    """Return a statement that creates a table without spaces, and without what the file does not keep of it."""
    return "".join((sql or "").replace("IF NOT EXISTS ", "").split())


def start_afresh(path: Path) -> Path | None:
    """Rename a store with SQLite's companion files; return its new name, None where there is none."""
    if not path.exists():
        return None
    old = set_aside(path, "old")
    for companion in COMPANIONS:
        with suppress(FileNotFoundError):
            path.with_name(path.name + companion).rename(old.with_name(old.name + companion))
    return old


def _keep_copy(path: Path) -> None:
    """Copy a damaged store to ``<name>.corrupt``, unless the same copy exists."""
    if path.is_file() and not any(filecmp.cmp(path, kept, shallow=False) for kept in _copies(path)):
        shutil.copy2(path, free_name(path, "corrupt"))


def _copies(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.corrupt*"))


def _is_whole(row: Row) -> bool:
    """Return whether a chunk is as it was written; an edited row may hold anything."""
    cell, first, n, data, status, _, checksum = row
    try:
        fits = 0 < n == len(status) and len(data) > 0 == len(data) % (8 * n)
        return fits and checksum == _checksum(cell, first, n, data, status)
    except (TypeError, struct.error):
        return False


def _checksum(cell: int, first: int, n: int, data: bytes, status: bytes) -> int:
    """Return the CRC-32 of a chunk with its place, which shows a moved row as well as an edited one."""
    return zlib.crc32(status, zlib.crc32(data, zlib.crc32(struct.pack("<qqq", cell, first, n))))


def _widened(values: Floats, width: int) -> Floats:
    return np.broadcast_to(values, (len(values), width)) if values.shape[1] == 1 else values
