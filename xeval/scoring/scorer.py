"""Computes a plan on a device: images become maps, once per explainer, and maps become blocks of values."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xeval.data import normalize
from xeval.engine import Engine, pick_device
from xeval.engine.batch_size import FIRST, LARGEST, copies, probe_batch_size
from xeval.engine.folding import compiled, network_of
from xeval.errors import UsageError, XevalError
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import Explained, Scene, Values
from xeval.metrics.metric import Scores
from xeval.models import frozen_eval
from xeval.models.frozen import unchanged
from xeval.perturb.draws import image_keys
from xeval.perturb.fills import FILLS
from xeval.perturb.masks import box_masks
from xeval.runtime.endings import first_line
from xeval.runtime.memory import is_device_failure, is_out_of_memory, resources
from xeval.scoring.cost import Meter
from xeval.scoring.maps import Maps
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import Plan, Task
from xeval.scoring.store import Block

VERSIONS = 64  # of one image in a batch, at most
NETWORK, MAP, VALUE = "network output not finite", "map not finite", "not finite"

Named: TypeAlias = list[tuple[str, list[Explained]]]
Blocks: TypeAlias = dict[Any, Block]
Errors: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Chunk:
    """Consecutive chosen images that are scored together: the number of the first, and all positions in the split."""

    first: int
    positions: list[int]


@dataclass(frozen=True)
class Failure:
    """An error that a metric raised on one image: its type, message and traceback."""

    metric: str
    image: str
    kind: str
    message: str
    trace: str


def failure_of(metric: str, image: str, error: Exception) -> Failure:
    """Return what is kept of an error."""
    return Failure(metric, image, type(error).__name__, str(error), "".join(traceback.format_exception(error)))


def chunks(plan: Plan) -> list[Chunk]:
    """Return the chosen images in blocks of 64, or fewer where images are large; the same for every run of a plan."""
    _, height, width = plan.info.shape
    size = max(16, 64 * 64**2 // max(height * width, 64**2))
    positions = [int(i) for i in plan.chosen]
    return [Chunk(first, positions[first : first + size]) for first in range(0, len(positions), size)]


@dataclass(frozen=True)
class News:
    """What has failed and how many passes were made since the last call of :meth:`Scorer.take_news`."""

    failures: list[Failure]
    passes: int


def _no_guard(_who: str) -> None:
    """Check nothing."""


@dataclass
class Scorer:
    """Computes a plan on a device; built by :func:`make_scorer`.

    ``batch_size`` is the one that was asked for or found, ``rate`` the images per second in such batches, once
    :meth:`tune` has measured it; ``failures`` collects what metrics raised, ``passes`` counts the images that went
    through the network, ``cam_size`` is the grid of the maps.
    """

    plan: Plan
    device: torch.device
    engine: Engine
    maps: Maps
    meter: Meter
    batch_size: int
    rate: float = math.inf
    cam_size: tuple[int, int] = (0, 0)
    failures: list[Failure] = field(default_factory=list)
    passes: int = 0
    guard: Callable[[str], None] = _no_guard

    def tune(self, options: ScoreOptions, images: float) -> None:
        """Find the batch size unless one is asked for, compile the network on request, and measure the speed.

        Whatever can be refused has been by then. ``images`` is the number of images that there are to pass: measuring
        passes no more of them.
        """
        engine, example = self.engine, _example(self.plan, self.device)
        with resources():
            if options.batch_size is None:
                largest = min(LARGEST, most_at_once(self.plan))
                engine.batch_size = probe_batch_size(engine.network, example, largest=largest, images=images / 2)
                self.batch_size = engine.batch_size
            if options.compile == "on":
                engine.network = compiled(engine.network, copies(example, self.batch_size))
            self.rate = engine.rate(example, images / 2)

    def read(self, positions: list[int]) -> Tensor:
        """Read images to the host as uint8; for a CUDA device in pinned memory, from which it can copy directly."""
        pixels = self.plan.split.read(positions)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def take_news(self) -> News:
        """Return what failed and the passes that were made since the last call, and start counting anew."""
        news = News(self.failures, self.passes + self.engine.take_passes())
        self.failures, self.passes = [], 0
        return news

    def rehearse(self, chunk: Chunk, tasks: list[Task]) -> tuple[Blocks, News]:
        """Score a few images, give away what that has shown, and forget its costs.

        Raises :class:`UsageError` that names an explainer or a metric which changes the weights of the network.
        """
        self.take_news()
        self.guard = unchanged(self.engine.model)
        blocks = self.score_chunk(chunk, tasks)
        self.guard = _no_guard
        self.meter.clear()
        return blocks, self.take_news()

    def add_news(self, news: News) -> None:
        """Add the failures and passes of another process."""
        self.failures += news.failures
        self.passes += news.passes

    def smaller_batch(self) -> tuple[int, int] | None:
        """Return the batch size before and now, once after memory did not suffice for it; else None."""
        before, self.batch_size = self.batch_size, self.engine.batch_size
        return (before, self.batch_size) if self.batch_size != before else None

    def score_chunk(self, chunk: Chunk, tasks: list[Task], pixels: Tensor | None = None) -> Blocks:
        """Return all values of one chunk: model columns under their name, others under (explainer, column).

        ``pixels`` are the chunk's images where they have been read before.
        """
        with resources():
            scene, blocks = self.scene(chunk.positions, pixels)
            rows = self._explained(scene, chunk.positions)
            self.meter.count(len(chunk.positions))
            self.cam_size = (rows[0][1][0].native.shape[-2], rows[0][1][0].native.shape[-1])
            for task in tasks:
                blocks.update(self._blocks(task, chunk.positions, scene, rows))
        self.passes += self.engine.take_passes()
        return blocks

    def _explained(self, scene: Scene, positions: list[int]) -> Named:
        """Return the maps of every row, and measure the cost of each."""
        source, found = self.maps.of(scene, positions), []
        for name in self.plan.rows:
            with self.meter.part(name), self._named(name):
                found.append(next(source))
            self.guard(f"explainer {name!r}")
        return found

    @contextmanager
    def _named(self, row: str) -> Iterator[None]:
        """Name an explainer from outside whose code fails; errors that say themselves what to do pass."""
        file = EXPLAINERS.foreign(row) or CONTROLS.foreign(row)
        try:
            yield
        except Exception as error:
            if file is None or isinstance(error, XevalError) or is_out_of_memory(error) or is_device_failure(error):
                raise
            told = first_line(f"{type(error).__name__}: {error}", 160)
            raise UsageError(
                f"the explainer {row!r} of {file} fails ({told})", "mend it, or name others with --explainers"
            ) from error

    def _blocks(self, task: Task, positions: list[int], scene: Scene, rows: Named) -> Blocks:
        """Return one task's values; where the metric fails, halve the images until only those it fails on are lost."""
        found = self._attempt(task, positions, scene, rows)
        if found is not None:
            return found
        if len(positions) == 1:
            return dict.fromkeys(self.plan.cells(task), lost(self.failures[-1].kind))
        middle = len(positions) // 2
        left, right = (self._half(task, part) for part in (positions[:middle], positions[middle:]))
        return {key: joined(left[key], right[key]) for key in left}

    def _half(self, task: Task, positions: list[int]) -> Blocks:
        """Return one task's values of some of a chunk's images, which are explained again."""
        scene, _ = self.scene(positions)
        return self._blocks(task, positions, scene, self._explained(scene, positions))

    def _attempt(self, task: Task, positions: list[int], scene: Scene, rows: Named) -> Blocks | None:
        """Return the values, or None where the metric has a defect.

        Errors that are not defects of the metric are raised: too little memory, failures of the device and users'
        mistakes.
        """
        try:
            found = task_blocks(task, scene, rows, self.meter)
            self.guard(f"metric {task.metric.name!r}")
            return found
        except Exception as error:
            if isinstance(error, XevalError) or is_out_of_memory(error) or is_device_failure(error):
                raise
            if len(positions) == 1:
                self.failures.append(failure_of(task.metric.name, self.plan.split.ids[positions[0]], error))
            return None

    def scene(self, positions: list[int], pixels: Tensor | None = None) -> tuple[Scene, Blocks]:
        """Return the scene of some images, and the model's own columns."""
        split, protocol, info = self.plan.split, self.plan.protocol, self.plan.info
        pixels = self.read(positions) if pixels is None else pixels
        images = normalize(pixels.to(self.device, non_blocking=True), info)
        labels = torch.as_tensor(split.labels[positions], device=self.device)
        keys = image_keys([split.images[i] for i in positions]).to(self.device)
        mean, pixel = (torch.tensor(part, device=self.device).reshape(-1, 1, 1) for part in (info.mean, info.std))
        pixel = 1 / pixel
        fill = FILLS[protocol.fill]
        scene = Scene.of(
            self.engine,
            images,
            keys,
            targets=labels if protocol.target == "label" else None,
            labels=labels,
            fill=fill.make(images, mean, pixel, keys, protocol.seed),
            pixel=pixel,
            mean=mean,
            masks=self._masks(positions),
            seed=protocol.seed,
            legacy_order=protocol.order == "argsort",
            rescaled=protocol.map == "pytorch-grad-cam",
            compose=fill.compose,
        )
        return scene, model_blocks(scene, split.truth(positions))

    def _masks(self, positions: list[int]) -> Tensor | None:
        """Return where the objects are: exact masks, else boxes drawn as masks, else None."""
        split = self.plan.split
        masks = split.masks(positions)
        if masks is not None:
            return masks.to(self.device)
        boxes = split.boxes(positions)
        return None if boxes is None else box_masks(boxes.to(self.device), *self.plan.info.shape[1:])

    def save_maps(self, out: Path) -> None:
        """Write every explainer's signed maps on their own grid to ``maps.safetensors``."""
        from xeval.checkpoints.weightfiles import write_tensors

        kept: dict[str, list[Tensor]] = {name: [] for name in self.plan.protocol.explainers}
        for chunk in chunks(self.plan):
            scene, _ = self.scene(chunk.positions)
            for name, maps in kept.items():
                maps.append(self.maps.explain(scene, name).native)
        write_tensors(out / "maps.safetensors", {name: torch.cat(maps) for name, maps in kept.items()})


def make_scorer(plan: Plan, options: ScoreOptions) -> Scorer:
    """Put a plan on its device, and find the fastest form of the network that gives the same logits."""
    device = pick_device(options.device)
    model = plan.loaded.model.to(device)
    with frozen_eval(model), resources():
        network = network_of(model, _example(plan, device))
    size = min(options.batch_size or FIRST, most_at_once(plan))
    single, link = plan.protocol.softmax == "float32", plan.loaded.meaning.link
    engine = Engine(model, network=network, batch_size=size, single=single, link=link)
    return Scorer(plan, device, engine, Maps(plan, engine), Meter(engine, device), size)


def _example(plan: Plan, device: torch.device) -> Tensor:
    """Return an image of the size that the plan has, 1×C×H×W."""
    return torch.zeros(1, *plan.info.shape, device=device)


def most_at_once(plan: Plan) -> int:
    """The largest batch that a block of images can fill: 64 versions of each, which is more than a device needs."""
    return VERSIONS * len(chunks(plan)[0].positions)


def model_blocks(scene: Scene, truth: Tensor | None = None) -> Blocks:
    """Return the columns of the model itself: the true and the predicted class and their probabilities.

    Where images may have several labels, ``truth`` says which, bool (N, classes): an image is classified correctly if
    each of them has a probability above ½ and no other label has.
    """
    probabilities = scene.engine.linked(scene.logits).to(scene.images.device)
    confidence, predicted = probabilities.max(1)
    columns = {
        "predicted": predicted,
        "correct": scene.labels == predicted if truth is None else _all_right(probabilities, truth),
        "p0": scene.p0,
        "confidence": confidence,
    }
    broken = {NETWORK: ~probabilities.isfinite().all(1)}
    found = {name: to_block(Values(value.double()), broken) for name, value in columns.items()}
    return {"label": to_block(Values(scene.labels.double())), **found}


def _all_right(probabilities: Tensor, truth: Tensor) -> Tensor:
    return ((probabilities > 0.5) == truth.to(probabilities.device)).all(1)


def task_blocks(task: Task, scene: Scene, rows: Named, meter: Meter) -> Blocks:
    """Return the values of one metric for every row of the table."""
    metric, settings = task.metric, task.settings
    with meter.part(metric=metric.name):
        shared = metric.prepare(scene, settings)
    scores: dict[str, Scores] = {}
    for name, draws in rows:
        with meter.part(name, metric.name):
            scores[name] = average([metric.score(one, settings, shared) for one in draws])
            _require_declared(task, scores[name], len(scene.images))
    _fill_gains(task, scores)
    errors = {name: _broken(scene, draws) for name, draws in rows}
    return {
        (name, column): to_block(values, errors[name])
        for name, columns in scores.items()
        for column, values in columns.items()
    }


def _require_declared(task: Task, scores: Scores, images: int) -> None:
    """Raise TypeError for a metric that does not give one value an image for each column that it declares."""
    wanted = set(task.names) - task.gains.keys()
    if scores.keys() != wanted:
        raise TypeError(f"it gives the columns {sorted(scores)} and declares {sorted(wanted)}")
    for name, values in scores.items():
        shape = tuple(values.value.shape)
        if shape != (images,) and not (name in task.metric.curves and len(shape) == 2 and shape[0] == images):
            raise TypeError(f"it gives {name} as {shape} for {images} images, not one value for each")


def _broken(scene: Scene, draws: list[Explained]) -> Errors:
    """Return where the network's output or a map is not finite.

    A score of such an image would be a number without a meaning, because ranks exist even for NaN maps.
    """
    maps = torch.stack([one.native.flatten(1).isfinite().all(1) for one in draws]).all(0)
    return {NETWORK: ~scene.p0.isfinite(), MAP: ~maps}


def average(draws: list[Scores]) -> Scores:
    """Return the mean of several draws' values; undefined where any draw is."""
    if len(draws) == 1:
        return draws[0]
    merged: Scores = {}
    for column in draws[0]:
        values = torch.stack([draw[column].value for draw in draws]).mean(0)
        merged[column] = Values(values, _any_undefined([draw[column] for draw in draws]))
    return merged


def _any_undefined(several: list[Values]) -> dict[str, Tensor]:
    reasons = sorted({reason for values in several for reason in values.undefined})
    return {
        reason: torch.stack([values.undefined[reason] for values in several if reason in values.undefined]).any(0)
        for reason in reasons
    }


def _fill_gains(task: Task, scores: dict[str, Scores]) -> None:
    """Fill the gain columns: the random control's value of the same image minus the row's own."""
    for gain, source in task.gains.items():
        baseline = scores["random"][source]
        for columns in scores.values():
            own = columns[source]
            columns[gain] = Values(baseline.value - own.value, _any_undefined([baseline, own]))


def to_block(values: Values, errors: Errors | None = None) -> Block:
    """Copy a column to the host: NaN and a reason where undefined, an error where it is broken or not finite."""
    array = values.value.detach().cpu().numpy().astype(np.float64)
    finite = np.isfinite(array) if array.ndim == 1 else np.isfinite(array).all(1)
    reasons: dict[tuple[str, str], NDArray[np.bool_]] = {
        ("error", text): where.cpu().numpy() for text, where in (errors or {}).items()
    }
    bad = np.zeros(len(array), bool)
    for mask in reasons.values():
        bad |= mask
    for reason, where in values.undefined.items():
        reasons["undefined", reason] = where.cpu().numpy() & ~bad
    for mask in reasons.values():
        bad |= mask
    reasons["error", VALUE] = ~finite & ~bad
    array = array.copy()
    array[bad | ~finite] = np.nan
    return Block(array, reasons)


def lost(reason: str) -> Block:
    """Return the block of one image that has an error and no value."""
    return Block(np.full(1, np.nan), {("error", reason): np.ones(1, bool)})


def joined(left: Block, right: Block) -> Block:
    """Join two blocks of neighbouring images; where only one is a curve, NaN fills the other up to its width."""
    width = max(left.values[0].size, right.values[0].size)
    parts = [np.broadcast_to(b.values.reshape(len(b.values), -1), (len(b.values), width)) for b in (left, right)]
    values = np.concatenate(parts)
    none = [np.zeros(len(b.values), bool) for b in (left, right)]
    keys = dict.fromkeys([*left.reasons, *right.reasons])
    reasons = {key: np.concatenate([left.reasons.get(key, none[0]), right.reasons.get(key, none[1])]) for key in keys}
    return Block(values[:, 0] if width == 1 else values, reasons)
