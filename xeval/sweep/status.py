"""Shows where every run of a sweep stands, in a table and by one exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xeval.errors import BusyError, DataError
from xeval.scoring.run import SCORES
from xeval.sweep.plan import CONTROL
from xeval.sweep.records import Record, State, alive, files, read_all

if TYPE_CHECKING:
    from xeval.sweep.slurm import Queued

UNENDED: tuple[State, ...] = ("waiting", "running")
AGAIN = "start the sweep again with the same command: what is complete is kept"


@dataclass(frozen=True)
class Standing:
    """A row of the table that says where one run stands."""

    run: str
    folder: str
    state: State
    done: int
    epochs: int
    scored: bool | None
    log: str | None
    error: str | None
    held_out: dict[str, float]
    chosen: str | None


def standings(out: Path) -> list[Standing]:
    """Return a row for each run of the sweep in ``out``; raise :class:`DataError` where there is no sweep."""
    records = read_all(out) if (out / CONTROL).is_dir() else []
    if not records:
        raise DataError(f"{out} holds no sweep", "give the folder that xeval sweep was given as --out")
    queued = queue_of(out, records)
    return [_standing(out, record, queued) for record in records]


def queue_of(out: Path, records: Sequence[Record]) -> Mapping[str, Queued]:
    """Return the scheduler's states of the runs of a sweep; nothing where none was submitted."""
    if not any(record.executor == "slurm" for record in records):
        return {}
    from xeval.sweep.slurm import queue

    return queue(out)


def _standing(out: Path, record: Record, queued: Mapping[str, Queued]) -> Standing:
    state, error = judged(out, record, queued.get(record.run.path))
    run, directory = record.run, out / record.run.path
    return Standing(
        run=run.path,
        folder=run.folder,
        state=state,
        done=record.choice.epochs if state == "complete" else _epochs(directory / "history.csv"),
        epochs=record.choice.epochs,
        scored=None if run.score is None else (directory / SCORES).is_file(),
        log=record.log,
        error=error,
        held_out=record.held_out,
        chosen=record.chosen,
    )


def judged(out: Path, record: Record, queued: Queued | None) -> tuple[State, str | None]:
    """Return the state of a run and what went wrong: the record, corrected by files, scheduler and process."""
    if record.state == "complete":
        return ("complete", None) if files(out, record.run) else ("waiting", "its files are gone")
    if record.state == "failed":
        return "failed", record.error
    if record.executor == "slurm" and queued is not None and queued.state is not None:
        if queued.state == "ended":
            return "failed", f"job {queued.job} ended without finishing it"
        return queued.state, None
    if record.state == "running" and not alive(out, record):
        return "failed", "killed"
    return record.state, None


def in_queue(out: Path, records: Sequence[Record]) -> dict[str, str]:
    """Return the runs that a scheduler still has, with the ids of their jobs; they must not be submitted twice."""
    submitted, queued = [record for record in records if record.executor == "slurm"], queue_of(out, records)
    waits = [record.run.path for record in submitted if judged(out, record, queued.get(record.run.path))[0] in UNENDED]
    return {path: queued[path].job for path in waits if path in queued}


def _epochs(history: Path) -> int:
    """Return the number of finished epochs, which is the number of rows of history.csv."""
    try:
        return max(0, len(history.read_text(encoding="utf-8").splitlines()) - 1)
    except OSError:
        return 0


def table(rows: Sequence[Standing]) -> str:
    """Return runs, states, epochs, scores and logs in columns, then what was chosen and what went wrong."""
    cells = [("run", "state", "epochs", "scored", "log")]
    cells += [(row.run, row.state, f"{row.done}/{row.epochs}", _scored(row), row.log or "–") for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[4]]) for line in cells
    ]
    return "\n".join([*lines, "", *_notes(rows), _counts(rows)])


def reports(out: Path, rows: Sequence[Standing]) -> list[str]:
    """Return a line for each folder whose runs are all complete: its report, or the command that writes it."""
    open_ = {row.folder for row in rows if row.state != "complete"}
    folders = [out / name for name in dict.fromkeys(row.folder for row in rows) if name not in open_]
    pages = [(folder, folder / "report" / "report.html") for folder in folders]
    return [f"report: {page}" if page.is_file() else f"next: xeval compare {folder}" for folder, page in pages]


def _scored(row: Standing) -> str:
    return "–" if row.scored is None else "yes" if row.scored else "no"


def _notes(rows: Sequence[Standing]) -> list[str]:
    chosen = [
        f"{row.run}: chose {row.chosen} (mean held-out accuracy: "
        + ", ".join(f"{label} {mean:.4f}" for label, mean in row.held_out.items())
        + ")"
        for row in rows
        if row.chosen
    ]
    return chosen + [f"{row.run}: {row.error}" for row in rows if row.error]


def _counts(rows: Sequence[Standing]) -> str:
    counts = Counter(row.state for row in rows)
    told = ", ".join(
        f"{counts[state]} {state}" for state in ("complete", "running", "waiting", "failed") if counts[state]
    )
    return f"{len(rows)} runs: {told}"


def as_json(rows: Sequence[Standing]) -> list[dict[str, Any]]:
    """Return the rows as plain objects."""
    return [asdict(row) for row in rows]


def require_complete(out: Path, rows: Sequence[Standing]) -> None:
    """Raise :class:`DataError` where a run has failed or will never start, :class:`BusyError` while others go on."""
    states = Counter(row.state for row in rows)
    if states["failed"]:
        first = next(row for row in rows if row.state == "failed")
        raise DataError(f"{_counts(rows)}; first {first.run}: {first.error}", AGAIN)
    queued = any(record.executor == "slurm" for record in read_all(out))
    if states["running"] or (states["waiting"] and queued):
        raise BusyError(f"the sweep in {out} goes on ({_counts(rows)})", "look again later")
    if states["waiting"]:
        raise DataError(f"the sweep in {out} was interrupted ({_counts(rows)})", AGAIN)
