"""Loads a checkpoint as a module, and explains its predictions with maps as a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, overload

import torch
from torch import Tensor, nn

from xeval.checkpoints.folder import Weights
from xeval.checkpoints.load import LoadedModel, load_model
from xeval.data import DatasetInfo, open_dataset
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import frozen_eval, last_conv_stage
from xeval.models.answers import as_logits
from xeval.models.layout import Grid, reshaped_by
from xeval.models.reading import Reading
from xeval.models.watch import bare, uncompiled
from xeval.scoring.similarity import require_slope, target_of


def load(
    path: Path | str, *, weights: Weights = "best", arch: str | None = None, dataset: str | None = None
) -> LoadedModel:
    """Load a run directory, an exported file or a plain state dict (which needs ``dataset``).

    Raises :class:`~xeval.errors.CheckpointError` for a refused or unfit file, :class:`~xeval.errors.UsageError` for a
    missing description.
    """
    if weights not in get_args(Weights):
        raise UsageError(f"unknown weights {weights!r}", "use best or last")

    def described(size: int | None = None) -> DatasetInfo:
        if dataset is None:
            raise UsageError(f"{path} carries no description of its data set", "name one with dataset=")
        return open_dataset(dataset, size=size).info

    return load_model(Path(path), weights=weights, arch=arch, describe=described)


@overload
def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    explainer: str = "grad-cam",
    layer: str | None = None,
    reshape: Grid | None = None,
    output: str = "logits",
    similar_to: Any = None,
) -> Tensor: ...


@overload
def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    explainers: Sequence[str],
    out: Path | str | None = None,
    layer: str | None = None,
    reshape: Grid | None = None,
    output: str = "logits",
    similar_to: Any = None,
) -> dict[str, Tensor]: ...


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    explainer: str = "grad-cam",
    explainers: Sequence[str] | None = None,
    out: Path | str | None = None,
    layer: str | None = None,
    reshape: Grid | None = None,
    output: str = "logits",
    similar_to: Any = None,
) -> Tensor | dict[str, Tensor]:
    """Return signed maps N×1×h×w, on the explainer's own grid, of normalised ``images`` N×C×H×W.

    With several ``explainers`` it returns the maps of each by its name, and draws them to the file ``out`` (.png, .svg,
    .pdf): a line an image, which is stretched to its own darkest and brightest value.

    ``targets`` (N,) are the explained classes, by default the predicted ones. ``layer`` is a module's name, by default
    the last one whose positions the score reads (:func:`~xeval.models.last_conv_stage`). How its output lies is found
    by evidence, or said by ``reshape``, a function that slices, transposes and reshapes it to N×K×h×w. The model is
    left as it was. ``output`` and ``similar_to`` say how its answers are read, as in :func:`xeval.score`.
    """
    model, reading = bare(model), Reading.of(output)
    if similar_to is not None:
        aim = target_of(similar_to, model, images, reading, lambda given: given.images.to(images))
        require_slope(aim.meaning, [explainer] if explainers is None else explainers)
        reading = aim.reading(reading.key)
        if targets is None and aim.meaning.fixed:
            targets = aim.labels(torch.zeros(len(images))).to(images.device)
    with uncompiled(model), as_logits(model, reading), frozen_eval(model), reshaped_by(reshape, layer):
        where = layer or last_conv_stage(model, images[:1])
        with torch.no_grad():
            logits = model(images)
        targets = logits.argmax(1) if targets is None else _classes(targets, logits)
        if explainers is None:
            return EXPLAINERS[explainer].explain(model, where, images, targets)
        found = {name: EXPLAINERS[name].explain(model, where, images, targets) for name in explainers}
    if out is not None:
        from xeval.reports.explain import draw

        draw(images, targets, found, Path(out))
    return found


def _classes(targets: Tensor, logits: Tensor) -> Tensor:
    """Return the explained classes (N,) on the device of ``logits`` N×classes; refuse what is no class an image."""
    (images, classes), shape = logits.shape, tuple(targets.shape)
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if shape != (images,) or not whole or not bool(((targets >= 0) & (targets < classes)).all()):
        raise UsageError(
            f"targets {shape} of {targets.dtype} are not a class of {classes} for each of {images} images",
            f"give whole numbers from 0 to {classes - 1}, one an image",
        )
    return targets.to(logits.device, torch.int64)
