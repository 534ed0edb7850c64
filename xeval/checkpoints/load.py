"""Turn a weight file into a network: choose the file of a run and the architecture, and check that every tensor fits.

:mod:`xeval.checkpoints.weightfiles` opens the files. :mod:`xeval.checkpoints.convert` takes apart what other projects
wrote around their tensors.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor, nn

from xeval.checkpoints.card import RunCard, read_card
from xeval.checkpoints.folder import MANIFEST, Weights
from xeval.checkpoints.identity import network_sha256, tensors_sha256
from xeval.checkpoints.match import bare_names, canonical, fit, fitting
from xeval.checkpoints.own import own_configuration, own_notes
from xeval.checkpoints.shards import INDEX, weights_hash
from xeval.checkpoints.weightfiles import plain_tensors, read_tensors, read_weights, regular
from xeval.data import DatasetInfo
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.models import ModelSpec, build
from xeval.models.answers import outputs_of
from xeval.models.architectures import is_built_in
from xeval.models.configuration import Configuration
from xeval.models.reading import CLASSES, LOGITS, Meaning, Reading
from xeval.models.sources import apart, native, network, opens_or_runs, require_followed, require_named
from xeval.models.watch import two_examples
from xeval.runtime.files import atomic_write, file_hash

CARD_KEY = "xeval"
STATE_KEY = "state_dict"
SAVED = ("model.safetensors", f"model{INDEX}")  # as save_pretrained of transformers calls weights


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to be scored, and what is known about it; :func:`load_model` returns it.

    ``card`` is None for a bare state dict; ``spec`` and ``file_sha256`` are None for a module passed in memory.
    ``sha256`` hashes names, shapes and values of the tensors, so the same weights in another file format have the same
    hash, and of networks from elsewhere what they are made of; a scorer adds constants that are not the data set's own,
    and says in ``normalization`` which it uses unless the run itself has the data set's. ``notes`` says what was
    assumed or adapted. ``own`` is what the network's own configuration says of images, where the weights of a bare file
    are those that it describes. ``meaning`` is what its logits stand for, and ``reading`` how the answers of a module
    are read as logits.
    """

    model: nn.Module
    spec: ModelSpec | None
    card: RunCard | None
    weights: str
    sha256: str
    path: Path
    notes: tuple[str, ...] = ()
    file_sha256: str | None = None
    normalization: str = ""
    own: Configuration | None = None
    meaning: Meaning = CLASSES
    reading: Reading = LOGITS


def export(run: Path, target: Path, weights: Weights = "best") -> None:
    """Write a run as one file: the tensors, and the run's JSON as a string; ``weights_only=True`` can load it."""
    card = read_card(run)
    buffer = io.BytesIO()
    torch.save(
        {CARD_KEY: json.dumps(card.to_json()), STATE_KEY: run_tensors(run, card, weights), "weights": weights}, buffer
    )
    atomic_write(target, buffer.getvalue())


def load_model(
    path: Path,
    *,
    weights: Weights = "best",
    arch: str | None = None,
    describe: Callable[..., DatasetInfo] | None = None,
) -> LoadedModel:
    """Load a run directory, a weight file inside one, an exported ``.pt`` or a plain state dict.

    A plain state dict needs ``describe``, which is called for the data set (classes, normalisation, image size), with a
    side in pixels where the network's own configuration names one; and ``arch``, which is inferred where the shapes fit
    exactly one built-in architecture. A run whose network opens files or runs code needs ``arch`` too: a stored name is
    not followed that far. Raises :class:`CheckpointError`, :class:`DataError` or :class:`UsageError`.
    """
    if path.is_dir():
        return _from_run(path, weights, arch)
    regular(path)
    if (path.parent / MANIFEST).is_file() and path.suffix == ".safetensors":
        return _from_run(path.parent, _weights_name(path), arch)
    sha256, file = weights_hash(path), read_weights(path)
    content = file.content
    if isinstance(content.get(CARD_KEY), str):
        card = _card_in(path, content[CARD_KEY])
        tensors = plain_tensors(path, content.get(STATE_KEY))
        weights = content.get("weights", "best")
        loaded = _assemble(path, tensors, card, weights if weights in get_args(Weights) else "best", arch)
    else:
        loaded = _bare(path, plain_tensors(path, content.get(STATE_KEY, content)), arch, describe)
    return replace(loaded, notes=(*file.notes, *loaded.notes), file_sha256=sha256)


def card_of(path: Path) -> RunCard | None:
    """Return what a run, a weight file inside one or an exported file says of its training; None for other weights."""
    folder = path if path.is_dir() else path.parent
    of_a_run = path.is_dir() or (path.suffix == ".safetensors" and path.stem in get_args(Weights))
    if (folder / MANIFEST).is_file() and of_a_run:
        return read_card(folder)
    text = None if path.is_dir() else read_weights(path).content.get(CARD_KEY)
    return _card_in(path, text) if isinstance(text, str) else None


def require_unchanged(loaded: LoadedModel) -> None:
    """Raise :class:`DataError` if the weight file is no longer the one that was loaded."""
    if loaded.file_sha256 is None:
        return
    now = weights_hash(loaded.path) if loaded.path.is_file() else "no file"
    if now != loaded.file_sha256:
        raise DataError(
            f"{loaded.path} changed during run: SHA-256 {loaded.file_sha256} at the start, {now} at the end",
            "score it again",
        )


def _weights_name(path: Path) -> Weights:
    for name in get_args(Weights):
        if path.stem == name:
            return cast("Weights", name)
    raise UsageError(f"{path.name} is not one of the run's weight files", "use best.safetensors or last.safetensors")


def _card_in(path: Path, text: str) -> RunCard:
    """Return the card that a file carries as JSON; raise :class:`CheckpointError` where it is damaged or hostile."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} carries a damaged run description", "export the run again")
    try:
        return RunCard.from_json(content, str(path))
    except DataError as error:
        raise CheckpointError(error.problem, "export the run again") from None


def run_tensors(run: Path, card: RunCard, weights: Weights) -> dict[str, Tensor]:
    """Return the tensors of a run's weight file; raise CheckpointError where its size or hash is not the card's."""
    name = f"{weights}.safetensors"
    entry, path = card.files.get(name), run / name
    if entry is None or not path.exists():
        raise CheckpointError(f"{run} has no {name}", "train the run again or choose --weights")
    size = regular(path)
    if size < entry.bytes:
        raise CheckpointError(
            f"{path} is truncated: {size} bytes, expected {entry.bytes} bytes", "restore the run or train it again"
        )
    found = file_hash(path)
    if found != entry.sha256:
        raise CheckpointError(
            f"{path} has SHA-256 {found}, its manifest says {entry.sha256}", "restore the run or train it again"
        )
    return read_tensors(path)


def _from_run(run: Path, weights: Weights, arch: str | None) -> LoadedModel:
    if not (run / MANIFEST).is_file():
        saved = next((name for name in SAVED if (run / name).is_file()), None)
        raise CheckpointError(
            f"{run} is not a regular file, and as a directory it holds no complete run (no {MANIFEST})",
            f"give the weights in it: {run / saved}"
            if saved
            else "finish it: type the same `xeval train` command again",
        )
    card = read_card(run)
    name = f"{weights}.safetensors"
    loaded = _assemble(run / name, run_tensors(run, card, weights), card, weights, arch)
    return replace(loaded, file_sha256=card.files[name].sha256)


def _assemble(path: Path, tensors: dict[str, Tensor], card: RunCard, weights: str, arch: str | None) -> LoadedModel:
    spec = stored_spec(path, card, arch)
    model, tensors, notes = fit(path, spec, tensors)
    return LoadedModel(model, spec, card, weights, _sha256(model, spec, tensors), path, notes)


def _sha256(model: nn.Module, spec: ModelSpec, tensors: dict[str, Tensor]) -> str:
    """Return what tells a network from others: names of other libraries, and own code, share tensors and differ."""
    return tensors_sha256(tensors) if is_built_in(spec.arch) else network_sha256(model)


def answering(loaded: LoadedModel) -> LoadedModel:
    """Return a network from elsewhere with notes on its answers to two examples; others need not be asked.

    Raises:
        CheckpointError: they are no logits of each image by itself.
        DataError: they are for another number of classes.
    """
    spec = loaded.spec
    if spec is None or is_built_in(spec.arch) or loaded.reading != LOGITS:
        return loaded
    try:
        outputs, notes = outputs_of(loaded.model, two_examples(torch.zeros(1, *spec.shape)), LOGITS)
    except UsageError as error:
        remedy = f"let {spec.arch} give logits N×classes, the same for an image whatever else is in its batch"
        raise CheckpointError(f"{loaded.path}: {error.problem}", remedy) from error
    if outputs != spec.num_classes:
        raise DataError(
            f"{spec.arch} gives {outputs} outputs, and there are {spec.num_classes} classes",
            "let it take num_classes, or check --dataset",
        )
    return replace(loaded, notes=(*loaded.notes, *notes))


def stored_spec(path: Path, card: RunCard, arch: str | None) -> ModelSpec:
    """Return the specification of a run's network, under the user's word where the stored name is not followed.

    Raises :class:`CheckpointError` where that word is missing, and for a name of no network.
    """
    spec = card.model
    if arch is not None and opens_or_runs(spec.arch):
        require_named(arch)
        return spec.named(arch)
    try:
        require_followed(spec)
    except UsageError as error:
        raise CheckpointError(f"{path} names no network that can be built: {error.problem}", error.remedy) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.remedy) from None
    return spec


def _bare(
    path: Path, tensors: dict[str, Tensor], arch: str | None, describe: Callable[..., DatasetInfo] | None
) -> LoadedModel:
    if describe is None:
        raise UsageError(f"{path} carries no description of its data set", "name one with --dataset")
    if arch is not None and not is_built_in(arch):
        return _outside(path, tensors, arch, describe)
    dataset = describe()
    tensors, renamed = canonical(tensors)
    spec = spec_of(path, tensors, dataset, arch)
    require_head(path, tensors, dataset)
    model, tensors, casts = fit(path, spec, tensors)
    notes = (*renamed, *casts, f"class order taken from {dataset.name}")
    return LoadedModel(model, spec, None, "file", tensors_sha256(tensors), path, notes)


def _outside(path: Path, tensors: dict[str, Tensor], arch: str, describe: Callable[..., DatasetInfo]) -> LoadedModel:
    """Return the network of another library, which keeps its own names and comes with its head."""
    require_named(arch)
    tensors, renamed = bare_names(tensors)
    tensors = native(arch, tensors)
    own = own_configuration(path, tensors, arch)
    dataset = describe() if own is None else describe(own.size)
    spec = spec_of(path, tensors, dataset, arch)
    model, tensors, casts = fit(path, spec, tensors)
    told = (f"class order taken from {dataset.name}", *(own_notes(arch, own) if own else ()))
    notes = (*renamed, *casts, *told)
    return LoadedModel(model, spec, None, "file", _sha256(model, spec, tensors), path, notes, own=own)


def require_head(path: Path, tensors: dict[str, Tensor], dataset: DatasetInfo) -> None:
    """Raise CheckpointError without a linear head, DataError if its outputs are not as many as the classes."""
    head = tensors.get("head.weight")
    if head is None:
        raise CheckpointError(f"{path} has no linear head", f"run: xeval probe {path} --dataset {dataset.name}")
    if head.ndim == 2 and head.shape[0] != len(dataset.classes):
        raise DataError(
            f"the head has {head.shape[0]} outputs, {dataset.name} has {len(dataset.classes)} classes",
            "check --dataset",
        )


def load_encoder(
    path: Path, dataset: DatasetInfo, *, arch: str | None = None, normalize_features: bool = False, bank: int = 0
) -> tuple[nn.Module, ModelSpec]:
    """Load the encoder of a state dict or of a run directory, with a head that is still to be fitted.

    A head in the file is ignored. The errors are those of :func:`load_model`, and :class:`UsageError` for a network of
    another library that does not end in one linear layer.
    """
    tensors, outside = _tensors_of(path), _outside_spec(path, dataset, arch)
    if outside is not None:
        spec = outside.model_copy(update={"normalize_features": normalize_features, "bank": bank})
        return _with_fresh_head(path, _own_names(tensors, spec.arch), spec), spec
    return encoder_from(
        path, canonical(tensors)[0], dataset, arch=arch, normalize_features=normalize_features, bank=bank
    )


def _outside_spec(path: Path, dataset: DatasetInfo, arch: str | None) -> ModelSpec | None:
    """Return the network of another library that the user or the run names, for a data set; else None."""
    card = card_of(path)
    told = spec_of(path, {}, dataset, arch) if arch is not None else None
    stored = stored_spec(path, card, arch) if card is not None and told is None else None
    known = told or stored
    if known is None or is_built_in(known.arch):
        return None
    sizes = {"num_classes": len(dataset.classes), "in_channels": dataset.channels, "image_size": dataset.size}
    return known.model_copy(update=sizes)


def _own_names(tensors: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of a network of another library."""
    return native(arch, bare_names(tensors)[0])


def _with_fresh_head(path: Path, tensors: dict[str, Tensor], spec: ModelSpec) -> nn.Module:
    """Return a network whose encoder has these tensors."""
    with torch.random.fork_rng(devices=[]):
        parts = apart(network(spec), spec)
    name = f"{parts.head_name}."
    head = {f"{name}{key}": tensor for key, tensor in parts.head.state_dict().items()}
    return fit(path, spec, {**{key: one for key, one in tensors.items() if not key.startswith(name)}, **head})[0]


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, or the best ones of a run directory; those of a run as its card says."""
    if path.is_dir():
        return run_tensors(path, read_card(path), "best")
    if (path.parent / MANIFEST).is_file() and path.name in [f"{name}.safetensors" for name in get_args(Weights)]:
        return run_tensors(path.parent, read_card(path.parent), _weights_name(path))
    content = read_weights(path).content
    return plain_tensors(path, content.get(STATE_KEY, content))


def encoder_from(
    path: Path,
    tensors: dict[str, Tensor],
    dataset: DatasetInfo,
    *,
    arch: str | None = None,
    normalize_features: bool = False,
    bank: int = 0,
) -> tuple[nn.Module, ModelSpec]:
    """Return the tensors below ``backbone.`` as a built-in encoder with a fresh head; errors name ``path``."""
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    spec = spec_of(path, encoder, dataset, arch).model_copy(
        update={"normalize_features": normalize_features, "bank": bank}
    )
    with torch.random.fork_rng(devices=[]):
        head = {f"head.{name}": tensor for name, tensor in build(spec).head.state_dict().items()}
    return fit(path, spec, {**encoder, **head})[0], spec


def encoder_tensors(path: Path, spec: ModelSpec, head_name: str) -> dict[str, Tensor]:
    """Return the encoder of a run or weight file as tensors that fit a network; the errors are those of loading."""
    found = _tensors_of(path)
    tensors = canonical(found)[0] if is_built_in(spec.arch) else _own_names(found, spec.arch)
    fitted = _with_fresh_head(path, tensors, spec).state_dict()
    return {name: tensor for name, tensor in fitted.items() if not name.startswith(f"{head_name}.")}


def own_of(path: Path, arch: str | None) -> Configuration | None:
    """Return what the network's own configuration says of images, where the weights of a bare file are its own."""
    if arch is None or is_built_in(arch) or card_of(path) is not None:
        return None
    require_named(arch)
    return own_configuration(path, _own_names(_tensors_of(path), arch), arch)


def spec_of(path: Path, tensors: dict[str, Tensor], dataset: DatasetInfo, arch: str | None) -> ModelSpec:
    """Return the specification with which a bare state dict has to be built on a data set."""
    if arch is not None:
        require_named(arch)
    spec = ModelSpec(
        arch=arch or _inferred(path, tensors, dataset.channels),
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
        image_size=dataset.size,
    )
    return spec if arch is None else spec.named(arch)


def _inferred(path: Path, tensors: dict[str, Tensor], channels: int) -> str:
    """Return the one architecture that fits; raise CheckpointError where it is not one."""
    fits = fitting(tensors, channels)
    if len(fits) == 1:
        return fits[0]
    what = f"several architectures ({', '.join(fits)})" if fits else "no known architecture"
    raise CheckpointError(
        f"the tensors of {path} fit {what}",
        f"name it with --arch (see: xeval list models) or, for a file of another project, run: xeval import {path}",
    )
