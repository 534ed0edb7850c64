"""Scoring: images → maps, once per explainer → metrics → store, chunk by chunk, and the summary at the end.

Everything the user asked for is checked and tried on two images before the long loop starts. A chunk is committed as a
whole; a second run of the same command does what is missing and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xeval.artifacts import write_artifacts
from xeval.checkpoints import demand_unchanged
from xeval.data import normalize
from xeval.engine import Engine, pick_device, probe_batch_size, throughput
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.metrics.base import Scene, Scores, Values
from xeval.models import frozen_eval
from xeval.options import ScoreOptions, validated
from xeval.perturb import FILLS, image_keys
from xeval.plan import Plan, Task, make_plan
from xeval.progress import Progress, Silent
from xeval.rows import Rows
from xeval.runs import MANIFEST, read_json, writable_directory, write_json
from xeval.store import Block, Cell, Store
from xeval.summary import SCHEMA, summarize

STORE, SCORES = "scores.sqlite", "scores.json"
PREFLIGHT = 2


@dataclass(frozen=True)
class Chunk:
    """Consecutive chosen images: the number of the first, their positions in the split."""

    first: int
    positions: list[int]


def score(checkpoint: Path | str, progress: Progress | None = None, **options: Any) -> Path:
    """Score a checkpoint and return the folder with ``scores.sqlite`` and ``scores.json``.

    ``options`` are the fields of :class:`ScoreOptions`. Raises an :class:`~xeval.errors.XevalError` kind.
    """
    return run(Path(checkpoint), validated(**options), progress or Silent())


def output_directory(checkpoint: Path, options: ScoreOptions) -> Path:
    """``--out``, else the run directory itself, else ``<stem>.xeval`` beside a bare file."""
    if options.out is not None:
        return options.out
    if checkpoint.is_dir():
        return checkpoint
    beside = checkpoint.parent
    return beside if (beside / MANIFEST).is_file() else beside / f"{checkpoint.stem}.xeval"


def run(checkpoint: Path, options: ScoreOptions, progress: Progress) -> Path:
    """Check, try on two images, score what is missing, summarise."""
    if not checkpoint.exists():
        raise UsageError(f"{checkpoint} does not exist", "give a run directory or a weight file")
    plan = make_plan(checkpoint, options)
    return execute(plan, options, output_directory(checkpoint, options), progress)


def execute(plan: Plan, options: ScoreOptions, folder: Path, progress: Progress) -> Path:
    """Score what is missing of a plan, summarise, and write everything to ``folder``."""
    out = writable_directory(folder)
    for note in plan.notes:
        progress.say(f"note: {note}")
    with Store(out / STORE) as store:
        store.name_images(plan.data_key, [plan.split.ids[i] for i in plan.chosen])
        todo = _missing(store, plan)
        if not todo and _finished(out / SCORES, plan):
            progress.say("nothing to do: every requested number is already there")
            return out
        started = time.perf_counter()
        scorer = Scorer(plan, options)
        with frozen_eval(scorer.engine.model):
            scorer.compute(store, todo, progress)
            cost = {"seconds": round(time.perf_counter() - started, 1), "passes": scorer.engine.passes}
            summary = summarize(store, plan, scorer.cam_size, cost)
            progress.say("features and t-SNE")
            summary["embedding"] = write_artifacts(out, scorer)
        if options.save_maps:
            scorer.save_maps(out)
    demand_unchanged(plan.loaded)
    write_json(out / SCORES, summary)
    return out


def chunks(plan: Plan) -> list[Chunk]:
    """The chosen images in blocks of 64, fewer where images are large; the same for every run of a plan."""
    size = max(16, 64 * 64**2 // max(plan.info.size, 64) ** 2)
    positions = [int(i) for i in plan.chosen]
    return [Chunk(first, positions[first : first + size]) for first in range(0, len(positions), size)]


def _missing(store: Store, plan: Plan) -> list[tuple[Chunk, list[Task]]]:
    """For each chunk the tasks that lack a cell; the model's own cells count as part of the first task."""
    needs: list[tuple[Task | None, set[int]]] = []
    for task in [None, *plan.tasks]:
        cells = list((plan.cells(task) if task else plan.model_cells()).values())
        done = store.done(store.ids(cells).values())
        needs.append((task, set.intersection(*done.values()) if done else set()))
    work: list[tuple[Chunk, list[Task]]] = []
    for chunk in chunks(plan):
        lacking = [task for task, done in needs if chunk.first not in done]
        if lacking:
            work.append((chunk, [task for task in lacking if task is not None]))
    return work


def _finished(path: Path, plan: Plan) -> bool:
    """Whether ``scores.json`` already summarises exactly this plan."""
    if not path.is_file():
        return False
    found = read_json(path, SCHEMA)
    keys = (
        found["checkpoint"]["sha256"],
        found["dataset"]["key"],
        found["protocol"]["hash"],
        found["explained"]["layer"],
    )
    return bool(keys == (plan.loaded.sha256, plan.data_key, plan.protocol.hash(), plan.layer))


class Scorer:
    """A plan on a device."""

    def __init__(self, plan: Plan, options: ScoreOptions) -> None:
        self.plan = plan
        self.device = pick_device(options.device)
        model = plan.loaded.model.to(self.device)
        info = plan.info
        shape = (info.channels, 1, 1)
        self.mean = torch.tensor(info.mean, device=self.device).reshape(shape)
        self.pixel = 1 / torch.tensor(info.std, device=self.device).reshape(shape)
        with frozen_eval(model):
            example = torch.zeros(1, info.channels, info.size, info.size, device=self.device)
            batch_size = options.batch_size or probe_batch_size(model, example)
            self.rate = throughput(model, example, batch_size)
        self.engine = Engine(model, batch_size=batch_size, single=plan.protocol.softmax == "float32")
        self.rows = Rows(plan, self.engine)
        self.cam_size: tuple[int, int] = (0, 0)

    def compute(self, store: Store, todo: list[tuple[Chunk, list[Task]]], progress: Progress) -> None:
        """Score the chunks, committing each; the first two images go ahead as a rehearsal of everything."""
        self._rehearse(todo, progress)
        self.engine.passes = 0
        for chunk, tasks in progress.track(todo, len(todo), "scoring, blocks of images"):
            blocks = self.score_chunk(chunk, tasks)
            cells: dict[Any, Cell] = dict(self.plan.model_cells())
            cells.update((key, cell) for task in tasks for key, cell in self.plan.cells(task).items())
            ids = store.ids(list(cells.values()))
            store.put(chunk.first, {ids[cells[key]]: block for key, block in blocks.items()})

    def _rehearse(self, todo: list[tuple[Chunk, list[Task]]], progress: Progress) -> None:
        """Run everything on two images, so that a mistake shows now; say how much work there is and about how long."""
        first, tasks = todo[0] if todo else (chunks(self.plan)[0], [])
        small = Chunk(first.first, first.positions[:PREFLIGHT])
        self.score_chunk(small, tasks)
        passes = self.engine.passes / len(small.positions)
        images = sum(len(chunk.positions) for chunk, _ in todo)
        left = images * passes / self.rate
        duration = f"{left / 60:.0f} min" if left >= 90 else f"{max(1, left):.0f} s"
        name = self.plan.loaded.card.name if self.plan.loaded.card else self.plan.loaded.path.name
        progress.say(
            f"{name}: {images} images × {passes:.0f} passes, about {duration}, batches of {self.engine.batch_size} "
            f"on {self.device.type}"
        )

    def score_chunk(self, chunk: Chunk, tasks: list[Task]) -> dict[Any, Block]:
        """All values of one chunk: model columns under their name, others under (explainer, column)."""
        scene, blocks = self.scene(chunk.positions)
        rows = list(self.rows.of(scene, chunk.positions))
        self.cam_size = (rows[0][1][0].native.shape[-2], rows[0][1][0].native.shape[-1])
        for task in tasks:
            shared = task.metric.prepare(scene, task.settings)
            scores = {
                name: average([task.metric.score(one, task.settings, shared) for one in draws]) for name, draws in rows
            }
            _fill_gains(task, scores)
            for name, columns in scores.items():
                blocks.update({(name, column): to_block(values) for column, values in columns.items()})
        return blocks

    def scene(self, positions: list[int]) -> tuple[Scene, dict[Any, Block]]:
        """The scene of some images, and the model's own columns."""
        split = self.plan.split
        images = normalize(split.read(positions).to(self.device), self.plan.info)
        labels = torch.as_tensor(split.labels[positions], device=self.device)
        probabilities = self.engine.probabilities(images).to(self.device)
        confidence, predicted = probabilities.max(1)
        targets = labels if self.plan.protocol.target == "label" else predicted
        p0 = probabilities.gather(1, targets[:, None])[:, 0]
        keys = image_keys([split.ids[i] for i in positions]).to(self.device)
        fill, seed = FILLS[self.plan.protocol.fill], self.plan.protocol.seed
        scene = Scene(
            engine=self.engine,
            images=images,
            keys=keys,
            targets=targets,
            labels=labels,
            p0=p0,
            fill=fill.make(images, self.mean, self.pixel, keys, seed),
            pixel=self.pixel,
            mean=self.mean,
            masks=self._masks(positions),
            seed=seed,
            legacy_order=self.plan.protocol.order == "argsort",
            compose=fill.compose,
        )
        columns = {
            "label": labels,
            "predicted": predicted,
            "correct": labels == predicted,
            "p0": p0,
            "confidence": confidence,
        }
        return scene, {name: to_block(Values(value.double())) for name, value in columns.items()}

    def _masks(self, positions: list[int]) -> Tensor | None:
        """Where the objects are: exact masks, else boxes drawn as masks, else None."""
        split = self.plan.split
        masks = split.masks(positions)
        if masks is not None:
            return masks.to(self.device)
        boxes = split.boxes(positions)
        return None if boxes is None else box_masks(boxes.to(self.device), self.plan.info.size)

    def save_maps(self, out: Path) -> None:
        """Write every explainer's signed maps on their own grid to ``maps.safetensors``."""
        from xeval.checkpoints import write_tensors

        kept: dict[str, list[Tensor]] = {name: [] for name in self.plan.protocol.explainers}
        for chunk in chunks(self.plan):
            scene, _ = self.scene(chunk.positions)
            for name, maps in kept.items():
                maps.append(self.rows.explain(scene, EXPLAINERS[name]).native)
        write_tensors(out / "maps.safetensors", {name: torch.cat(maps) for name, maps in kept.items()})


def box_masks(boxes: Tensor, side: int) -> Tensor:
    """Boxes (N, 4) x0, y0, x1, y1, inclusive, as masks: bool N×1×side×side."""
    place = torch.arange(side, device=boxes.device)
    across = (place >= boxes[:, 0:1]) & (place <= boxes[:, 2:3])
    down = (place >= boxes[:, 1:2]) & (place <= boxes[:, 3:4])
    return (down[:, :, None] & across[:, None, :]).unsqueeze(1)


def average(draws: list[Scores]) -> Scores:
    """The mean of several draws' values; undefined where any draw is."""
    if len(draws) == 1:
        return draws[0]
    merged: Scores = {}
    for column in draws[0]:
        values = torch.stack([draw[column].value for draw in draws]).mean(0)
        reasons = {reason for draw in draws for reason in draw[column].undefined}
        undefined = {
            reason: torch.stack(
                [draw[column].undefined[reason] for draw in draws if reason in draw[column].undefined]
            ).any(0)
            for reason in sorted(reasons)
        }
        merged[column] = Values(values, undefined)
    return merged


def _fill_gains(task: Task, scores: dict[str, Scores]) -> None:
    """Gain columns: the random control's value of the same image minus the row's own."""
    for gain, source in task.metric.gain_of.items():
        baseline = scores["random"][source].value
        for columns in scores.values():
            columns[gain] = Values(baseline - columns[source].value)


def to_block(values: Values) -> Block:
    """Host copy of a column: NaN and a reason where undefined, an error where a value is not finite."""
    array = values.value.detach().cpu().numpy().astype(np.float64)
    bad = np.zeros(len(array), bool)
    reasons: dict[tuple[str, str], Any] = {}
    for reason, where in values.undefined.items():
        mask = where.cpu().numpy()
        reasons["undefined", reason] = mask
        bad |= mask
    finite = np.isfinite(array) if array.ndim == 1 else np.isfinite(array).all(1)
    reasons["error", "not finite"] = ~finite & ~bad
    array = array.copy()
    array[bad | ~finite] = np.nan
    return Block(array, reasons)
