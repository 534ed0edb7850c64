"""Turn a weight file into a network: choose the file of a run and the architecture, and check that every tensor fits.

:mod:`xeval.checkpoints.weightfiles` opens the files. :mod:`xeval.checkpoints.convert` takes apart what other projects
wrote around their tensors.
"""

from __future__ import annotations

import hashlib
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
from xeval.checkpoints.match import canonical, fit, fitting
from xeval.checkpoints.weightfiles import plain_tensors, read_tensors, read_weights, regular
from xeval.data import DatasetInfo
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.models import Classifier, ModelSpec, build
from xeval.models.architectures import is_built_in
from xeval.models.sources import require_known
from xeval.runtime.files import atomic_write, file_hash

CARD_KEY = "xeval"
STATE_KEY = "state_dict"


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to be scored, and what is known about it; :func:`load_model` returns it.

    ``card`` is None for a bare state dict; ``spec`` and ``file_sha256`` are None for a module passed in memory.
    ``sha256`` hashes names, shapes and values of the tensors, so the same weights in another file format have the same
    hash; a scorer adds constants that are not the data set's own, and says in ``normalization`` which it uses unless
    the run itself has the data set's. ``notes`` says what was assumed or adapted.
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


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Return the hash of names, types, shapes and values, independent of the file format and of the order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


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
    describe: Callable[[], DatasetInfo] | None = None,
) -> LoadedModel:
    """Load a run directory, a weight file inside one, an exported ``.pt`` or a plain state dict.

    A plain state dict needs ``describe``, which is called for the data set (classes, normalisation, image size), and
    ``arch``, which is inferred where the shapes fit exactly one known architecture. Raises :class:`CheckpointError`,
    :class:`DataError` or :class:`UsageError`.
    """
    if path.is_dir():
        return _from_run(path, weights)
    regular(path)
    if (path.parent / MANIFEST).is_file() and path.suffix == ".safetensors":
        return _from_run(path.parent, _weights_name(path))
    sha256, file = file_hash(path), read_weights(path)
    content = file.content
    if isinstance(content.get(CARD_KEY), str):
        card = _card_in(path, content[CARD_KEY])
        tensors = plain_tensors(path, content.get(STATE_KEY))
        weights = content.get("weights", "best")
        loaded = _assemble(path, tensors, card, weights if weights in get_args(Weights) else "best")
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
    now = file_hash(loaded.path) if loaded.path.is_file() else "no file"
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


def _from_run(run: Path, weights: Weights) -> LoadedModel:
    if not (run / MANIFEST).is_file():
        raise CheckpointError(
            f"{run} is not a regular file, and as a directory it holds no complete run (no {MANIFEST})",
            "finish it: type the same `xeval train` command again",
        )
    card = read_card(run)
    name = f"{weights}.safetensors"
    loaded = _assemble(run / name, run_tensors(run, card, weights), card, weights)
    return replace(loaded, file_sha256=card.files[name].sha256)


def _assemble(path: Path, tensors: dict[str, Tensor], card: RunCard, weights: str) -> LoadedModel:
    try:
        require_known(card.model.arch)
    except UsageError as error:
        raise CheckpointError(f"{path} names an {error.problem}", error.remedy) from None
    model, tensors, notes = fit(path, card.model, tensors)
    return LoadedModel(model, card.model, card, weights, tensors_sha256(tensors), path, notes)


def _bare(
    path: Path, tensors: dict[str, Tensor], arch: str | None, describe: Callable[[], DatasetInfo] | None
) -> LoadedModel:
    if describe is None:
        raise UsageError(f"{path} carries no description of its data set", "name one with --dataset")
    if arch is not None and not is_built_in(arch) and ":" in arch:
        raise UsageError(f"{arch} is a network of another library", f"first: xeval import {path} --arch {arch}")
    dataset = describe()
    tensors, renamed = canonical(tensors)
    spec = spec_of(path, tensors, dataset, arch)
    require_head(path, tensors, dataset)
    model, tensors, casts = fit(path, spec, tensors)
    notes = (*renamed, *casts, f"class order taken from {dataset.name}")
    return LoadedModel(model, spec, None, "file", tensors_sha256(tensors), path, notes)


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
) -> tuple[Classifier, ModelSpec]:
    """Load the encoder of a state dict or of a run directory, with a head that is still to be fitted.

    A head in the file is ignored. The errors are those of :func:`load_model`.
    """
    tensors, _ = canonical(_tensors_of(path))
    return encoder_from(path, tensors, dataset, arch=arch, normalize_features=normalize_features, bank=bank)


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
) -> tuple[Classifier, ModelSpec]:
    """Return the tensors below ``backbone.`` as an encoder with a fresh head; errors name ``path``."""
    if arch is not None and not is_built_in(arch):
        require_known(arch)
        raise UsageError(f"no head can be fitted on {arch}", "choose a network of `xeval list models`")
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    spec = spec_of(path, encoder, dataset, arch).model_copy(
        update={"normalize_features": normalize_features, "bank": bank}
    )
    with torch.random.fork_rng(devices=[]):
        head = {f"head.{name}": tensor for name, tensor in build(spec).head.state_dict().items()}
    return cast("Classifier", fit(path, spec, {**encoder, **head})[0]), spec


def spec_of(path: Path, tensors: dict[str, Tensor], dataset: DatasetInfo, arch: str | None) -> ModelSpec:
    """Return the specification with which a bare state dict has to be built on a data set."""
    if arch is not None:
        require_known(arch)
    return ModelSpec(
        arch=arch or _inferred(path, tensors, dataset.channels),
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
        image_size=dataset.size,
    )


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
