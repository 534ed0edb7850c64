"""Check that the tensors of a weight file fit an architecture: names, shapes, types and finite values."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from xeval.errors import CheckpointError, DataError, XevalError
from xeval.models import MODELS, ModelSpec
from xeval.models.architectures import DESIGNS, backbone, is_built_in
from xeval.models.designs import Design, design_of
from xeval.models.sources import cheapest_device, looked_at, network
from xeval.runtime.endings import first_line

Shapes = dict[str, tuple[int, ...]]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
TYPES = frozenset((*FLOATS, *WHOLE))


def canonical(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename a state dict in torchvision's layout, or in a wrapper of DataParallel or torch.compile, to our names."""
    tensors, notes = bare_names(tensors)
    if not any(name.startswith("backbone.") for name in tensors):
        heads = {"fc.weight": "head.weight", "fc.bias": "head.bias"}
        tensors = {heads.get(name, f"backbone.{name}"): tensor for name, tensor in tensors.items()}
        notes.append("read torchvision's parameter names")
    return tensors, notes


def bare_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Strip what DataParallel and torch.compile put before every name."""
    notes: list[str] = []
    for prefix in ("module.", "_orig_mod.", "module."):  # either may be around the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            notes.append(f"stripped the prefix {prefix}")
    return tensors, notes


def fitting(tensors: dict[str, Tensor], channels: int) -> list[str]:
    """Return the built-in architectures whose backbone has exactly these tensors.

    The design of a residual network is read from the shapes; other architectures are built and compared.
    """
    found = _backbone({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    design = design_of(found)
    names = [name for name in MODELS if name not in DESIGNS]
    names += [_name(design)] if design else []
    return [name for name in names if _built(name, channels) == found]


def differences_from(tensors: dict[str, Tensor], channels: int) -> str:
    """Return how a backbone differs from the residual network that it is most like, as a part of a sentence."""
    found = _backbone({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    design = design_of(found)
    return f": {_name(design)} but for {listed(differences(_built(_name(design), channels), found))}" if design else ""


def _name(design: Design) -> str:
    return next((name for name, one in DESIGNS.items() if one == design), design.name)


def listed(wrong: list[str]) -> str:
    """Return the first five of some differences as one text."""
    return "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")


@cache
def _built(arch: str, channels: int) -> Shapes:
    with torch.device(cheapest_device(arch)), torch.random.fork_rng(devices=[]):
        return _shapes(backbone(arch, channels))


def shapes_of(path: Path, spec: ModelSpec) -> Shapes:
    """Return the names and shapes of a network's tensors, without memory for them.

    Raises:
        CheckpointError: a network of another library cannot be built as specified.
        UsageError: it is unknown, or its library is missing.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return _shapes(looked_at(spec))
    except XevalError:
        raise
    except Exception as error:  # other libraries raise anything for sizes that they do not expect
        raise CheckpointError(
            f"{path}: {spec.arch} cannot be built for {spec.num_classes} classes and images of "
            f"{spec.shape[1]}×{spec.shape[2]} px ({first_line(error)[:160]})",
            "check --arch and --dataset",
        ) from None


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _backbone(shapes: Shapes) -> Shapes:
    return {name.removeprefix("backbone."): shape for name, shape in shapes.items() if name.startswith("backbone.")}


def fit(
    path: Path, spec: ModelSpec, tensors: dict[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor], tuple[str, ...]]:
    """Build the network and load every tensor strictly; return the network, the tensors as loaded, and a note on casts.

    Raises:
        CheckpointError: names, shapes or types do not fit; the message lists the first five that do not.
        DataError: a tensor holds NaN or infinite values.
    """
    _require_types(path, tensors)
    _require_size(path, spec, tensors)
    wrong = differences(shapes_of(path, spec), {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if wrong:
        remedy = "check --arch (see: xeval list models)"
        if not is_built_in(spec.arch):
            remedy = "check --arch, and the number of classes and the size of the data set"
        raise CheckpointError(f"{path} does not fit {spec.arch}: {listed(wrong)}", remedy)
    with torch.random.fork_rng(devices=[]):
        model = network(spec)
    _finite(path, tensors)
    loaded, note = _cast(path, tensors, {name: tensor.dtype for name, tensor in model.state_dict().items()})
    _finite(path, loaded)
    model.load_state_dict(loaded)
    return model, loaded, note


def _require_types(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError for types that torch stores and cannot compute with, such as those of eight bits."""
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES:
            raise CheckpointError(f"{name} of {path} has type {tensor.dtype}", "save the weights as floats")


def _require_size(path: Path, spec: ModelSpec, tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError if the head has not the described size: else a description could have any size built."""
    if not is_built_in(spec.arch):
        return  # shapes are compared before a network of another library gets any memory
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


def differences(expected: Shapes, found: Shapes) -> list[str]:
    """Return what is missing, extra and misshapen, one text each."""
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
