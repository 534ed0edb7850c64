"""Find the networks in the state dicts of a file, whatever the keys above them are called, and choose one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xeval.checkpoints.sandbox import Containers
from xeval.errors import CheckpointError, UsageError

WRAPPERS = re.compile(r"(^|\.)(?:(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module)\.)+")
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged)([._]|$)")
COUNTER = "n_averaged"  # torch's AveragedModel keeps it beside the weights
STEMS = ("conv1.weight", "conv1.0.weight")  # one convolution, or three
BESIDE, BLOCK = "bn1.weight", "layer1.0.conv1.weight"
NUMBERED = re.compile(r"(|.*?\.)(\d+)\.0\.conv1\.weight")
LISTED = 8


@dataclass(frozen=True)
class Place:
    """Where a network is: the key of its state dict and the prefix of its names there, which may both be empty."""

    container: str
    prefix: str
    averaged: bool

    @property
    def key(self) -> str:
        """What ``--key`` calls the place."""
        return f"{self.container}.{self.prefix}".strip(".")

    def within(self, key: str) -> bool:
        """Return whether ``key`` names this place or a level above it."""
        return f"{self.key}.".startswith(f"{key.rstrip('.')}.")


@dataclass(frozen=True)
class Choice:
    """Which network of a file is meant: that at ``key`` or below it, and with ``ema`` the averaged one."""

    key: str | None = None
    ema: bool = False


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under names without the wrappers of DataParallel, torch.compile, Fabric and FSDP.

    Where a name would then stand for two tensors, all keep theirs.
    """
    plain = {WRAPPERS.sub(r"\1", name): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the unwrapped tensors of a residual network under torchvision's names.

    The ``shortcut`` of a block becomes ``downsample``. A backbone that was cut out of its network as a ``Sequential``
    has numbers for names: 0 and 1 are the stem, the numbers of blocks are the stages in their order.
    """
    plain = {name.replace(".shortcut.", ".downsample."): tensor for name, tensor in unwrapped(tensors).items()}
    return _named(plain if len(plain) == len(tensors) else tensors)


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stages: dict[str, list[int]] = {}
    for match in filter(None, map(NUMBERED.fullmatch, tensors)):
        stages.setdefault(match[1], []).append(int(match[2]))
    for prefix, numbers in stages.items():
        if f"{prefix}1.weight" in tensors and min(numbers) > 1:
            names = {str(number): f"layer{stage}" for stage, number in enumerate(sorted(numbers), 1)}
            tensors = {_renumbered(name, prefix, {"0": "conv1", "1": "bn1", **names}): t for name, t in tensors.items()}
    return tensors


def _renumbered(name: str, prefix: str, names: dict[str, str]) -> str:
    number, dot, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{names.get(number, number)}{dot}{rest}" if name.startswith(prefix) else name


def residual_networks(containers: Containers, plain: Containers) -> list[Place]:
    """Return the places of all residual networks; ``plain`` holds the containers under their plain names."""
    return [
        Place(key, prefix, is_averaged(f"{key}.{prefix}", containers[key]))
        for key, tensors in plain.items()
        for prefix in _prefixes(tensors)
    ]


def is_averaged(key: str, tensors: dict[str, Tensor]) -> bool:
    """Return whether a state dict holds a running average of the weights, by its key or by the counter beside it."""
    return bool(AVERAGED.search(key)) or any(name.split(".")[-1] == COUNTER for name in tensors)


def _prefixes(tensors: dict[str, Tensor]) -> list[str]:
    prefixes = [name.removesuffix(BLOCK) for name in tensors if name.endswith(BLOCK)]
    return [p for p in prefixes if f"{p}{BESIDE}" in tensors and any(f"{p}{stem}" in tensors for stem in STEMS)]


def choose(path: Path, plain: Containers, places: Sequence[Place], choice: Choice) -> tuple[Place, tuple[str, ...]]:
    """Return the one place that is meant, and what to say about averaged weights.

    Raises:
        UsageError: nothing is at the key, or averaged weights are asked for and there are none.
        CheckpointError: several networks are left.
    """
    there = _distinct(plain, [place for place in places if choice.key is None or place.within(choice.key)])
    if choice.key is not None and not there:
        raise UsageError(f"{path} holds no network at {choice.key!r}", f"it has: {_listed(places)}")
    averaged = [place for place in there if place.averaged]
    own = [place for place in there if not place.averaged]
    if choice.ema and not averaged:
        raise UsageError(f"{path} holds no averaged weights", f"it has: {_listed(there)}")
    left = averaged if choice.ema or not own else own
    if len(left) > 1:
        raise CheckpointError(f"{path} holds several networks: {_listed(left)}", "choose one of them with --key")
    if left == averaged:
        return left[0], (f"averaged weights: {left[0].key or path.name}",)
    return left[0], (
        f"the file also holds averaged weights ({_listed(averaged)}); --ema takes them",
    ) if averaged else ()


def _distinct(plain: Containers, places: list[Place]) -> list[Place]:
    """Leave out a state dict that is another one under a second key."""
    kept: list[Place] = []
    for place in places:
        if not any(place.container != one.container and _same(plain, place, one) for one in kept):
            kept.append(place)
    return kept


def _same(plain: Containers, one: Place, other: Place) -> bool:
    mine, theirs = plain[one.container], plain[other.container]
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]) for name in mine
    )


def _listed(places: Sequence[Place]) -> str:
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return (", ".join(place.key or "the file itself" for place in places[:LISTED]) or "nothing else") + more
