"""Check that the tensors of a weight file fit an architecture: names, shapes, types and finite values."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from xeval.errors import CheckpointError, DataError
from xeval.models import MODELS, Classifier, ModelSpec, build
from xeval.models.architectures import Builder

Shapes = dict[str, tuple[int, ...]]


def canonical(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename a state dict in torchvision's layout or with DataParallel's ``module.`` prefix to our parameter names."""
    notes: list[str] = []
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        notes.append("stripped the prefix module.")
    if not any(name.startswith("backbone.") for name in tensors):
        heads = {"fc.weight": "head.weight", "fc.bias": "head.bias"}
        tensors = {heads.get(name, f"backbone.{name}"): tensor for name, tensor in tensors.items()}
        notes.append("read torchvision's parameter names")
    return tensors, notes


def infer(path: Path, tensors: dict[str, Tensor], channels: int) -> str:
    """Return the one architecture whose backbone has exactly these tensors; if it is not one, raise CheckpointError."""
    found = _backbone({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.random.fork_rng(devices=[]):
        fits = [name for name, builder in MODELS.items() if _built(builder, channels) == found]
    if len(fits) == 1:
        return fits[0]
    what = f"several architectures ({', '.join(fits)})" if fits else "no known architecture"
    raise CheckpointError(
        f"the tensors of {path} fit {what}",
        f"name it with --arch (see: xeval list models) or, for a file of another project, run: xeval import {path}",
    )


@cache
def _built(builder: Builder, channels: int) -> Shapes:
    return _shapes(builder(channels))


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _backbone(shapes: Shapes) -> Shapes:
    return {name.removeprefix("backbone."): shape for name, shape in shapes.items() if name.startswith("backbone.")}


def fit(
    path: Path, spec: ModelSpec, tensors: dict[str, Tensor]
) -> tuple[Classifier, dict[str, Tensor], tuple[str, ...]]:
    """Build the network and load every tensor strictly; return the network, the tensors as loaded, and a note on casts.

    Raises:
        CheckpointError: names, shapes or types do not fit; the message lists the first five that do not.
        DataError: a tensor holds NaN or infinite values.
    """
    _require_size(path, spec, tensors)
    with torch.random.fork_rng(devices=[]):
        model = build(spec)
    wanted = model.state_dict()
    wrong = _differences(_shapes(model), {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"{path} does not fit {spec.arch}: {'; '.join(wrong[:5])}{more}", "check --arch (see: xeval list models)"
        )
    _finite(path, tensors)
    loaded, note = _cast(path, tensors, {name: tensor.dtype for name, tensor in wanted.items()})
    _finite(path, loaded)
    model.load_state_dict(loaded)
    return model, loaded, note


def _require_size(path: Path, spec: ModelSpec, tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError if the head has not the described size: else a description could have any size built."""
    name, rows = ("head.bank", spec.bank) if spec.bank else ("head.weight", spec.num_classes)
    found = tensors.get(name)
    if found is None or found.ndim != 2 or found.shape[0] != rows:
        shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
        raise CheckpointError(f"{path}: {name} is {shape}, {rows} rows are described", "export the run again")


def _cast(
    path: Path, tensors: dict[str, Tensor], types: dict[str, torch.dtype]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Cast floating-point tensors to the network's own type; raise an error for any other difference of types."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != types[name].is_floating_point or tensor.is_complex():
            raise CheckpointError(
                f"{name} of {path} has type {tensor.dtype}, expected {types[name]}", "save the weights as floats"
            )
    casts = {
        f"{t.dtype} to {types[name]}".replace("torch.", "") for name, t in tensors.items() if t.dtype != types[name]
    }
    note = (f"cast weights: {', '.join(sorted(casts))}",) if casts else ()
    return {name: tensor.to(types[name]) for name, tensor in tensors.items()}, note


def _differences(expected: Shapes, found: Shapes) -> list[str]:
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
