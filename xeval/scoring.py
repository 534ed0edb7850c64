"""Scoring: a plan chunk by chunk into the store, and the summary at the end.

Everything the user asked for is checked and tried on two images before the long loop starts. A chunk is committed as a
whole; a second run of the same command does what is missing or failed and nothing else.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.ahead import ahead
from xeval.artifacts import write_artifacts
from xeval.checkpoints import demand_unchanged
from xeval.engine import deterministic
from xeval.errors import DataError, InternalError, PartialError, ResourceError, UsageError, XevalError
from xeval.gaps import shortfall
from xeval.interrupts import Stop, never
from xeval.locks import locked
from xeval.models import frozen_eval
from xeval.options import ScoreOptions, validated
from xeval.plan import Plan, Task, make_plan
from xeval.progress import Progress, Silent
from xeval.runs import MANIFEST, atomic_write, read_json, require_writable, slug, writable_directory, write_json
from xeval.scorer import Blocks, Chunk, Failure, Scorer, chunks
from xeval.store import Cell, Store, start_afresh
from xeval.summary import SCHEMA, summarize

STORE, SCORES = "scores.sqlite", "scores.json"
PREFLIGHT = 2
Work = list[tuple[Chunk, list[Task]]]


@dataclass(frozen=True)
class Scored:
    """Where the scores are, and what keeps them from being complete."""

    folder: Path
    shortfall: XevalError | None

    def accepted(self) -> Path:
        """The folder; raises what is amiss unless it was allowed."""
        if self.shortfall is not None and not isinstance(self.shortfall, PartialError):
            raise self.shortfall
        return self.folder


def score(checkpoint: Path | str, progress: Progress | None = None, **options: Any) -> Path:
    """Score a checkpoint and return the folder with ``scores.sqlite`` and ``scores.json``.

    ``options`` are the fields of :class:`ScoreOptions`. Raises an :class:`~xeval.errors.XevalError` kind; where only
    some numbers are missing, everything else has been written before.
    """
    return run(Path(checkpoint), validated(**options), progress or Silent()).accepted()


def output_directory(checkpoint: Path, options: ScoreOptions) -> Path:
    """``--out``, else the run directory itself, else ``<stem>.xeval`` beside a bare file."""
    if options.out is not None:
        return options.out
    if checkpoint.is_dir():
        return checkpoint
    beside = checkpoint.parent
    return beside if (beside / MANIFEST).is_file() else beside / f"{checkpoint.stem}.xeval"


def run(checkpoint: Path, options: ScoreOptions, progress: Progress, stop: Stop = never) -> Scored:
    """Check, try on two images, score what is missing, summarise."""
    if not checkpoint.exists():
        raise UsageError(f"{checkpoint} does not exist", "give a run directory or a weight file")
    folder = output_directory(checkpoint, options)
    require_writable(folder)
    return execute(make_plan(checkpoint, options), options, folder, progress, stop)


def execute(plan: Plan, options: ScoreOptions, folder: Path, progress: Progress, stop: Stop = never) -> Scored:
    """Score what is missing of a plan, summarise, and write everything to ``folder``."""
    out = writable_directory(folder)
    for note in plan.notes:
        progress.say(f"note: {note}")
    if options.limit is not None and options.limit > len(plan.split):
        progress.say(f"note: --limit {options.limit:,} is more than the {len(plan.split):,} images there are")
    with locked(out):
        old = start_afresh(out / STORE) if options.recompute else None
        if old is not None:
            progress.say(f"starting afresh; the old scores are kept as {old}")
        with Store(out / STORE, check=True) as store, deterministic():
            return _scored(store, plan, options, out, progress, stop)


def _scored(store: Store, plan: Plan, options: ScoreOptions, out: Path, progress: Progress, stop: Stop) -> Scored:
    store.name_images(plan.data_key, [plan.split.ids[i] for i in plan.chosen])
    todo = _missing(store, plan)
    finished = None if todo else _finished(out / SCORES, plan)
    if finished is not None:
        progress.say("nothing to do: every requested number is already there")
        return Scored(out, shortfall(finished, allowed=options.allow_partial))
    started = time.perf_counter()
    scorer = Scorer(plan, options)
    with frozen_eval(scorer.engine.model):
        compute(scorer, store, todo, progress, stop)
        cost = {
            "seconds": round(time.perf_counter() - started, 1),
            "passes": scorer.engine.passes,
            "batch_size": scorer.engine.batch_size,
            "device": scorer.device.type,
            "network": scorer.engine.network.describe(),
            **scorer.meter.record(),
        }
        summary = summarize(store, plan, scorer.cam_size, cost)
        progress.say("features and t-SNE")
        summary["embedding"] = write_artifacts(out, scorer)
    if options.save_maps:
        scorer.save_maps(out)
    demand_unchanged(plan.loaded)
    write_json(out / SCORES, summary)
    return Scored(out, _defect(out, scorer.failures) or shortfall(summary, allowed=options.allow_partial))


def _missing(store: Store, plan: Plan) -> Work:
    """For each chunk the tasks that lack a cell or hold an error; the model's own cells belong to every task."""
    parts: list[tuple[Task | None, list[Cell]]] = [(None, list(plan.model_cells().values()))]
    parts += [(task, list(plan.cells(task).values())) for task in plan.tasks]
    ids = store.ids([cell for _, cells in parts for cell in cells])
    done = store.done(ids.values())
    finished = [(task, set.intersection(*(done[ids[cell]] for cell in cells))) for task, cells in parts]
    work: Work = []
    for chunk in chunks(plan):
        lacking = [task for task, firsts in finished if chunk.first not in firsts]
        if lacking:
            work.append((chunk, [task for task in lacking if task is not None]))
    return work


def _finished(path: Path, plan: Plan) -> Any:
    """The content of ``scores.json`` if it summarises exactly this plan, else None."""
    try:
        found = read_json(path, SCHEMA)
        keys = (
            found["checkpoint"]["sha256"],
            found["dataset"]["key"],
            found["protocol"]["hash"],
            found["explained"]["layer"],
            found["status"] == ("partial" if found["problems"] else "complete"),
        )
    except (DataError, KeyError, TypeError):  # it is derived from the store and can be written again
        return None
    return found if keys == (plan.loaded.sha256, plan.data_key, plan.protocol.hash(), plan.layer, True) else None


def compute(scorer: Scorer, store: Store, todo: Work, progress: Progress, stop: Stop = never) -> None:
    """Score the chunks, committing each; the first two images go ahead as a rehearsal of everything."""
    total = len(scorer.plan.chosen)
    left = images_of(todo)
    if left < total:
        progress.say(f"resuming: {total - left:,} of {total:,} images done")
    _halt(stop, total - left, total)
    _rehearse(scorer, store, todo, progress)
    _halt(stop, total - left, total)
    cells: dict[Any, Cell] = dict(scorer.plan.model_cells())
    cells.update((key, cell) for task in scorer.plan.tasks for key, cell in scorer.plan.cells(task).items())
    ids = store.ids(list(cells.values()))
    reading = ahead(todo, lambda work: scorer.read(work[0].positions))
    for (chunk, tasks), pixels in progress.track(reading, len(todo), "scoring, blocks of images"):
        blocks = scorer.score_chunk(chunk, tasks, pixels)
        store.put(chunk.first, {ids[cells[key]]: block for key, block in blocks.items()})
        _tell_batch(scorer, progress)
        left -= len(chunk.positions)
        if left:
            _halt(stop, total - left, total)


def images_of(todo: Work) -> int:
    """How many images a list of work has."""
    return sum(len(chunk.positions) for chunk, _ in todo)


def _halt(stop: Stop, saved: int, total: int) -> None:
    """Raise what a signal asked for, now that everything is saved."""
    kind = stop()
    if kind is not None:
        raise kind(f"saved {saved:,} of {total:,} images", "run the same command again to go on")


def _rehearse(scorer: Scorer, store: Store, todo: Work, progress: Progress) -> None:
    """Run everything on two images, so that a mistake shows now; say how much work there is and about how long."""
    plan, engine = scorer.plan, scorer.engine
    first, tasks = todo[0] if todo else (chunks(plan)[0], [])
    small = Chunk(first.first, first.positions[:PREFLIGHT])
    engine.passes = 0
    blocks = scorer.score_chunk(small, tasks)
    passes = engine.passes / len(small.positions)
    for name, failure in {failure.metric: failure for failure in scorer.failures}.items():
        progress.say(f"warning: {name} fails ({_told(failure.error)}); the other metrics go on")
    _tell_batch(scorer, progress)
    engine.passes = 0
    scorer.meter.clear()
    scorer.failures.clear()
    images = images_of(todo)
    _demand_space(store.path, images * _bytes_of(blocks) // len(small.positions))
    left = images * passes / scorer.rate
    duration = f"{left / 60:.0f} min" if left >= 90 else f"{max(1, left):.0f} s"
    name = plan.loaded.card.name if plan.loaded.card else plan.loaded.path.name
    progress.say(
        f"{name}: {images} images × {passes:.0f} passes, about {duration}, batches of {engine.batch_size} "
        f"on {scorer.device.type}"
    )


def _bytes_of(blocks: Blocks) -> int:
    """About what blocks take in the store: values, status bytes and a row's key."""
    return sum(block.values.nbytes + len(block.values) + 32 for block in blocks.values())


def _demand_space(path: Path, estimate: int) -> None:
    """Raise where the disk has less than twice the estimate."""
    free = shutil.disk_usage(path.parent).free
    if free < 2 * estimate:
        raise ResourceError(
            f"the disk of {path.parent} is too full: {2 * estimate:,} bytes needed, {free:,} are free",
            "make room, choose another folder with --out, or use a smaller --limit",
        )


def _tell_batch(scorer: Scorer, progress: Progress) -> None:
    """Say once that memory did not suffice for the batch size."""
    if scorer.engine.batch_size != scorer.asked:
        progress.say(f"not enough memory: batch {scorer.asked}→{scorer.engine.batch_size}")
        scorer.asked = scorer.engine.batch_size


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def _defect(out: Path, failures: Sequence[Failure]) -> InternalError | None:
    """The error for metrics that failed; the traceback of the first is kept beside the scores."""
    if not failures:
        return None
    first = failures[0]
    path = out / f"traceback-{slug(first.metric)}.txt"
    atomic_write(path, "".join(traceback.format_exception(first.error)).encode())
    names = ", ".join(dict.fromkeys(failure.metric for failure in failures))
    return InternalError(
        f"{names} failed on {len(failures):,} images, first {first.metric} on {first.image} ({_told(first.error)})",
        f"everything else is scored; please report {path}",
    )
