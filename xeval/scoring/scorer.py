"""Computes a plan on a device: images become maps, once per explainer, and maps become blocks of values."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xeval.data import normalize
from xeval.engine import Engine, pick_device
from xeval.engine.batch_size import FIRST, LARGEST, probe_batch_size
from xeval.engine.folding import Network, compiled, forms_of, in_precision
from xeval.engine.timing import copies, fastest_that_fits
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
from xeval.runtime.precisions import Precision
from xeval.scoring.blocks import Chunk, chunks, largest_block
from xeval.scoring.cost import Meter
from xeval.scoring.maps import Maps
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import Plan, Task
from xeval.scoring.store import Block
from xeval.scoring.tuned import Tuned

VERSIONS = 64  # of one image in a batch, at most
SAMPLE = 64  # images whose probabilities show what a precision changes
NETWORK, MAP, VALUE = "network output not finite", "map not finite", "not finite"

Named: TypeAlias = list[tuple[str, list[Explained]]]
Blocks: TypeAlias = dict[Any, Block]
Errors: TypeAlias = Mapping[str, Tensor]


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


@dataclass(frozen=True)
class News:
    """What has failed, and the numbers of passes and overflowed images, since the last :meth:`Scorer.take_news`."""

    failures: list[Failure]
    passes: int
    overflows: int = 0


def _no_guard(_who: str) -> None:
    """Check nothing."""


@dataclass
class Scorer:
    """Computes a plan on a device; built by :func:`make_scorer`.

    ``forms`` are those of the network in float32 by name, ``exact`` the one in use, whose precision the engine's
    network may lack. ``batch_size`` is the one that was asked for or found, ``rate`` the images per second in such
    batches, once :meth:`tune` has measured it; ``overflows`` counts the images that were scored in float32 instead,
    ``failures`` collects what metrics raised, ``passes`` counts the images that went through the network, ``cam_size``
    is the grid of the maps.
    """

    plan: Plan
    device: torch.device
    engine: Engine
    forms: Mapping[str, Network]
    exact: Network
    maps: Maps
    meter: Meter
    batch_size: int
    rate: float = math.inf
    cam_size: tuple[int, int] = (0, 0)
    failures: list[Failure] = field(default_factory=list)
    passes: int = 0
    overflows: int = 0
    guard: Callable[[str], None] = _no_guard

    @property
    def precision(self) -> Precision:
        """The numbers of the passes that explain nothing."""
        return self.plan.protocol.precision

    def tune(self, options: ScoreOptions, images: float, known: Tuned | None = None) -> Tuned:
        """Find the fastest form of the network and the batch size, unless they are known; return what was found.

        Whatever can be refused has been by then. ``images`` is the number of images that there are to pass: measuring
        passes no more of them.
        """
        with resources():
            recalled = known is not None and known.form in self.forms and (options.batch_size or known.batch_size)
            found = known if known is not None and recalled else self._measured(options, images)
        self.adopt(found, options, images)
        return found

    def adopt(self, found: Tuned, options: ScoreOptions, images: float) -> None:
        """Compute as was found here or on another rank; compile the network on request, and measure the speed."""
        engine, example = self.engine, _example(self.plan, self.device)
        with resources():
            self.exact = self.forms[found.form]
            engine.network = replace(in_precision(self.exact, self.precision), rates=found.rates)
            engine.jitter = found.jitter
            engine.batch_size = self.batch_size = options.batch_size or found.batch_size or engine.batch_size
            if options.compile == "on":
                engine.network = compiled(engine.network, copies(example, self.batch_size))
            self.rate = engine.rate(example, images / 4)

    def _measured(self, options: ScoreOptions, images: float) -> Tuned:
        """Measure what the images to pass suffice for: a quarter of them for the form, half for the batch size."""
        engine, example = self.engine, _example(self.plan, self.device)
        self.exact = fastest_that_fits(list(self.forms.values()), example, images / 4, self.precision)
        engine.network = in_precision(self.exact, self.precision)
        size = None
        if options.batch_size is None:
            largest = min(LARGEST, most_at_once(self.plan))
            size = probe_batch_size(engine.turn, example, largest=largest, images=images / 2)
        network = engine.network
        return Tuned(form=network.name, batch_size=size, rates=dict(network.rates), jitter=self._jitter())

    def _jitter(self) -> float:
        """Return the 99th percentile of |Δp| of the predicted class between the precision and float32; 0 in float32."""
        if self.precision == "float32":
            return 0.0
        positions = [int(i) for i in self.plan.chosen[: min(SAMPLE, self.engine.batch_size)]]
        images = normalize(self.read(positions).to(self.device), self.plan.info)
        with torch.no_grad():
            p, q = (self.engine.linked(network(images)) for network in (self.exact, self.engine.network))
        change = (p - q).abs().gather(1, p.argmax(1, keepdim=True))
        return float(change[change.isfinite()].quantile(0.99)) if change.isfinite().any() else 0.0

    def read(self, positions: list[int]) -> Tensor:
        """Read images to the host as uint8; for a CUDA device in pinned memory, from which it can copy directly."""
        pixels = self.plan.split.read(positions)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def take_news(self) -> News:
        """Return what failed and the passes that were made since the last call, and start counting anew."""
        news = News(self.failures, self.passes + self.engine.take_passes(), self.overflows)
        self.failures, self.passes, self.overflows = [], 0, 0
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
        """Add the failures, passes and overflows of another process."""
        self.failures += news.failures
        self.passes += news.passes
        self.overflows += news.overflows

    def smaller_batch(self) -> tuple[int, int] | None:
        """Return the batch size before and now, once after memory did not suffice for it; else None."""
        before, self.batch_size = self.batch_size, self.engine.batch_size
        return (before, self.batch_size) if self.batch_size != before else None

    def score_chunk(self, chunk: Chunk, tasks: list[Task], pixels: Tensor | None = None) -> Blocks:
        """Return all values of one chunk: model columns under their name, others under (explainer, column).

        ``pixels`` are the chunk's images where they have been read before.
        """
        with resources():
            blocks = self._scored(chunk, tasks, pixels)
            if self.engine.take_overflow():
                self.overflows += len(chunk.positions)
                with self.in_float32():
                    blocks = self._scored(chunk, tasks, pixels)
        self.meter.count(len(chunk.positions))
        self.passes += self.engine.take_passes()
        return blocks

    def score_in_float32(self, chunk: Chunk) -> Blocks:
        """Return all values of one chunk as they are without a lower precision, apart from all that is counted."""
        jitter, failures, self.engine.jitter = self.engine.jitter, len(self.failures), 0.0
        with resources(), self.in_float32():
            blocks = self._scored(chunk, list(self.plan.tasks), None)
        del self.failures[failures:]
        self.engine.jitter = jitter
        self.passes += self.engine.take_passes()
        return blocks

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Make all passes in float32 for a while."""
        network, self.engine.network = self.engine.network, self.exact
        try:
            yield
        finally:
            self.engine.network = network

    def _scored(self, chunk: Chunk, tasks: list[Task], pixels: Tensor | None) -> Blocks:
        """Return the values of one chunk in the precision of the engine's network."""
        scene, blocks = self.scene(chunk.positions, pixels)
        rows = self._explained(scene, chunk.positions)
        self.cam_size = (rows[0][1][0].native.shape[-2], rows[0][1][0].native.shape[-1])
        for task in tasks:
            blocks.update(self._blocks(task, chunk.positions, scene, rows))
        return blocks

    def _explained(self, scene: Scene, positions: list[int]) -> Named:
        """Return the maps of every row, and measure the cost of each; that of maps made elsewhere is not known."""
        source, found = self.maps.of(scene, positions), []
        for name in self.plan.rows:
            measured = nullcontext() if name in self.plan.precomputed else self.meter.part(name)
            with measured, self._named(name):
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
            scored = self.plan.rows_of(task.metric)
            found = task_blocks(task, scene, [row for row in rows if row[0] in scored], self.meter)
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
            rows=[split.ids[i] for i in positions],
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
    """Put a plan on its device, and find the forms of the network that give the same logits.

    Raises :class:`UsageError` for a precision that the device does not have.
    """
    device, precision = pick_device(options.device), plan.protocol.precision
    if precision == "tf32" and device.type != "cuda":
        raise UsageError(f"{device.type} has no tf32", "use --precision bfloat16 or float32, or a CUDA device")
    model = plan.loaded.model.to(device)
    with frozen_eval(model), resources():
        forms = {form.name: form for form in forms_of(model, _example(plan, device))}
        exact = next(iter(forms.values()))
        network = in_precision(exact, precision)
    size = min(options.batch_size or FIRST, most_at_once(plan))
    single, link = plan.protocol.softmax == "float32", plan.loaded.meaning.link
    engine = Engine(model, network=network, batch_size=size, single=single, link=link)
    return Scorer(plan, device, engine, forms, exact, Maps(plan, engine), Meter(engine, device), size)


def _example(plan: Plan, device: torch.device) -> Tensor:
    """Return an image of the size that the plan has, 1×C×H×W."""
    return torch.zeros(1, *plan.info.shape, device=device)


def most_at_once(plan: Plan) -> int:
    """The largest batch that a block of images can fill: 64 versions of each, which is more than a device needs."""
    return VERSIONS * min(largest_block(plan), len(plan.chosen))


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
    known: dict[Any, tuple[Values, Errors]] = {"label": (Values(scene.labels.double()), {})}
    return to_blocks({**known, **{name: (Values(value.double()), broken) for name, value in columns.items()}})


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
    return to_blocks(
        {
            (name, column): (values, errors[name])
            for name, columns in scores.items()
            for column, values in columns.items()
        }
    )


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
    """Return where the network's output or a map is not finite, or the map is not one of this image and class.

    A score of such an image would be a number without a meaning, because ranks exist even for NaN maps.
    """
    maps = torch.stack([one.native.flatten(1).isfinite().all(1) for one in draws]).all(0)
    return {NETWORK: ~scene.p0.isfinite(), MAP: ~maps, **draws[0].unfit}


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


def to_blocks(columns: Mapping[Any, tuple[Values, Errors]]) -> Blocks:
    """Copy columns with their errors to the host, all at once.

    A value is NaN where it is undefined, with the reason, and where it is broken or not finite, with the error.
    """
    masks = {
        id(mask): mask for values, errors in columns.values() for mask in (*errors.values(), *values.undefined.values())
    }
    tensors = [values.value for values, _ in columns.values()]
    arrays = on_host([*tensors, *masks.values()])
    found = dict(zip(masks, (array > 0 for array in arrays[len(tensors) :]), strict=True))
    return {
        key: _block(array, values, errors, found)
        for (key, (values, errors)), array in zip(columns.items(), arrays, strict=False)
    }


def on_host(tensors: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """Return tensors as float64 arrays; those on a device come in one copy, so that the host waits for it only once."""
    there = [tensor.detach() for tensor in tensors if _is_elsewhere(tensor)]
    moved = iter(_moved(there) if there else [])
    return [next(moved) if _is_elsewhere(tensor) else tensor.detach().double().numpy() for tensor in tensors]


def _is_elsewhere(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _moved(tensors: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    widest = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    flat = torch.cat([tensor.reshape(-1).to(widest) for tensor in tensors]).cpu().double().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])[:-1]
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(flat, ends), tensors, strict=True)]


def _block(array: NDArray[np.float64], values: Values, errors: Errors, masks: Mapping[int, NDArray[np.bool_]]) -> Block:
    """Return one column; ``masks`` are those of its errors and undefined values on the host."""
    finite = np.isfinite(array) if array.ndim == 1 else np.isfinite(array).all(1)
    reasons: dict[tuple[str, str], NDArray[np.bool_]] = {
        ("error", text): masks[id(where)] for text, where in errors.items()
    }
    bad = np.zeros(len(array), bool)
    for mask in reasons.values():
        bad |= mask
    for reason, where in values.undefined.items():
        reasons["undefined", reason] = masks[id(where)] & ~bad
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
