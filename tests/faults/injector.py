"""Kills, and failures of the operating system, at every call of a command that changes a file below its folder.

A first run under strace lists these calls. Then, for each of them, the command starts from the same files and is killed
at that call, or the call fails; the same command again must leave what the undisturbed run left, and nothing else.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import load_file

from tests.faults.forks import Forks

CALLS = (
    "openat,write,pwrite64,writev,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,chmod,fchmod"
)
FULL = ("openat", "write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "mkdir", "mkdirat")
#: What differs between two undisturbed runs: times, processes, and how often a job was started.
VOLATILE = {"seconds", "train_seconds", "score_seconds", "started", "cost", "provenance", "pid", "host", "attempts"} | {
    "content_sha256",  # and sizes and hashes of files with these
    "sha256",
    "bytes",
}
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7}
Fault = Literal["kill", "fail"]
FAULTS: tuple[Fault, ...] = ("kill", "fail")


@dataclass(frozen=True)
class Command:
    """A command line, and the files from which it starts."""

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None]


@dataclass(frozen=True)
class Point:
    """The ``number``-th call of a system call, counted from 1, and the file it is about."""

    call: str
    number: int
    about: str

    def option(self, fault: Fault) -> str:
        """The option of strace that lets it fail, or kills the process there."""
        error = "ENOSPC" if self.call in FULL else "EIO"
        what = "signal=KILL" if fault == "kill" else f"error={error}"
        return f"inject={self.call}:{what}:when={self.number}"


@dataclass
class Trial:
    """A command with its template of files, in a folder that keeps its path, as files may name it."""

    command: Command
    forks: Forks
    place: Path

    def __post_init__(self) -> None:
        self.template, self.work, self.log = (self.place / name for name in ("template", "work", "strace.log"))
        self.template.mkdir(parents=True)
        self.command.prepare(self.template)
        self._afresh()
        self._run()  # what it imports is there from now on, so that calls are counted alike
        self._afresh()
        options = ("-y", "-s", "0", "-o", str(self.log), "-e", f"trace={CALLS}")
        status, errors = self.forks.run(self.command.arguments, self.work, options)
        assert status == 0, errors
        self.points = list(points_of(self.log.read_text(errors="replace"), self.work))
        self.whole = content(self.work)

    def _afresh(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.template, self.work)

    def _run(self, strace: Sequence[str] = ()) -> tuple[int, str]:
        return self.forks.run(self.command.arguments, self.work, strace)

    def survives(self, point: Point, fault: Fault) -> str:
        """Return what is wrong after the fault and the same command again; nothing where all is well."""
        self._afresh()
        status, errors = self._run(("-o", "/dev/null", "-e", f"trace={CALLS}", "-e", point.option(fault)))
        if status != -9 if fault == "kill" else status not in DOCUMENTED or "Traceback" in errors:
            return f"the fault ends in {status}: {errors[-500:]}"
        status, errors = self._run()
        if status != 0 or "Traceback" in errors:
            return f"the same command again ends in {status}: {errors[-500:]}"
        found = content(self.work)
        return _difference(self.whole, found)


def points_of(log: str, work: Path) -> Iterator[Point]:
    """Yield the calls that change something below ``work``, in the order of a log of strace."""
    seen: Counter[str] = Counter()
    for line in log.splitlines():
        match = re.match(r"(\w+)\((.*)", line)
        if match is None:
            continue
        call, rest = match.groups()
        seen[call] += 1
        below = [path for path in _paths(rest, work) if path.is_relative_to(work) and path != work]
        if below and (call != "openat" or "O_CREAT" in rest):
            yield Point(call, seen[call], str(below[-1].relative_to(work)))


def _paths(arguments: str, work: Path) -> list[Path]:
    """The paths that a call names: of its descriptors, ``<…>``, and as text, relative to the descriptor before it."""
    found, base = [], work
    for descriptor, text in re.findall(r'<(/[^>]*)>|"([^"]*)"', arguments):
        base = Path(descriptor) if descriptor else base
        found.append(base / text)
    return found


def content(folder: Path) -> dict[str, Any]:
    """Every file and folder below a folder with what it says, without what differs between two runs."""
    return {path.relative_to(folder).as_posix(): _read(path) for path in sorted(folder.rglob("*"))}


def _read(path: Path) -> Any:
    if path.is_dir():
        return "a folder"
    return _history(path) if path.name == "history.csv" else READERS.get(path.suffix, Path.read_bytes)(path)


def _history(path: Path) -> list[str]:
    """The lines without their last column, the seconds."""
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


def _tensors(path: Path) -> dict[str, Any]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in load_file(path).items()}


def _exported(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if "/data/" in name}


def _page(path: Path) -> bytes:
    """A report without its numbers, among which are seconds; they stand in results.json and the tables too."""
    return re.sub(rb"[\d.]+", b"#", path.read_bytes())


def _json(path: Path) -> Any:
    return _settled(json.loads(path.read_text()))


def _settled(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _settled(value) for key, value in found.items() if key not in VOLATILE}
    return [_settled(value) for value in found] if isinstance(found, list) else found


def _rows(path: Path) -> dict[str, list[Any]]:
    """Every table of a store; codes and ids are replaced by what they stand for."""
    with sqlite3.connect(path) as db:
        meaning = dict(db.execute("SELECT code, kind || text FROM reason"))
        chunks = db.execute(
            "SELECT explainer, metric, name, definition, first, n, chunk.data, failed, status FROM chunk "
            "JOIN cell ON cell.id = chunk.cell ORDER BY 1, 2, 3, 4, 5"
        ).fetchall()
        images = db.execute("SELECT * FROM image ORDER BY data, number").fetchall()
    return {"chunks": [(*row[:-1], [meaning.get(code, "ok") for code in row[-1]]) for row in chunks], "images": images}


READERS: dict[str, Callable[[Path], Any]] = {
    ".sqlite": _rows,
    ".json": _json,
    ".safetensors": _tensors,
    ".html": _page,
    ".pt": _exported,
}


def _difference(whole: dict[str, Any], found: dict[str, Any]) -> str:
    more, less = sorted(found.keys() - whole.keys()), sorted(whole.keys() - found.keys())
    other = [name for name in whole if name in found and whole[name] != found[name]]
    told = {"left over": more, "missing": less, "different": other}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)


def a_tenth(points: Sequence[Point], seed: int) -> list[tuple[Point, Fault]]:
    """A seeded tenth of the points, each with one of the faults."""
    draw = random.Random(seed)
    chosen = draw.sample(points, -(-len(points) // 10))
    return [(point, draw.choice(FAULTS)) for point in chosen]


def every(points: Sequence[Point]) -> list[tuple[Point, Fault]]:
    """Every point with every fault."""
    return [(point, fault) for point in points for fault in FAULTS]


def wrong(trial: Trial, cases: Sequence[tuple[Point, Fault]]) -> Iterator[str]:
    """Try the cases; yield what goes wrong, a line each."""
    for point, fault in cases:
        told = trial.survives(point, fault)
        if told:
            yield f"{fault} at {point.call} {point.number} of {point.about}: {told}"
