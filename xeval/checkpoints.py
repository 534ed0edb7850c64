"""The only place that opens a weight file.

Two formats: safetensors, and PyTorch's zip format read with ``weights_only=True``. There is no fallback and no unsafe
switch: a file that asks for anything but tensors and plain containers is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle  # noqa: TID251 - for the name of the exception only
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from xeval.data import DatasetInfo
from xeval.errors import CheckpointError, DataError, UsageError, unknown
from xeval.models import MODELS, Classifier, ModelSpec, build
from xeval.options import Weights
from xeval.runs import MANIFEST, RunCard, atomic_write, file_sha256, read_card

CARD_KEY = "xeval"
STATE_KEY = "state_dict"
MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to be scored, and what is known about it.

    ``card`` is None for a bare state dict, ``spec`` for a module that was handed over in memory. ``sha256`` hashes
    names, shapes and values of the tensors: the same weights in another file format have the same hash. ``notes`` says
    what was assumed or adapted.
    """

    model: nn.Module
    spec: ModelSpec | None
    card: RunCard | None
    weights: str
    sha256: str
    path: Path
    notes: tuple[str, ...] = ()


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    atomic_write(path, save_safetensors({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises :class:`CheckpointError` for anything else."""
    _regular(path)
    try:
        return dict(load_safetensors(path.read_bytes()))
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error})", "restore it from its source") from None


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, independent of the file format and of the order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def export(run: Path, target: Path, weights: Weights = "best") -> None:
    """Write one run as one file: the tensors and the run's JSON as a string; loadable with ``weights_only=True``."""
    card = read_card(run)
    buffer = io.BytesIO()
    torch.save(
        {CARD_KEY: json.dumps(card.to_json()), STATE_KEY: _run_tensors(run, card, weights), "weights": weights}, buffer
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

    A plain state dict needs ``describe``, which is asked for the data set (classes, normalisation, image size), and
    ``arch``, which is inferred where the shapes fit exactly one known architecture. Raises :class:`CheckpointError`,
    :class:`DataError` or :class:`UsageError`.
    """
    if path.is_dir():
        card = read_card(path)
        return _assemble(path / f"{weights}.safetensors", _run_tensors(path, card, weights), card, weights)
    _regular(path)
    if (path.parent / MANIFEST).is_file() and path.suffix == ".safetensors":
        return load_model(path.parent, weights=_weights_name(path))
    content: dict[str, Any] = dict(read_tensors(path)) if path.suffix == ".safetensors" else _read_zip(path)
    if isinstance(content.get(CARD_KEY), str):
        card = RunCard.from_json(_json_of(path, content[CARD_KEY]), str(path))
        return _assemble(path, _tensors_of(path, content.get(STATE_KEY)), card, str(content.get("weights", "best")))
    return _bare(path, _tensors_of(path, content.get(STATE_KEY, content)), arch, describe)


def _weights_name(path: Path) -> Weights:
    for name in get_args(Weights):
        if path.stem == name:
            return cast("Weights", name)
    raise UsageError(f"{path.name} is not one of the run's weight files", "use best.safetensors or last.safetensors")


def _regular(path: Path) -> None:
    """Refuse what is not a regular file of sensible size before anything is read from it."""
    try:
        info = path.stat()
    except OSError as error:
        raise UsageError(f"cannot open {path} ({error.strerror})", "check the path") from None
    if not stat.S_ISREG(info.st_mode) or info.st_size == 0:
        raise CheckpointError(f"{path} is not a regular file with content", "give a run directory or a weight file")
    if info.st_size > MAX_BYTES:
        raise CheckpointError(
            f"{path} has {info.st_size >> 30} GiB", f"xeval opens weight files up to {MAX_BYTES >> 30} GiB"
        )


def _read_zip(path: Path) -> dict[str, Any]:
    """A dictionary from PyTorch's format through the restricted unpickler; a refusal lists the refused names."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - the only call
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is refused: {_refused(path)}", "only tensors and plain containers are loaded"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a complete PyTorch file ({reason})", "restore it from its source"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict", "save model.state_dict()")
    return content


def _refused(path: Path) -> str:
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # the file is hostile or damaged: whatever the lister does with it, the refusal stands
        names = []
    return f"refused globals: {', '.join(names[:8])}" if names else "it is not a weights-only file"


def _json_of(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} carries a damaged run description", "export the run again")
    return content


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} is not a plain state dict of tensors", "save model.state_dict()")
    return {str(name): tensor for name, tensor in content.items()}


def _run_tensors(run: Path, card: RunCard, weights: Weights) -> dict[str, Tensor]:
    """Tensors of a run's weight file after its hash has been compared with the manifest."""
    name = f"{weights}.safetensors"
    entry, path = card.files.get(name), run / name
    if entry is None or not path.is_file():
        raise CheckpointError(f"{run} has no {name}", "train the run again or choose --weights")
    found = file_sha256(path)
    if found != entry.sha256:
        raise CheckpointError(
            f"{path} has SHA-256 {found[:12]}…, its manifest says {entry.sha256[:12]}…",
            "restore the run or train it again",
        )
    return read_tensors(path)


def _assemble(path: Path, tensors: dict[str, Tensor], card: RunCard, weights: str) -> LoadedModel:
    model = _fit(path, card.model, tensors)
    return LoadedModel(model, card.model, card, weights, tensors_sha256(tensors), path)


def _bare(
    path: Path, tensors: dict[str, Tensor], arch: str | None, describe: Callable[[], DatasetInfo] | None
) -> LoadedModel:
    if describe is None:
        raise UsageError(f"{path} carries no description of its data set", "name one with --dataset")
    dataset = describe()
    if arch is not None and arch not in MODELS:
        raise unknown("model", arch, MODELS)
    tensors, notes = canonical(tensors)
    spec = ModelSpec(
        arch=arch or _infer(path, tensors, dataset),
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
        image_size=dataset.size,
    )
    notes.append(f"class order and normalisation taken from {dataset.name}")
    return LoadedModel(_fit(path, spec, tensors), spec, None, "file", tensors_sha256(tensors), path, tuple(notes))


def canonical(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our parameter names for a state dict in torchvision's layout or with DataParallel's ``module.`` prefix."""
    notes: list[str] = []
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        notes.append("stripped the prefix module.")
    if not any(name.startswith("backbone.") for name in tensors):
        heads = {"fc.weight": "head.weight", "fc.bias": "head.bias"}
        tensors = {heads.get(name, f"backbone.{name}"): tensor for name, tensor in tensors.items()}
        notes.append("read torchvision's parameter names")
    return tensors, notes


def load_encoder(
    path: Path, dataset: DatasetInfo, *, arch: str | None = None, normalize_features: bool = False, bank: int = 0
) -> tuple[Classifier, ModelSpec]:
    """The encoder of a state dict or of a run directory, with a head that is still to be fitted.

    A head in the file is ignored. Raises as :func:`load_model`.
    """
    if path.is_dir():
        path = path / "best.safetensors"
    _regular(path)
    content: dict[str, Any] = dict(read_tensors(path)) if path.suffix == ".safetensors" else _read_zip(path)
    tensors, _ = canonical(_tensors_of(path, content.get(STATE_KEY, content)))
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    spec = ModelSpec(
        arch=arch or _infer(path, encoder, dataset),
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
        image_size=dataset.size,
        normalize_features=normalize_features,
        bank=bank,
    )
    with torch.random.fork_rng(devices=[]):
        head = {f"head.{name}": tensor for name, tensor in build(spec).head.state_dict().items()}
    return _fit(path, spec, {**encoder, **head}), spec


def _infer(path: Path, tensors: dict[str, Tensor], dataset: DatasetInfo) -> str:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fits = [name for name, builder in MODELS.items() if _shapes(builder(dataset.channels)) == _backbone(shapes)]
    if len(fits) == 1:
        return fits[0]
    what = f"several architectures ({', '.join(fits)})" if fits else "no known architecture"
    raise CheckpointError(f"the tensors of {path} fit {what}", "name it with --arch (see: xeval list models)")


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _backbone(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("backbone."): shape for name, shape in shapes.items() if name.startswith("backbone.")}


def _fit(path: Path, spec: ModelSpec, tensors: dict[str, Tensor]) -> Classifier:
    """Build the network and load every tensor strictly; raises with the list of what does not fit."""
    with torch.random.fork_rng(devices=[]):
        model = build(spec)
    expected, found = _shapes(model), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    head = found.get("head.weight")
    if head is None and not spec.bank:
        raise CheckpointError(f"{path} has no linear head", "fit one with: xeval probe")
    if head is not None and head[0] != spec.num_classes:
        raise DataError(
            f"the head of {path} has {head[0]} outputs, {spec.num_classes} classes are asked for", "check --dataset"
        )
    wrong = _differences(expected, found)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"{path} does not fit {spec.arch}: {'; '.join(wrong[:5])}{more}", "check --arch (see: xeval list models)"
        )
    _finite(path, tensors)
    model.load_state_dict(tensors)
    return model


def _differences(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> list[str]:
    missing = [f"missing {name}" for name in expected if name not in found]
    extra = [f"extra {name}" for name in found if name not in expected]
    shapes = [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return missing + extra + shapes


def _finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"the tensor {name} of {path} holds NaN or infinite values", "use an earlier checkpoint")
