"""Recognise how other projects lay out a checkpoint of a residual network, and rename its tensors to our names.

SupContrast (github.com/HobbitLong/SupContrast) and ExCon write CIFAR networks with ``shortcut`` where torchvision has
``downsample``. MoCo (github.com/facebookresearch/moco) writes two encoders and a queue. Every other file is searched
for a network, a linear head that fits it, and what only training uses.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from xeval.checkpoints.places import WRAPPERS, Choice, Place, choose, plain_names, residual_networks
from xeval.checkpoints.sandbox import Containers, Foreign
from xeval.checkpoints.weightfiles import whole_module
from xeval.errors import CheckpointError

HEADS = ("fc.", "head.", "classifier.", "linear.")
STAGE = re.compile(r"(conv1|bn1|layer\d+)\.")
LAST_NORM = re.compile(r"layer(\d+)\.(\d+)\.bn(\d)\.weight")
HARMLESS = ("n_averaged", "total_ops", "total_params")
"""Counters of torch's AveragedModel and of thop, which stand among the weights and take no part in the network."""

TRAINING = re.compile(
    r"(^|\.)(criterion|loss\w*|\w+_loss|metrics?|\w+_metrics?|(train|val|valid|test)_\w+|\w*acc(uracy)?|queue\w*"
    r"|proj|projector|projection\w*|predictor|prototypes|head\.[02])(\.|$)"
)
"""Names of losses, metrics, queues and projections, which only training uses; a head of two layers is a projection."""


@dataclass(frozen=True)
class Layout:
    """A layout of a checkpoint, which says where its parts are.

    ``container`` is the key of the encoder's state dict, and ``encoder`` the prefix of its parameters (None: any).
    ``heads`` are the places of a linear head as (container, prefix); None is any that fits. ``training_only`` are the
    prefixes of tensors that are left out. ``beside`` is a key that the file must also hold.
    """

    name: str
    container: str = ""
    encoder: str | None = None
    heads: tuple[tuple[str, str], ...] | None = None
    training_only: tuple[str, ...] = ()
    beside: str = ""

    def describes(self, place: Place, plain: Containers) -> bool:
        """Return whether a network at ``place`` is the one that this layout is about."""
        beside = not self.beside or self.beside in plain
        return place.container == self.container and self.encoder in (None, place.prefix) and beside


PROJECTION = ("head.",)  # any head in ExCon and SupContrast
LAYOUTS = (
    Layout("ExCon", "encoder", None, (("classifier", "fc."),), PROJECTION, beside="classifier"),
    Layout("SupContrast", "model", "encoder.", (("classifier", "fc."), ("model", "fc.")), PROJECTION),
    Layout("MoCo", "state_dict", "encoder_q.", (), ("encoder_q.fc.", "encoder_k.", "queue")),
)


@dataclass(frozen=True)
class Recognised:
    """The result of recognising a file: the layout, the tensors, the names left out, and notes.

    A residual network has our names, ``backbone.…`` and ``head.…``; a network of another library keeps its own.
    """

    layout: str
    tensors: dict[str, Tensor]
    left: tuple[str, ...]
    notes: tuple[str, ...]
    residual: bool = True

    @property
    def has_head(self) -> bool:
        """Whether the file holds a linear head; the networks of other libraries come with theirs."""
        return not self.residual or any(name.startswith("head.") for name in self.tensors)


def recognise(path: Path, foreign: Foreign, classes: int, choice: Choice) -> Recognised | None:
    """Find the residual network of a file and rename its tensors to ours; None where there is none.

    ``classes`` decides between several heads that fit. Raises :class:`CheckpointError` or :class:`UsageError` where not
    exactly one network is meant.
    """
    containers = foreign.containers
    plain = {name: _without_counters(plain_names(tensors)) for name, tensors in containers.items()}
    places = residual_networks(containers, plain)
    if not places:
        return None
    known = [place for place in places if any(layout.describes(place, plain) for layout in LAYOUTS)]
    meant = [*known[:1], *(place for place in places if place.averaged and place not in known[:1])]
    place, notes = choose(path, plain, places if choice.key or not known else meant, choice)
    layout = next((layout for layout in LAYOUTS if layout.describes(place, plain)), _layout_of(place))
    found = _renamed(path, layout, place, plain, classes, chosen=choice.key is not None)
    notes = (*_unwrapped(containers, place), *notes, *found.notes)
    return replace(found, left=(*found.left, *_counters(containers)), notes=notes)


def _without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[-1] not in HARMLESS}


def _counters(containers: Containers) -> list[str]:
    """Return how many of each harmless counter there are in a file."""
    names = Counter(name.split(".")[-1] for tensors in containers.values() for name in tensors)
    return [f"{names[name]} of {name}" for name in HARMLESS if names[name]]


def _layout_of(place: Place) -> Layout:
    if place.container:
        return Layout(f"a training checkpoint with {place.container}")
    return Layout("state dict" if place.prefix else "torchvision or timm state dict")


def no_network(path: Path, foreign: Foreign) -> CheckpointError:
    """Return the error for a file without a network that is known."""
    if foreign.modules:
        return whole_module(path)
    if any(_is_linear(plain_names(tensors)) for tensors in foreign.containers.values()):
        return CheckpointError(
            f"{path} is a linear classifier without its encoder", f"import the encoder with --classifier {path}"
        )
    keys = ", ".join([key or next(iter(tensors)) for key, tensors in foreign.containers.items()][:5]) or "no tensors"
    return CheckpointError(
        f"{path} holds no network that is known (found: {keys})",
        "save model.state_dict(); name a network that is no ResNet with --arch timm:NAME or torchvision:NAME",
    )


def classifier_of(path: Path, containers: Containers) -> dict[str, Tensor]:
    """Return the linear classifier that a file holds alone; raise :class:`CheckpointError` where there is none."""
    for tensors in map(plain_names, containers.values()):
        if _is_linear(tensors):
            return {f"fc.{name.split('.')[-1]}": tensor for name, tensor in tensors.items()}
    raise CheckpointError(
        f"{path} holds no linear classifier", "give the file with weight and bias of one linear layer"
    )


def _is_linear(tensors: dict[str, Tensor]) -> bool:
    """Return whether these are the tensors of one linear layer, with or without a bias."""
    prefixes = _linear(tensors)
    return len(prefixes) == 1 and all(name.startswith(prefixes[0]) for name in tensors)


def _linear(tensors: dict[str, Tensor]) -> list[str]:
    """Return the prefixes of all linear layers, of which nothing but a matrix and perhaps a bias is there."""
    matrices = (name for name, tensor in tensors.items() if name.split(".")[-1] == "weight" and tensor.ndim == 2)
    found = [name.removesuffix("weight") for name in matrices]
    parts = Counter(name.rpartition(".")[0] for name in tensors)
    return [prefix for prefix in found if parts[prefix.rstrip(".")] == 1 + (f"{prefix}bias" in tensors)]


def _unwrapped(containers: Containers, place: Place) -> tuple[str, ...]:
    wrapped = any(WRAPPERS.search(name) for name in containers[place.container])
    return ("stripped module.",) if wrapped else ()


def _renamed(path: Path, layout: Layout, place: Place, plain: Containers, classes: int, *, chosen: bool) -> Recognised:
    """Take the network and its head out of the file; ``chosen``: the user has named the place, so the rest is left."""
    own = plain[place.container]
    spot = _head(layout, place, plain, classes)
    head = _below(plain, spot) if spot else {}
    rest = {n: t for n, t in own.items() if spot is None or spot[0] != place.container or not n.startswith(spot[1])}
    extra = [n for n in rest if not n.startswith(place.prefix)]
    left = [n for n in rest if n.startswith(layout.training_only) or only_trains(n.removeprefix(place.prefix))]
    if unknown := [n for n in extra if n not in left and not chosen]:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise CheckpointError(
            f"{path} is like {layout.name} but for extra {', '.join(unknown[:5])}{more}",
            f"if the network does without them, leave them out with --key {place.key}",
        )
    left = [n for n in rest if n in left or n in extra]
    backbone = {f"backbone.{n.removeprefix(place.prefix)}": t for n, t in rest.items() if n not in left}
    unused = _unused(plain, {place.container, spot[0] if spot else place.container})
    tensors, filled = completed({**backbone, **{f"head.{name}": tensor for name, tensor in head.items()}})
    names = (f"{place.container}.{name}".lstrip(".") for name in left)
    return Recognised(layout.name, tensors, (*names, *unused), filled)


def only_trains(name: str) -> bool:
    """Return whether a tensor, by its name below the network's prefix, is one of a loss, a metric or a projection."""
    return STAGE.match(name) is None and TRAINING.search(name) is not None


def _unused(plain: Containers, used: set[str]) -> list[str]:
    """Return the state dicts that are left out, those below an unused key together."""
    above = {key.partition(".")[0] for key in used}
    unused = (key for key in plain if key not in used)
    return list(dict.fromkeys(f"{key if (top := key.partition('.')[0]) in above else top}.*" for key in unused))


def completed(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fill what changes nothing: the counters of BatchNorm, which old versions of torch lack, and a bias of zeros."""
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    counters = [f"{norm}num_batches_tracked" for norm in norms if f"{norm}num_batches_tracked" not in tensors]
    full = {**tensors, **{name: torch.tensor(0) for name in counters}}
    notes = [f"filled {len(counters)} of num_batches_tracked with 0"] if counters else []
    weight = tensors.get("head.weight")
    if weight is not None and "head.bias" not in tensors:
        full["head.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
        notes.append("the head has no bias: filled with 0")
    return full, tuple(notes)


def _head(layout: Layout, place: Place, plain: Containers, classes: int) -> tuple[str, str] | None:
    """Return the (container, prefix) of the linear head: the first of the usual places, else the one that fits."""
    own = place.container
    usual = tuple((own, prefix + name) for prefix in (place.prefix, "") for name in HEADS)
    for container, prefix in usual if layout.heads is None else layout.heads:
        weight = plain.get(container, {}).get(f"{prefix}weight")
        if weight is not None and weight.ndim == 2:
            return container, prefix
    return _fitting(place, plain, classes) if layout.heads is None else None


def _fitting(place: Place, plain: Containers, classes: int) -> tuple[str, str] | None:
    """Return the one linear layer that takes the features of the network; the number of classes decides between two."""
    outside = [key for key, tensors in plain.items() if key == place.container or _is_linear(tensors)]
    dim = _features({n.removeprefix(place.prefix): t for n, t in plain[place.container].items()})
    spots = [(key, prefix) for key in outside for prefix in _linear(plain[key]) if not TRAINING.search(prefix)]
    spots = [spot for spot in spots if spot != (place.container, "")]
    fits = [spot for spot in spots if plain[spot[0]][f"{spot[1]}weight"].shape[1] == dim]
    if len(fits) > 1:
        fits = [spot for spot in fits if plain[spot[0]][f"{spot[1]}weight"].shape[0] == classes]
    return fits[0] if len(fits) == 1 else None


def _features(tensors: dict[str, Tensor]) -> int:
    """Return the number of channels behind the last normalisation of the last block."""
    norms = [(tuple(map(int, match.groups())), name) for name in tensors if (match := LAST_NORM.fullmatch(name))]
    return tensors[max(norms)[1]].numel() if norms else 0


def _below(plain: Containers, spot: tuple[str, str]) -> dict[str, Tensor]:
    container, prefix = spot
    return {n.removeprefix(prefix): tensor for n, tensor in plain[container].items() if n.startswith(prefix)}
