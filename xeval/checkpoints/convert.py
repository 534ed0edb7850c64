"""Implement ``xeval import``, which turns a checkpoint of another project into a run or an encoder without a head.

Tensors are written bit for bit. What the file does not say (class order, often the normalisation) is taken from the
data set that the user names, and this is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xeval.checkpoints.card import RunCard, Selection, write_card
from xeval.checkpoints.facts import Facts, facts, whole_number
from xeval.checkpoints.folder import MANIFEST
from xeval.checkpoints.identify import identify
from xeval.checkpoints.layouts import Recognised, classifier_of
from xeval.checkpoints.load import encoder_from, require_head, spec_of
from xeval.checkpoints.match import fit
from xeval.checkpoints.places import Choice
from xeval.checkpoints.sandbox import Foreign, open_foreign
from xeval.checkpoints.weightfiles import weakness, write_tensors
from xeval.data import DatasetInfo, open_dataset
from xeval.errors import DataError, UsageError
from xeval.models import ModelSpec
from xeval.models.architectures import is_built_in
from xeval.runtime.files import digest, file_hash, writable_directory
from xeval.runtime.progress import Progress
from xeval.runtime.provenance import provenance

CLOSE = 1e-3  # tolerance, because means and deviations are published with three or four digits
OF_ONE_RUN = ("seed", "trial", "folder", "path", "name", "rank")  # options that differ between seeds of one recipe
WEIGHTS, ENCODER = "best.safetensors", "encoder.safetensors"


def import_checkpoint(
    path: Path,
    out: Path,
    dataset: str,
    progress: Progress,
    *,
    data: Path | None = None,
    arch: str | None = None,
    method: str | None = None,
    classifier: Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    key: str | None = None,
    ema: bool = False,
) -> Path:
    """Write the checkpoint to ``out``; return the run directory, or the encoder's file where there is no head.

    ``classifier`` is a file with the linear head alone. ``key`` says which of several networks is meant, ``ema`` takes
    averaged weights. ``name``, ``method`` and ``seed`` stand in for what the file says about itself.

    Raises:
        UsageError: ``out`` already holds a run.
        CheckpointError: the file is refused, or has no known layout or fitting architecture.
        DataError: the normalisation or the number of classes differs from the data set's.
    """
    if (out / MANIFEST).exists():
        raise UsageError(f"{out} already holds a run", "choose another folder with --out")
    info = open_dataset(dataset, data).info
    foreign = open_foreign(path)
    if classifier is not None:
        head = classifier_of(classifier, open_foreign(classifier).containers)
        foreign = replace(foreign, containers={**foreign.containers, "classifier": head})
    known = facts(foreign.fields, out=out.name, stem=path.stem, name=name, method=method, seed=seed)
    found, arch = identify(path, foreign, info, arch, Choice(key, ema), progress)
    _require_normalization(path, foreign, info)
    for note in _notes(foreign, found, info):
        progress.say(note)
    if found.has_head:
        return _write_run(path, writable_directory(out), info, foreign, found, arch, known)
    encoder_from(path, found.tensors, info, arch=arch)
    target = writable_directory(out) / ENCODER
    write_tensors(target, found.tensors)
    progress.say(f"no linear head; run: xeval probe {target} --dataset {dataset}")
    return target


def _write_run(
    path: Path,
    out: Path,
    info: DatasetInfo,
    foreign: Foreign,
    found: Recognised,
    arch: str,
    known: Facts,
) -> Path:
    if is_built_in(arch):
        require_head(path, found.tensors, info)
    spec = spec_of(path, found.tensors, info, arch)
    fit(path, spec, found.tensors)
    write_tensors(out / WEIGHTS, found.tensors)
    write_card(out, _card(path, known, info, foreign, found, spec), [WEIGHTS])
    return out


def _card(
    path: Path,
    known: Facts,
    info: DatasetInfo,
    foreign: Foreign,
    found: Recognised,
    spec: ModelSpec,
) -> RunCard:
    """Return what is known of the run; the recipe keeps the foreign options as text, and the selection is unknown."""
    shared = {key: text for key, text in foreign.fields.items() if key != "epoch" and not key.endswith(OF_ONE_RUN)}
    return RunCard(
        name=known.name,
        method=known.method,
        seed=known.seed,
        recipe_name="import",
        recipe=_record(path, foreign, found),
        recipe_hash=digest({"layout": found.layout, "fields": shared}),
        dataset=info,
        train_manifest="unknown",
        model=spec,
        selection=Selection(
            select_on="unknown",
            best_epoch=whole_number(foreign.fields, "epoch") or 0,
            best_accuracy=None,
            last_accuracy=None,
        ),
        provenance=provenance(),
    )


def _record(path: Path, foreign: Foreign, found: Recognised) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": file_hash(path),
        "layout": found.layout,
        "fields": foreign.fields,
        "dropped": [*foreign.dropped, *found.left],
        "ignored": list(foreign.ignored),
    }


def _notes(foreign: Foreign, found: Recognised, info: DatasetInfo) -> Iterator[str]:
    yield from weakness(torch.__version__)
    yield f"recognised: {found.layout}"
    yield from found.notes
    for name in (*foreign.dropped, *found.left):
        yield f"dropped {name}"
    for name in foreign.ignored:
        yield f"ignored object {name}"
    yield f"class order and normalisation taken from {info.name}: mean {info.mean}, std {info.std}"


def _require_normalization(path: Path, foreign: Foreign, info: DatasetInfo) -> None:
    """Raise :class:`DataError` if the file names constants that differ from the data set's."""
    for mean, std in (*foreign.normalizations, *_written(foreign.fields)):
        if not _close(mean, info.mean) or not _close(std, info.std):
            raise DataError(
                f"{path} was trained with mean {mean} std {std}, {info.name} has mean {info.mean} std {info.std}",
                "name the data set that it was trained on",
            )


def _written(fields: dict[str, str]) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Yield each (mean, std) that the options give as text, such as ``(0.4914, 0.4822, 0.4465)``."""
    for key, text in fields.items():
        if key.split(".")[-1] == "mean":
            mean, std = _floats(text), _floats(fields.get(f"{key.removesuffix('mean')}std", ""))
            if mean and std:
                yield mean, std


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"-?\d*\.?\d+(?:[eE][-+]?\d+)?", text))


def _close(found: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= CLOSE for a, b in zip(found, wanted, strict=True))
