"""Keeps one JSON file per run in ``OUT/.sweep/jobs/``: what it is, where its job stands, and where the log is.

The job itself writes how far it got. Readers correct that with the process, the run's own files and, on a cluster, the
scheduler. Files of submitit are never read here, because they are pickles.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from xeval.checkpoints.folder import MANIFEST, STATES
from xeval.errors import DataError, UsageError
from xeval.runtime.files import digest, read_json, write_json
from xeval.runtime.locks import is_held, waiting
from xeval.runtime.validation import first_mistake
from xeval.scoring.run import SCORES, STORE
from xeval.scoring.store import BESIDE
from xeval.sweep.plan import CONTROL, Choice, Frozen, Run, SweepPlan
from xeval.training.loop import begun_otherwise
from xeval.training.recipe import Recipe, identity

SCHEMA = "xeval.sweep/1"
State = Literal["waiting", "running", "failed", "complete"]


class Record(Frozen):
    """A run of a sweep and the last that is known about its job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Run
    state: State = "waiting"
    attempts: int = 0
    executor: str = "local"
    job: str | None = None
    host: str | None = None
    pid: int | None = None
    log: str | None = None
    error: str | None = None
    chosen: str | None = None
    held_out: dict[str, float] = Field(default={}, description="mean held-out accuracy of each tried value")

    @property
    def choice(self) -> Choice:
        """The chosen way to train, else the first."""
        return next((one for one in self.run.choices if one.label == self.chosen), self.run.choices[0])


def record_file(out: Path, path: str) -> Path:
    """Return where the record of a run lies."""
    return out / CONTROL / "jobs" / f"{path}.json"


def read(out: Path, path: str) -> Record:
    """Read the record of a run; raise :class:`DataError` where there is none or it is damaged."""
    return _parse(record_file(out, path))


def read_all(out: Path) -> list[Record]:
    """Return every record of a sweep: tuning runs first, then by folder, method and seed."""
    files = (out / CONTROL / "jobs").rglob("*.json")
    records = [_parse(file) for file in files]
    return sorted(records, key=lambda one: (one.run.score is not None, one.run.folder, one.run.method, one.run.seed))


def write(out: Path, record: Record) -> None:
    """Replace the record of a run."""
    file = record_file(out, record.run.path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"schema": SCHEMA, **record.model_dump(mode="json")})


def change(out: Path, path: str, **fields: Any) -> Record:
    """Replace fields of a record and return it."""
    record = read(out, path).model_copy(update=fields)
    write(out, record)
    return record


def _parse(file: Path) -> Record:
    content = dict(read_json(file, SCHEMA))
    del content["schema"]
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{file}: {first_mistake(error)}", "remove it and start the sweep again") from None


def is_complete(out: Path, run: Run) -> bool:
    """Return whether a run is trained and, where asked for, scored as the record says, with nothing to tidy up."""
    if not record_file(out, run.path).is_file() or any(path.exists() for path in _left_over(out, run)):
        return False
    record = read(out, run.path)
    return record.state == "complete" and digest(record.run.model_dump(mode="json")) == _digest(run) and files(out, run)


def _left_over(out: Path, run: Run) -> list[Path]:
    """Return what a kill or a failure at the very end leaves of a complete run, and its next job removes."""
    store = [f"{STORE}{end}" for end in BESIDE]
    return [*(out / run.path / name for name in (*STATES, *store)), _lock_file(out, run.path)]


def _digest(run: Run) -> str:
    return digest(run.model_dump(mode="json"))


def files(out: Path, run: Run) -> bool:
    """Return whether the files that a complete run leaves are there."""
    wanted = [MANIFEST, SCORES] if run.score is not None else [MANIFEST]
    return all((out / run.path / name).is_file() for name in wanted)


def register(out: Path, runs: Iterable[Run], executor: str) -> list[Run]:
    """Write a record of every run that is not complete, and return those runs."""
    left = [run for run in runs if not is_complete(out, run)]
    for run in left:
        write(out, Record(run=run, executor=executor))
    return left


def require_same(out: Path, runs: Sequence[Run]) -> None:
    """Raise :class:`UsageError` where a run was begun with other settings, before anything is submitted."""
    for run in runs:
        if is_of_another(out, run):
            raise UsageError(
                f"{out / run.path} belongs to a sweep with other settings",
                "use the same settings, another --out, or delete the directory",
            )


def is_of_another(out: Path, run: Run) -> bool:
    """Return whether the directory of a run holds one that was begun with other settings, by a sweep or by hand."""
    if not (out / run.path).is_dir():
        return False
    if record_file(out, run.path).is_file() and read(out, run.path).run.training != run.training:
        return True
    return all(_begun_otherwise(out, run))


def under_their_names(out: Path, plan: SweepPlan) -> SweepPlan:
    """Return a plan whose runs keep earlier directories, called without the recipe, where they were begun there."""
    return replace(plan, runs=tuple(_under_its_name(out, run) for run in plan.runs))


def _under_its_name(out: Path, run: Run) -> Run:
    earlier = run.model_copy(update={"path": run.earlier_path})
    there = not (out / run.path).exists() and any(found == [] for found in _begun_otherwise(out, earlier))
    return earlier if there else run


def _begun_otherwise(out: Path, run: Run) -> list[list[str] | None]:
    """Return, for every way to train a run, how what lies in its directory differs from it."""
    ways = [identity(Recipe.model_validate(choice.recipe), run.seed, run.limit) for choice in run.choices]
    return [begun_otherwise(out / run.path, way) for way in ways]


@contextmanager
def holding(out: Path, path: str) -> Iterator[None]:
    """Hold the lock of a run while its job works; the kernel frees it when the process dies."""
    with waiting(_lock_file(out, path)):
        yield


def alive(out: Path, record: Record) -> bool:
    """Return whether a running job still holds its lock; a record of another machine is taken as true."""
    if record.host != socket.gethostname():
        return True
    return is_held(_lock_file(out, record.run.path))


def _lock_file(out: Path, path: str) -> Path:
    return record_file(out, path).with_suffix(".lock")
