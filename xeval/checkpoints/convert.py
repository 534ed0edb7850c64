"""Implement ``xeval import``, which turns a checkpoint of another project into a run or an encoder without a head.

Tensors are written bit for bit. What the file does not say is taken from the data set that the user names (class order,
published normalisation) or from the user, and this is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xeval.checkpoints.card import RunCard, Selection, read_card, write_card
from xeval.checkpoints.facts import Facts, facts, whole_number
from xeval.checkpoints.folder import MANIFEST, require_no_training
from xeval.checkpoints.identify import identify
from xeval.checkpoints.layouts import Recognised, classifier_of
from xeval.checkpoints.libraries import own_in
from xeval.checkpoints.load import encoder_from, require_head, run_tensors, spec_of
from xeval.checkpoints.match import fit
from xeval.checkpoints.normalization import KEY, NormalizeName, Wish, told
from xeval.checkpoints.own import open_as_known, own_notes, own_source, own_wish
from xeval.checkpoints.places import Choice
from xeval.checkpoints.sandbox import Foreign, open_foreign
from xeval.checkpoints.shards import weights_hash
from xeval.checkpoints.weightfiles import regular, weakness, write_tensors
from xeval.data import DatasetInfo
from xeval.data.base import Size
from xeval.errors import DataError, UsageError
from xeval.models import ModelSpec
from xeval.models.architectures import is_built_in
from xeval.models.sources import native, require_named
from xeval.runtime.files import digest, require_writable, writable_directory
from xeval.runtime.locks import locked
from xeval.runtime.progress import Progress
from xeval.runtime.provenance import provenance
from xeval.runtime.validation import require_seed

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
    size: Size | None = None,
    arch: str | None = None,
    method: str | None = None,
    classifier: Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    key: str | None = None,
    ema: bool = False,
    mean: str | Sequence[float] | None = None,
    std: str | Sequence[float] | None = None,
    normalize: NormalizeName | None = None,
) -> Path:
    """Write the checkpoint to ``out``; return the run directory, or the encoder's file where there is no head.

    ``classifier`` is a file with the linear head alone. ``key`` says which of several networks is meant, ``ema`` takes
    averaged weights. ``name``, ``method`` and ``seed`` stand in for what the file says about itself. ``mean`` and
    ``std``, or ``normalize``, are the constants that the network was trained with; without them those that the file
    names are taken, or the data set's published ones.

    Raises:
        UsageError: ``out`` already holds another run (the same one is left as it is); nothing says how images were
            normalised.
        CheckpointError: the file is refused, or has no known layout or fitting architecture.
        DataError: the normalisation or the number of classes differs from the data set's.
    """
    require_writable(out)
    if seed is not None:
        require_seed(seed)
    wish = Wish.of(mean=mean, std=std, normalize=normalize)
    foreign = open_foreign(path)
    if classifier is not None:
        head = classifier_of(classifier, open_foreign(classifier).containers)
        foreign = replace(foreign, containers={**foreign.containers, "classifier": head})
    if arch is not None and not is_built_in(arch):
        require_named(arch)
        foreign = replace(foreign, containers={key: native(arch, one) for key, one in foreign.containers.items()})
    own = own_in(path, foreign, arch, Choice(key, ema))
    opened = open_as_known(dataset, data, size, own)
    known = facts(foreign.fields, out=out.name, stem=path.stem, name=name, method=method, seed=seed)
    found, arch = identify(path, foreign, opened.info, arch, Choice(key, ema), progress)
    wish, source = _wish(wish, foreign, measured=opened.measured)
    if own is not None and source is None:
        wish, source = own_wish(own), own_source(arch)
    info = wish.for_plain_weights(opened.info, measured=opened.measured)
    _require_normalization(path, foreign, info)
    notes = (*_notes(foreign, found, info, source), *(own_notes(arch, own) if own else ()))
    if found.has_head:
        record = _record(_sources(path, classifier), foreign, found) | ({KEY: source} if source else {})
        return _write_run(path, out, info, foreign, found, record, arch, known, notes, progress)
    encoder_from(path, found.tensors, info, arch=arch)
    target = writable_directory(out) / ENCODER
    with locked(out):
        require_no_training(out)
        if (out / MANIFEST).exists():
            raise UsageError(f"{out} already holds a run", "choose another folder with --out")
        for note in notes:
            progress.say(note)
        write_tensors(target, found.tensors)
    progress.say(f"no linear head; run: xeval probe {target} --dataset {dataset}{wish.options}")
    return target


def _wish(wish: Wish, foreign: Foreign, *, measured: bool) -> tuple[Wish, str | None]:
    """Return the wish, or the constants that the file names where the data set has none to compare; and their source.

    The source is None where the data set's published constants are taken unasked.
    """
    named = _named(foreign)
    if wish.given or not measured or len(named) != 1:
        return wish, wish.source if wish.given else None
    mean, std = named[0]
    return Wish.of(mean=mean, std=std), "named by the file"


def _write_run(
    path: Path,
    out: Path,
    info: DatasetInfo,
    foreign: Foreign,
    found: Recognised,
    record: dict[str, Any],
    arch: str,
    known: Facts,
    notes: Sequence[str],
    progress: Progress,
) -> Path:
    if is_built_in(arch):
        require_head(path, found.tensors, info)
    spec = spec_of(path, found.tensors, info, arch)
    fit(path, spec, found.tensors)
    card = _card(known, info, foreign, found, record, spec)
    with locked(writable_directory(out)):
        require_no_training(out)
        if (out / MANIFEST).exists():
            _require_same(out, card)
            progress.say(f"{out} holds this checkpoint already: nothing to do")
            return out
        for note in notes:
            progress.say(note)
        write_tensors(out / WEIGHTS, found.tensors)
        write_card(out, card, [WEIGHTS])
    return out


def _card(
    known: Facts,
    info: DatasetInfo,
    foreign: Foreign,
    found: Recognised,
    record: dict[str, Any],
    spec: ModelSpec,
) -> RunCard:
    """Return what is known of the run; the recipe keeps the foreign options as text, and the selection is unknown."""
    shared = {key: text for key, text in foreign.fields.items() if key != "epoch" and not key.endswith(OF_ONE_RUN)}
    constants = {"mean": info.mean, "std": info.std} if KEY in record else {}
    return RunCard(
        name=known.name,
        method=known.method,
        seed=known.seed,
        recipe_name="import",
        recipe=record,
        recipe_hash=digest({"layout": found.layout, "fields": shared} | constants),
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


def _sources(path: Path, classifier: Path | None) -> dict[str, Any]:
    """Return what identifies the files of an import."""
    files = {"sha256": path, "classifier": classifier}
    return {"file": path.name, **{key: None if file is None else _hash(file) for key, file in files.items()}}


def _hash(path: Path) -> str:
    regular(path)
    return weights_hash(path)


def _require_same(out: Path, card: RunCard) -> None:
    """Raise UsageError where the run in ``out`` is not what this import would write, CheckpointError if damaged."""
    there = read_card(out)
    if _content(there) != _content(card):
        raise UsageError(
            f"{out} already holds a run, and not of these files and options", "choose another folder with --out"
        )
    run_tensors(out, there, "best")


def _content(card: RunCard) -> dict[str, Any]:
    return {key: value for key, value in card.to_json().items() if key not in ("files", "provenance")}


def _record(sources: dict[str, Any], foreign: Foreign, found: Recognised) -> dict[str, Any]:
    return {
        **sources,
        "layout": found.layout,
        "fields": foreign.fields,
        "dropped": [*foreign.dropped, *found.left],
        "ignored": list(foreign.ignored),
    }


def _notes(foreign: Foreign, found: Recognised, info: DatasetInfo, source: str | None) -> Iterator[str]:
    yield from weakness(torch.__version__)
    yield f"recognised: {found.layout}"
    yield from found.notes
    for name in (*foreign.dropped, *found.left):
        yield f"dropped {name}"
    for name in foreign.ignored:
        yield f"ignored object {name}"
    yield f"class order taken from {info.name}"
    yield told(info, source or f"published for {info.name}")


def _require_normalization(path: Path, foreign: Foreign, info: DatasetInfo) -> None:
    """Raise :class:`DataError` if the file names constants that differ from those that are to be used."""
    for mean, std in _named(foreign):
        if not _close(mean, info.mean) or not _close(std, info.std):
            raise DataError(
                f"{path} was trained with mean {mean} std {std}, {info.name} has mean {info.mean} std {info.std}",
                "name the data set that it was trained on, or give --mean and --std as the file names them",
            )


def _named(foreign: Foreign) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return every (mean, std) that a file names, in a transform or in its options."""
    return list(dict.fromkeys((*foreign.normalizations, *_written(foreign.fields))))


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
