"""Runs a scoring: it computes a plan chunk by chunk into the store, and writes the summary at the end.

Everything the user asked for is checked and tried on two images before the long loop starts. A chunk is committed as a
whole, so a second run of the same command computes only what is missing or failed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.checkpoints.folder import MANIFEST
from xeval.checkpoints.load import require_unchanged
from xeval.engine import deterministic
from xeval.errors import DataError, InternalError, PartialError, ResourceError, UsageError, XevalError
from xeval.metrics import METRICS
from xeval.models import frozen_eval
from xeval.runtime.distributed import ALONE, Processes
from xeval.runtime.endings import first_line
from xeval.runtime.files import atomic_write, read_json, require_writable, slug, writable_directory, write_json
from xeval.runtime.locks import locked
from xeval.runtime.progress import Progress, Silent, duration, told_if_slow
from xeval.runtime.signals import Stop, never
from xeval.scoring.blocks import Chunk, Lacking, Work, block_size, chunks, images_of, lacking, work_of
from xeval.scoring.completeness import shortfall
from xeval.scoring.embedding import write_artifacts
from xeval.scoring.exchange import collected, shared_work
from xeval.scoring.options import ScoreOptions, validated
from xeval.scoring.plan import Label, Plan, make_plan
from xeval.scoring.precision import compared, sentence
from xeval.scoring.prefetch import prefetched
from xeval.scoring.scorer import Blocks, Failure, Scorer, make_scorer
from xeval.scoring.store import Cell, Store, start_afresh
from xeval.scoring.summary import SCHEMA, summarize
from xeval.scoring.tuned import Tuned, place, recalled

STORE, SCORES = "scores.sqlite", "scores.json"
PREFLIGHT = 2
PREPARING = "loading the checkpoint and hashing the images"


@dataclass(frozen=True)
class Scored:
    """The result of a scoring: the folder of the scores, and the error that says what is missing, if anything."""

    folder: Path
    shortfall: XevalError | None

    def accepted(self) -> Path:
        """Return the folder; raise the shortfall unless it was allowed."""
        if self.shortfall is not None and not isinstance(self.shortfall, PartialError):
            raise self.shortfall
        return self.folder


def score(checkpoint: Path | str, progress: Progress | None = None, **options: Any) -> Path:
    """Score a checkpoint and return the folder with ``scores.sqlite`` and ``scores.json``.

    ``options`` are the fields of :class:`ScoreOptions`. Raises a kind of :class:`~xeval.errors.XevalError`; where only
    some numbers are missing, everything else has been written before.
    """
    return run(Path(checkpoint), validated(**options), progress or Silent()).accepted()


def output_directory(checkpoint: Path, options: ScoreOptions) -> Path:
    """Return ``--out``, else the run directory itself, else ``<file name>.xeval`` beside a bare file."""
    if options.out is not None:
        return options.out
    if checkpoint.is_dir():
        return checkpoint
    beside = checkpoint.parent
    return beside if (beside / MANIFEST).is_file() else beside / f"{checkpoint.name}.xeval"


def _directory_in_use(folder: Path, plan: Plan) -> Path:
    """Return ``folder``, or ``<stem>.xeval``, the name of earlier versions, where it holds scores of these weights."""
    file = plan.loaded.path
    earlier = file.with_name(f"{file.stem}.xeval")
    if folder != file.with_name(f"{file.name}.xeval") or folder.exists() or not (earlier / SCORES).is_file():
        return folder
    try:
        scored = read_json(earlier / SCORES, SCHEMA)["checkpoint"]["sha256"]
    except (DataError, KeyError, TypeError):
        return folder
    return earlier if scored == plan.loaded.sha256 else folder


@dataclass(frozen=True)
class Session:
    """One scoring of one plan: its options, folder and progress, what may stop it and which processes share it."""

    plan: Plan
    options: ScoreOptions
    folder: Path
    progress: Progress
    stop: Stop = never
    processes: Processes = ALONE

    @property
    def images(self) -> int:
        """Number of images of the plan."""
        return len(self.plan.chosen)

    def halt(self, left: int) -> None:
        """Raise what a signal asked for, once all but ``left`` images are saved."""
        kind = self.stop()
        if kind is not None:
            saved = f"saved {self.images - left:,} of {self.images:,} images"
            raise kind(saved, "run the same command again to go on")


def run(
    checkpoint: Path, options: ScoreOptions, progress: Progress, stop: Stop = never, processes: Processes = ALONE
) -> Scored:
    """Check the request, try everything on two images, score what is missing and summarise."""
    with processes.together():
        if not checkpoint.exists():
            raise UsageError(f"{checkpoint} does not exist", "give a run directory or a weight file")
        folder = output_directory(checkpoint, options)
        if processes.main:
            require_writable(folder)
        with told_if_slow(progress, PREPARING):
            plan = make_plan(checkpoint, options)
    return execute(Session(plan, options, _directory_in_use(folder, plan), progress, stop, processes))


def execute(session: Session) -> Scored:
    """Score what is missing of a plan, summarise, and write everything to the folder; only rank 0 writes."""
    processes = session.processes
    with ExitStack() as held:
        with processes.together():
            store = held.enter_context(_opened(session)) if processes.main else None
        with deterministic():
            return _scored(session, store)


@contextmanager
def _opened(session: Session) -> Iterator[Store]:
    """Open and lock the store for the scores of a plan."""
    plan, options, progress = session.plan, session.options, session.progress
    out = writable_directory(session.folder)
    for note in plan.notes:
        progress.say(f"note: {note}")
    if options.limit is not None and options.limit > len(plan.split):
        progress.say(f"note: --limit {options.limit:,} is more than the {len(plan.split):,} images there are")
    with locked(out):
        old = start_afresh(out / STORE) if options.recompute else None
        if old is not None:
            progress.say(f"starting afresh; the old scores are kept as {old}")
        with Store(out / STORE, check=True) as store:
            yield store


def _scored(session: Session, store: Store | None) -> Scored:
    """Score what is missing in the store; only rank 0 has a store and tells the other ranks what is missing."""
    plan, processes = session.plan, session.processes
    where: Lacking = []
    todo, finished = None, None
    with processes.together():
        if store is not None:
            store.name_images(plan.data_key, [plan.split.ids[i] for i in plan.chosen])
            where = lacking(store, plan)
            missing = work_of(plan, where)
            finished = None if missing else _finished(session.folder / SCORES, plan)
            todo = missing if finished is None else None
    todo = shared_work(processes, plan, todo)
    if todo is None:
        session.progress.say("nothing to do: every requested number is already there")
        allowed = session.options.allow_partial
        return Scored(session.folder, shortfall(finished, allowed=allowed) if finished else None)
    started = time.perf_counter()
    with processes.together():
        scorer = make_scorer(plan, session.options)
    with frozen_eval(scorer.engine.model):
        compute(session, scorer, store, todo, where)
        with processes.together():
            return Scored(session.folder, None if store is None else _finish(session, scorer, store, started))


def _finish(session: Session, scorer: Scorer, store: Store, started: float) -> XevalError | None:
    """Write everything that is derived from the store; return the error that says what is missing, if anything."""
    plan, options, out = session.plan, session.options, session.folder
    cost = {
        "seconds": round(time.perf_counter() - started, 1),
        "passes": scorer.passes,
        "batch_size": scorer.engine.batch_size,
        "device": scorer.device.type,
        "network": scorer.engine.network.describe(),
        **scorer.meter.record(),
    }
    summary = summarize(store, plan, scorer.cam_size, cost)
    changed = compared(scorer, store)
    if changed is not None:
        summary["precision"] = changed
        summary["warnings"].append(sentence(changed))
        session.progress.say(sentence(changed))
    session.progress.say("features and t-SNE")
    summary["embedding"] = write_artifacts(out, scorer)
    if options.save_maps:
        scorer.save_maps(out)
    require_unchanged(plan.loaded)
    write_json(out / SCORES, summary)
    return _defect(out, scorer.failures) or shortfall(summary, allowed=options.allow_partial)


def _finished(path: Path, plan: Plan) -> Any:
    """Return the content of ``scores.json`` if it summarises exactly this plan, else None."""
    try:
        found = read_json(path, SCHEMA)
        keys = (
            found["checkpoint"]["sha256"],
            found["dataset"]["key"],
            found["protocol"]["hash"],
            found["explained"]["layer"],
            Label(*(found["checkpoint"][key] for key in ("name", "method", "seed"))),
            {row: about["code"] for row, about in found["explainers"].items() if "code" in about},
            found["status"] == ("partial" if found["problems"] else "complete"),
        )
    except (DataError, KeyError, TypeError):  # it is derived from the store and can be written again
        return None
    wanted = plan.loaded.sha256, plan.data_key, plan.protocol.hash(), plan.layer, plan.label, plan.code, True
    return found if keys == wanted else None


def compute(session: Session, scorer: Scorer, store: Store | None, todo: Work, where: Lacking) -> None:
    """Score the blocks, one per rank at a time, and commit each, after a rehearsal of everything on two images.

    ``where`` says on rank 0 what is lacking, of which ``todo`` are the largest blocks; slow networks get smaller ones.
    """
    processes, progress, left = session.processes, session.progress, images_of(todo)
    if left < session.images:
        progress.say(f"resuming: {session.images - left:,} of {session.images:,} images done")
    with processes.together():
        session.halt(left)
        passes = _rehearse(session, scorer, store, todo)
    _tune(session, scorer, store, left * passes / processes.world)
    with processes.together():
        progress.say(_announcement(session, scorer, left, passes))
        session.halt(left)
        put = _putting(store, session.plan) if store is not None else None
        if store is not None and todo:
            todo = work_of(session.plan, where, block_size(session.plan, passes / scorer.rate))
    todo = shared_work(processes, session.plan, todo) or []
    left = images_of(todo)
    turns = [todo[start : start + processes.world] for start in range(0, len(todo), processes.world)]
    pixels = prefetched(todo[processes.rank :: processes.world], lambda work: scorer.read(work[0].positions))
    for turn in progress.track(turns, left, "scoring, images", images_of):
        with processes.together():
            blocks = scorer.score_chunk(*turn[processes.rank], next(pixels)) if processes.rank < len(turn) else {}
        found = collected(processes, scorer, blocks)
        left -= images_of(turn)
        with processes.together():
            if put is not None:
                for (chunk, _), part in zip(turn, found, strict=False):  # the last turn may not fill all ranks
                    put(chunk, part)
            _tell_batch(scorer, progress)
            if left:
                session.halt(left)


def _putting(store: Store, plan: Plan) -> Callable[[Chunk, Blocks], None]:
    """Return the function that commits a chunk."""
    cells: dict[Any, Cell] = dict(plan.model_cells())
    cells.update((key, cell) for task in plan.tasks for key, cell in plan.cells(task).items())
    ids = store.ids(list(cells.values()))
    return lambda chunk, blocks: store.put(chunk.first, {ids[cells[key]]: block for key, block in blocks.items()})


def _rehearse(session: Session, scorer: Scorer, store: Store | None, todo: Work) -> float:
    """Run everything on two images, so that mistakes show before anything is timed; return the passes per image."""
    first, tasks = todo[0] if todo else (chunks(session.plan)[0], [])
    small = Chunk(first.first, first.positions[:PREFLIGHT])
    blocks, news = scorer.rehearse(small, tasks)
    for name, failure in {failure.metric: failure for failure in news.failures}.items():
        session.progress.say(f"warning: {name} fails ({_told(failure)}); the other metrics go on")
    _tell_batch(scorer, session.progress)
    if store is not None:
        _require_space(store.path, images_of(todo) * _bytes_of(blocks) // len(small.positions))
    return news.passes / len(small.positions)


def _tune(session: Session, scorer: Scorer, store: Store | None, images: float) -> None:
    """Find the form of the network and the batch size on rank 0, or recall them from the store; all ranks take them."""
    processes, options, found = session.processes, session.options, None
    with processes.together():
        if store is not None:
            key = place(session.plan, scorer.device)
            known = recalled(store, key)
            found = scorer.tune(options, images, known)
            if found != known:
                store.tune(key, found.model_dump())
    told = processes.from_main(found and found.model_dump())
    with processes.together():
        if not processes.main:
            scorer.adopt(Tuned.model_validate(told), options, images)
    _tell_batch(scorer, session.progress)


def _announcement(session: Session, scorer: Scorer, images: int, passes: float) -> str:
    """Say how much work there is, and how long the bare passes take; ``passes`` is the number per image."""
    world = session.processes.world
    least = duration(images * passes / scorer.rate / world)
    return (
        f"{session.plan.label.name}: {images:,} images × {passes:.0f} passes, which alone take {least}, "
        f"batches of {scorer.engine.batch_size} on {scorer.device.type}{f', {world} ranks' if world > 1 else ''}"
    )


def _bytes_of(blocks: Blocks) -> int:
    """Estimate what blocks take in the store: values, status bytes and a row's key."""
    return sum(block.values.nbytes + len(block.values) + 32 for block in blocks.values())


def _require_space(path: Path, estimate: int) -> None:
    """Raise ResourceError where the disk has less than twice the estimate."""
    free = shutil.disk_usage(path.parent).free
    if free < 2 * estimate:
        raise ResourceError(
            f"the disk of {path.parent} is too full: {2 * estimate:,} bytes needed, {free:,} are free",
            "make room, choose another folder with --out, or use a smaller --limit",
        )


def _tell_batch(scorer: Scorer, progress: Progress) -> None:
    """Say once that memory did not suffice for the batch size."""
    smaller = scorer.smaller_batch()
    if smaller is not None:
        progress.say(f"not enough memory: batch {smaller[0]}→{smaller[1]}")


def _told(failure: Failure) -> str:
    return first_line(f"{failure.kind}: {failure.message}", 120)


def _defect(out: Path, failures: Sequence[Failure]) -> XevalError | None:
    """Return the error for metrics that failed; the traceback of the first is kept beside the scores."""
    if not failures:
        return None
    first = failures[0]
    path = out / f"traceback-{slug(first.metric)}.txt"
    atomic_write(path, first.trace.encode())
    names = ", ".join(dict.fromkeys(failure.metric for failure in failures))
    problem = f"{names} failed on {len(failures):,} images, first {first.metric} on {first.image} ({_told(first)})"
    file = METRICS.foreign(first.metric)
    if file is not None:
        return UsageError(f"{problem}, in {file}", f"mend it or leave it out; everything else is scored, see {path}")
    return InternalError(problem, f"everything else is scored; please report {path}")
