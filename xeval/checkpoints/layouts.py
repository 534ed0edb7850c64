"""Recognise how other projects lay out a checkpoint of a residual network, and rename its tensors to our names.

SupContrast (github.com/HobbitLong/SupContrast) and ExCon write CIFAR networks with ``shortcut`` where torchvision has
``downsample``. MoCo (github.com/facebookresearch/moco) writes two encoders and a queue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from xeval.checkpoints.sandbox import Containers
from xeval.errors import CheckpointError

FIRST = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")
HEADS = ("fc.", "head.", "classifier.", "linear.")
WRAPPERS = re.compile(r"(^|\.)(?:(?:module|_orig_mod)\.)+")


@dataclass(frozen=True)
class Layout:
    """A layout of a checkpoint, which says where its parts are.

    ``container`` is the key of the encoder's state dict (``""``: the file itself). ``encoder`` is the prefix of its
    parameters (None: any). ``heads`` are the places of a linear head as (container, prefix), None for the usual ones.
    ``training_only`` are the prefixes of tensors that are left out. ``beside`` is a key that the file must also hold.
    """

    name: str
    container: str
    encoder: str | None = None
    heads: tuple[tuple[str, str], ...] | None = None
    training_only: tuple[str, ...] = ()
    beside: str = ""


# Prefixes of heads that only training uses: any head in ExCon and SupContrast, heads of two layers elsewhere.
PROJECTION, LAYERS = ("head.",), ("head.0.", "head.2.")
LAYOUTS = (
    Layout("ExCon", "encoder", None, (("classifier", "fc."),), PROJECTION, beside="classifier"),
    Layout("SupContrast", "model", "encoder.", (("classifier", "fc."), ("model", "fc.")), PROJECTION),
    Layout("MoCo", "state_dict", "encoder_q.", (), ("encoder_q.fc.", "encoder_k.", "queue")),
    Layout("a training checkpoint with state_dict", "state_dict", training_only=LAYERS),
    Layout("a training checkpoint with model", "model", training_only=LAYERS),
    Layout("torchvision or timm state dict", "", ""),
    Layout("state dict", "", training_only=LAYERS),
)


@dataclass(frozen=True)
class Recognised:
    """The result of recognising a file: the tensors under our names, the layout, the names left out, and notes."""

    layout: str
    tensors: dict[str, Tensor]
    left: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def has_head(self) -> bool:
        """Whether the file holds a linear head."""
        return any(name.startswith("head.") for name in self.tensors)


def recognise(path: Path, containers: Containers) -> Recognised:
    """Recognise the layout of a file and rename its tensors; raise :class:`CheckpointError` with what is unknown."""
    plain = {key: _plain_names(path, tensors) for key, tensors in containers.items()}
    for layout in LAYOUTS:
        for prefix in _encoders(plain.get(layout.container, {})):
            if layout.encoder in (None, prefix) and (not layout.beside or layout.beside in plain):
                return _renamed(path, layout, prefix, plain, _notes(containers))
    if any(tensors.keys() == {"fc.weight", "fc.bias"} for tensors in plain.values()):
        raise CheckpointError(
            f"{path} is a linear classifier without its encoder", f"import the encoder with --classifier {path}"
        )
    keys = ", ".join([key or next(iter(tensors)) for key, tensors in containers.items()][:5]) or "no tensors"
    raise CheckpointError(
        f"{path} has no layout that is known (found: {keys})", "save the state_dict() of a residual network"
    )


def classifier_of(path: Path, containers: Containers) -> dict[str, Tensor]:
    """Return the linear classifier that a file holds alone; raise :class:`CheckpointError` where there is none."""
    for tensors in containers.values():
        plain = _plain_names(path, tensors)
        if plain.keys() == {"fc.weight", "fc.bias"}:
            return plain
    raise CheckpointError(f"{path} holds no linear classifier (fc.weight, fc.bias)", "check --classifier")


def _plain_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the wrappers of DataParallel and torch.compile from names, and name shortcuts as torchvision does."""
    plain = {WRAPPERS.sub(r"\1", name).replace(".shortcut.", ".downsample."): t for name, t in tensors.items()}
    if len(plain) < len(tensors):
        raise CheckpointError(f"{path} holds two tensors of one name", "save the state_dict() of one network")
    return plain


def _notes(containers: Containers) -> tuple[str, ...]:
    wrapped = any(WRAPPERS.search(name) for tensors in containers.values() for name in tensors)
    return ("stripped module.",) if wrapped else ()


def _encoders(tensors: dict[str, Tensor]) -> list[str]:
    """Return the prefixes below which there is a residual network."""
    prefixes = [name.removesuffix(FIRST[0]) for name in tensors if name.endswith(FIRST[0])]
    return [prefix for prefix in prefixes if all(prefix + name in tensors for name in FIRST)]


def _renamed(path: Path, layout: Layout, encoder: str, plain: Containers, notes: tuple[str, ...]) -> Recognised:
    own = layout.container
    usual = tuple((own, prefix + name) for prefix in (encoder, "") for name in HEADS)
    place = _head(plain, usual if layout.heads is None else layout.heads)
    head = _below(plain, place) if place else {}
    rest = {n: t for n, t in plain[own].items() if place is None or place[0] != own or not n.startswith(place[1])}
    left = [name for name in rest if name.startswith(layout.training_only)]
    extra = [name for name in rest if name not in left and not name.startswith(encoder)]
    if extra:
        more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
        raise CheckpointError(
            f"{path} is like {layout.name} but for extra {', '.join(extra[:5])}{more}", "save the state_dict() alone"
        )
    backbone = {f"backbone.{n.removeprefix(encoder)}": t for n, t in rest.items() if n not in left}
    unused = [f"{key}.*" for key in plain if key not in (own, place[0] if place else own)]
    tensors = {**backbone, **{f"head.{name}": tensor for name, tensor in head.items()}}
    return Recognised(layout.name, tensors, (*(f"{own}.{name}".lstrip(".") for name in left), *unused), notes)


def _head(plain: Containers, places: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    """Return the first place that holds the matrix of a linear head, or None."""
    for container, prefix in places:
        weight = plain.get(container, {}).get(f"{prefix}weight")
        if weight is not None and weight.ndim == 2:
            return container, prefix
    return None


def _below(plain: Containers, place: tuple[str, str]) -> dict[str, Tensor]:
    container, prefix = place
    return {n.removeprefix(prefix): tensor for n, tensor in plain[container].items() if n.startswith(prefix)}
