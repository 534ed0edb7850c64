"""Plans a scoring run: which images, explainers and metrics it takes, and the columns and definitions it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from xeval.checkpoints.load import LoadedModel, answering, load_model
from xeval.checkpoints.own import open_as_known
from xeval.data import DatasetInfo, Split, open_dataset, stratified
from xeval.data.base import CHUNK, size_text
from xeval.data.damaged import without_damaged
from xeval.errors import DataError, UsageError
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.explainers.precomputed import Precomputed
from xeval.metrics import Column, Metric
from xeval.models import find_layer, last_conv_stage
from xeval.models.frozen import device_of
from xeval.models.layers import EXCON_LAYER, excon_layer
from xeval.perturb.masks import kept
from xeval.runtime.files import digest
from xeval.scoring.normalization import normalized
from xeval.scoring.options import ScoreOptions
from xeval.scoring.own_networks import read_as
from xeval.scoring.precomputed import convention, require_images
from xeval.scoring.protocols import Protocol, metric_list, resolve
from xeval.scoring.similarity import require_slope
from xeval.scoring.store import Cell, definition_of_model, definition_of_row

MODEL_COLUMNS = ("label", "predicted", "correct", "p0", "confidence")
EXPLAINED_ANEW = ("shuffled", "untrained")
"""The controls for which the reference explains other images, or another network."""


@dataclass(frozen=True)
class Task:
    """One metric that a plan computes, with its settings, its columns and the hash of its definition.

    ``gains`` are the columns that are filled in as random control − value, gain → source; none without that control.
    """

    metric: Metric
    settings: Any
    columns: tuple[Column, ...]
    definition: str
    gains: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns and curves."""
        return tuple(column.name for column in self.columns) + self.metric.curves


@dataclass(frozen=True)
class Label:
    """What tables call a checkpoint: its name, the method that it is a repetition of, and the seed of its training."""

    name: str
    method: str
    seed: int | None


@dataclass(frozen=True)
class Plan:
    """Everything about a scoring run that is known before the first pass; made by :func:`make_plan`.

    ``objects`` is the hash of the user's masks of the chosen images, None where they are not used or not the user's.
    ``precomputed`` are the maps of the rows that were made elsewhere.
    """

    loaded: LoadedModel
    info: DatasetInfo
    split: Split
    chosen: NDArray[np.int64]
    selection: str
    layer: str
    protocol: Protocol
    tasks: tuple[Task, ...]
    data_key: str
    label: Label
    objects: str | None = None
    precomputed: Mapping[str, Precomputed] = field(default_factory=dict)
    data_notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying of the checkpoint and the data before the work begins."""
        return (*self.loaded.notes, *self.data_notes)

    @property
    def rows(self) -> tuple[str, ...]:
        """The explainers, then the controls; the first explainer is the controls' reference."""
        return (*self.protocol.explainers, *self.protocol.controls)

    @property
    def code(self) -> dict[str, str]:
        """The hash of the code of every row whose explainer or control is from outside this package."""
        return {**EXPLAINERS.code(*self.protocol.explainers), **CONTROLS.code(*self.protocol.controls)}

    def rows_of(self, metric: Metric) -> tuple[str, ...]:
        """Return the rows that a metric scores: one that explains again leaves out maps made elsewhere, and inverse."""
        looked_up = {*self.precomputed}
        if self.protocol.explainers[0] in looked_up:
            looked_up.add("inverse")
        return tuple(row for row in self.rows if row not in looked_up or "explainer" not in metric.needs)

    @property
    def conventions(self) -> list[str]:
        """Return the sentences that are printed with a table."""
        lost = [task.metric.name for task in self.tasks if "explainer" in task.metric.needs]
        made = [convention(name, held, self.protocol.target, lost) for name, held in self.precomputed.items()]
        told = filter(None, [self.loaded.meaning.told, self.loaded.normalization])
        return [*self.protocol.conventions(), *made, *told]

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """The number of rows of each image, one after the other; None where each has one."""
        if not self.loaded.meaning.several:
            return None
        images = self.split.images
        return tuple(len(list(rows)) for _, rows in groupby(images[row] for row in self.chosen))

    def cells(self, task: Task) -> dict[tuple[str, str], Cell]:
        """Return the cells of one task, (explainer, column) → cell."""
        code = self.code
        return {
            (row, name): Cell(
                self.loaded.sha256,
                self.data_key,
                row,
                task.metric.name,
                name,
                definition_of_row(task.definition, code.get(row)),
            )
            for row in self.rows_of(task.metric)
            for name in task.names
        }

    def model_cells(self) -> dict[str, Cell]:
        """Return the cells of what is known of each image before any explanation."""
        definition = definition_of_model(self.protocol.target, self.protocol.precision)
        return {name: Cell(self.loaded.sha256, self.data_key, "", "model", name, definition) for name in MODEL_COLUMNS}


def make_plan(checkpoint: Path, options: ScoreOptions) -> Plan:
    """Load the checkpoint and the data, check that they fit each other, and lay out the work."""
    return plan_for(*_open(checkpoint, options), options)


def plan_for(loaded: LoadedModel, info: DatasetInfo, split: Split, options: ScoreOptions) -> Plan:
    """Lay out the work for a model and a split that have been loaded."""
    protocol = protocol_of(_with_targets(options) if loaded.meaning.fixed else options)
    _require_fit(loaded, info)
    loaded = answering(loaded)
    require_slope(loaded.meaning, protocol.explainers)
    protocol, unmet = _what_the_network_allows(protocol, loaded, info, asked=options.metrics is not None)
    _require_thresholds(protocol, info)
    split, damaged = without_damaged(split) if options.allow_partial else (split, {})
    protocol, left_out = _what_the_data_allow(protocol, split, asked=options.metrics is not None)
    protocol, not_again = _what_the_maps_allow(protocol, options)
    chosen, selection = _choose(split, options)
    precomputed = _precomputed(protocol, split, chosen)
    objects, unmarked = _objects(protocol, split, chosen)
    layer = options.layer or _default_layer(loaded.model, info, protocol)
    find_layer(loaded.model, layer)
    data_key = digest(
        {
            "manifest": split.manifest(rehash=options.rehash),
            "split": split.name,
            "images": [split.ids[i] for i in chosen],
        }
    )
    tasks = tuple(_task(protocol, metric, settings, layer, objects) for metric, settings in metric_list(protocol))
    return Plan(
        loaded,
        info,
        split,
        chosen,
        selection,
        layer,
        protocol,
        tasks,
        data_key,
        _label(loaded, options),
        objects=objects,
        precomputed=precomputed,
        data_notes=(*split.notes, *unmet, *left_out, *not_again, *unmarked),
        unreadable=tuple(damaged.values()),
    )


def _label(loaded: LoadedModel, options: ScoreOptions) -> Label:
    """Return what the options call the checkpoint, else what its card says, else the file's name."""
    card = loaded.card
    name = options.name or (card.name if card else loaded.path.stem)
    method = options.method or (card.method if card else name)
    return Label(
        name, method, options.training_seed if options.training_seed is not None or card is None else card.seed
    )


def protocol_of(options: ScoreOptions) -> Protocol:
    """Return the definitions that the options ask for; raise :class:`UsageError` for unknown names."""
    metrics = options.metrics
    if options.engine == "quantus":
        from xeval.quantus_bridge.bridge import FACETS

        if metrics is not None:
            raise UsageError("--engine quantus computes its own five metrics", "leave out --metrics")
        if options.precision not in (None, "float32"):
            raise UsageError("--engine quantus passes images through the model itself", "leave out --precision")
        metrics = FACETS
    explainers, controls = options.explainers, None
    if explainers is not None:
        controls = tuple(name for name in explainers if name in CONTROLS) or None
        explainers = tuple(name for name in explainers if name not in CONTROLS)
        if not explainers:
            raise UsageError("only control explainers were named", "add the explainer they control, e.g. grad-cam")
    return resolve(
        options.protocol,
        explainers=explainers,
        controls=controls,
        metrics=metrics,
        thresholds=options.thresholds,
        target=options.target,
        fill=options.fill,
        mask=options.mask,
        layer=options.layer,
        precision=options.precision,
        control_draws=options.control_draws,
        seed=options.seed,
    )


def _open(checkpoint: Path, options: ScoreOptions) -> tuple[LoadedModel, DatasetInfo, Split]:
    """Load a checkpoint and its data.

    A checkpoint that describes itself names its data set and image size; a bare one takes both from --dataset.
    """

    def described(size: int | None = None) -> DatasetInfo:
        if options.dataset is None:
            raise UsageError(f"{checkpoint} carries no description of its data set", "name one with --dataset")
        return open_dataset(options.dataset, options.data, options.size or size).info

    loaded = load_model(checkpoint, weights=options.weights, arch=options.arch, describe=described)
    known = loaded.card.dataset if loaded.card else None
    name = options.dataset or (known.name if known else described().name)
    dataset = open_as_known(name, options.data, options.size, known or loaded.own)
    loaded, info = normalized(loaded, dataset.info, options, measured=dataset.measured)
    return read_as(loaded, info, options.output), info, dataset.split(options.split)


def _require_fit(loaded: LoadedModel, info: DatasetInfo) -> None:
    """Raise DataError for a checkpoint and a data set whose numbers would look normal and have no meaning."""
    if loaded.spec is None:
        return
    trained = loaded.card.dataset if loaded.card else info
    if loaded.spec.num_classes != len(info.classes):
        raise DataError(
            f"the head has {loaded.spec.num_classes} outputs, {info.name} has {len(info.classes)} classes"
            f"{_class_difference(trained.classes, info.classes)}",
            "check --dataset",
        )
    if loaded.spec.in_channels != info.channels:
        raise DataError(
            f"the network takes {loaded.spec.in_channels} channels, {info.name} has {info.channels}", "check --dataset"
        )
    if trained.classes != info.classes:
        raise DataError(
            f"{info.name} has other classes, or another order, than the training data"
            f"{_class_difference(trained.classes, info.classes)}",
            "check --data",
        )
    files = (trained.native or info.native, info.native or trained.native)  # equal where one of them is unknown
    for expected, found in ((loaded.spec.image_size, info.size), files):
        if expected is not None and found is not None and expected != found:
            raise DataError(
                f"trained on images of {size_text(expected)} pixels, {info.name} has {size_text(found)}",
                "give images of the size of the training images",
            )
    if (trained.mean, trained.std) != (info.mean, info.std):
        raise DataError(
            f"trained with mean {trained.mean} std {trained.std}, {info.name} has {info.mean} {info.std}",
            "check --data, or keep the constants of training with --normalize-from-ckpt",
        )


def _class_difference(trained: tuple[str, ...], found: tuple[str, ...]) -> str:
    """List classes that the data set lacks and classes that training did not have, at most five names of each."""
    lists = {
        "missing": [name for name in trained if name not in found],
        "not in training": [name for name in found if name not in trained],
    }
    shown = [f"{kind}: {', '.join(name[:40] for name in names[:5])}" for kind, names in lists.items() if names]
    return f" ({'; '.join(shown)})" if shown else ""


def _require_thresholds(protocol: Protocol, info: DatasetInfo) -> None:
    """Raise UsageError for a threshold above 0 that keeps no pixel, which only shows once the image size is known."""
    drop, (_, height, width) = protocol.metric_settings("drop"), info.shape
    for q in drop.thresholds if "drop" in protocol.metrics and drop.mask == "topk" else ():
        if q > 0 and kept(q, height * width) == 0:
            raise UsageError(f"the threshold {q:g} keeps no pixel of {size_text(info.size)}", "give a larger fraction")


def _with_targets(options: ScoreOptions) -> ScoreOptions:
    """Return the options for rows that have their own targets, such as each label of an image."""
    if options.target == "pred":
        raise UsageError("each row has a target of its own here, which no prediction chooses", "leave out --target")
    return options.model_copy(update={"target": "label"})


def _what_the_network_allows(
    protocol: Protocol, loaded: LoadedModel, info: DatasetInfo, *, asked: bool
) -> tuple[Protocol, list[str]]:
    """Leave out metrics that need what the network does not give, with notes; raise UsageError if one was asked for."""
    lacks = {**({"other class": "there is no other class"} if len(info.classes) < 2 else {}), **loaded.meaning.lacks}
    needs = {metric.name: metric.needs & lacks.keys() for metric, _ in metric_list(protocol)}
    unmet = {name: lacks[min(missing)] for name, missing in needs.items() if missing}
    if unmet and (asked or unmet.keys() == set(protocol.metrics)):
        name, why = next(iter(unmet.items()))
        raise UsageError(f"{name} has no meaning here: {why}", "leave it out")
    names = tuple(name for name in protocol.metrics if name not in unmet)
    by_reason = {why: [name for name in unmet if unmet[name] == why] for why in dict.fromkeys(unmet.values())}
    notes = [f"left out, as {why}: {', '.join(left)}" for why, left in by_reason.items()]
    return protocol.model_copy(update={"metrics": names}), notes


def _of_masks(protocol: Protocol) -> list[str]:
    """Return the metrics that need object masks."""
    return [metric.name for metric, _ in metric_list(protocol) if "masks" in metric.needs]


def _what_the_data_allow(protocol: Protocol, split: Split, *, asked: bool) -> tuple[Protocol, list[str]]:
    """Leave out metrics whose object masks the data lack, with a note; raise UsageError where they were asked for."""
    lacking = _of_masks(protocol)
    if not lacking or split.masks([0]) is not None or split.boxes([0]) is not None:
        return protocol, []
    if asked:
        raise UsageError(f"{lacking[0]} needs object masks or boxes, {split.info.name} has none", "leave it out")
    kept_names = tuple(name for name in protocol.metrics if name not in lacking)
    note = f"left out, as the images have no object masks or boxes: {', '.join(lacking)}"
    return protocol.model_copy(update={"metrics": kept_names}), [note]


def _what_the_maps_allow(protocol: Protocol, options: ScoreOptions) -> tuple[Protocol, list[str]]:
    """Leave out what needs an explainer where there are maps alone, with a note; UsageError where it was asked for.

    Metrics go where every row was made elsewhere, controls where the first was, as it is their reference.
    """
    made = [name for name in protocol.explainers if EXPLAINERS[name].maps is not None]
    controls = [name for name in EXPLAINED_ANEW if name in protocol.controls and protocol.explainers[0] in made]
    metrics = [metric.name for metric, _ in metric_list(protocol) if "explainer" in metric.needs]
    if len(made) < len(protocol.explainers):
        metrics = []
    asked = [*(controls if {*controls} & {*(options.explainers or ())} else ()), *(metrics if options.metrics else ())]
    lost = {*controls, *metrics}
    if asked or len(metrics) == len(protocol.metrics):
        raise UsageError(
            f"{(asked or metrics)[0]} explains again, and {made[0]} has maps of the images alone",
            "leave it out, or name an explainer before the maps, with --explainers",
        )
    if not lost:
        return protocol, []
    fewer = {
        "controls": tuple(name for name in protocol.controls if name not in lost),
        "metrics": tuple(name for name in protocol.metrics if name not in lost),
    }
    note = f"left out, as {made[0]} cannot explain again: {', '.join([*metrics, *controls])}"
    return protocol.model_copy(update=fewer), [note]


def _precomputed(protocol: Protocol, split: Split, chosen: NDArray[np.int64]) -> dict[str, Precomputed]:
    """Return the maps that were made elsewhere, with a map for each chosen image."""
    ids = [split.ids[i] for i in chosen]
    held = {name: EXPLAINERS[name].maps for name in protocol.explainers}
    return {name: require_images(name, maps, split.ids, ids) for name, maps in held.items() if maps is not None}


def _objects(protocol: Protocol, split: Split, chosen: NDArray[np.int64]) -> tuple[str | None, list[str]]:
    """Read the user's masks of the chosen images, so that a mistake in one shows now.

    Returns their hash, and a note on images without; None where no metric takes masks or the masks are official.
    """
    if not split.own_objects or not _of_masks(protocol):
        return None, []
    content, without = hashlib.sha256(), 0
    for start in range(0, len(chosen), CHUNK):
        masks = split.masks(chosen[start : start + CHUNK])
        if masks is None:
            return None, []
        content.update(np.packbits(masks.numpy()).tobytes())
        without += int((~masks.flatten(1).any(1)).sum())
    if not without:
        return content.hexdigest(), []
    metrics = ", ".join(_of_masks(protocol))
    note = f"{without:,} of {len(chosen):,} images have no object mask or box, and no value of {metrics}"
    return content.hexdigest(), [note]


def _default_layer(model: nn.Module, info: DatasetInfo, protocol: Protocol) -> str:
    """Return the last convolutional stage, or the empty name (the whole model) where there is none.

    Explainers that use no layer ignore the name.
    """
    if protocol.layer_rule == EXCON_LAYER:
        return excon_layer(model, info.size)
    example = torch.zeros(1, *info.shape, device=device_of(model))
    try:
        return last_conv_stage(model, example)
    except UsageError:
        return ""


def _choose(split: Split, options: ScoreOptions) -> tuple[NDArray[np.int64], str]:
    if options.limit is None or options.limit >= len(split):
        return np.arange(len(split), dtype=np.int64), "all"
    return stratified(split.labels, options.limit, options.seed), f"stratified sample, seed {options.seed}"


def _task(protocol: Protocol, metric: Metric, settings: Any, layer: str, objects: str | None = None) -> Task:
    gains = dict(metric.gain_of) if "random" in protocol.controls else {}
    columns = tuple(c for c in metric.columns(settings) if c.name in gains or c.name not in metric.gain_of)
    definition = {
        "metric": protocol.metric_definition(metric.name),
        "layer": layer,
        "reference": protocol.explainers[0],
        **protocol.code(protocol.explainers[0]),
        **{key: value for key, value in protocol.general().items() if key not in ("layer", "layer_rule")},
        **({"objects": objects} if objects and "masks" in metric.needs else {}),
    }
    return Task(metric, settings, columns, digest(definition), gains)
