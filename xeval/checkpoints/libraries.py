"""Find the network of timm or torchvision whose tensors a file holds."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

from xeval.checkpoints.layouts import HARMLESS, Recognised, only_trains
from xeval.checkpoints.match import Shapes, differences, listed, shapes_of
from xeval.checkpoints.places import Choice, Place, choose, is_averaged, unwrapped
from xeval.checkpoints.sandbox import Containers, Foreign
from xeval.errors import CheckpointError
from xeval.models import ModelSpec, of_timm
from xeval.models.architectures import is_built_in
from xeval.models.configuration import Configuration
from xeval.models.sources import configuration, require_named
from xeval.runtime.progress import Progress

COUNTER = "num_batches_tracked"


def as_network(path: Path, foreign: Foreign, spec: ModelSpec, choice: Choice) -> Recognised | None:
    """Return the tensors of the network ``spec`` if the file holds exactly them, None if it does not.

    What only training uses is left out, and with a key everything else beside the network. Missing counters of
    BatchNorm are filled. Several such networks are an error as in :func:`xeval.checkpoints.places.choose`.
    """
    plain = {name: unwrapped(tensors) for name, tensors in foreign.containers.items()}
    wanted = shapes_of(path, spec)
    places = [place for place in _places(foreign.containers, plain, wanted) if _fits(plain, place, wanted, choice.key)]
    if not places:
        return None
    place, notes = choose(path, plain, places, choice)
    own = plain[place.container]
    tensors = {name: own[place.prefix + name] for name in wanted if place.prefix + name in own}
    filled = {name: torch.tensor(0) for name in wanted if name not in tensors}
    left = [name for name in own if name.removeprefix(place.prefix) not in wanted or not name.startswith(place.prefix)]
    unused = [f"{name}.*" for name in plain if name != place.container]
    told = [f"filled {len(filled)} of {COUNTER} with 0"] if filled else []
    names = [f"{place.container}.{name}".lstrip(".") for name in left]
    return Recognised(spec.arch, {**tensors, **filled}, (*names, *unused), (*notes, *told), residual=False)


def own_in(path: Path, foreign: Foreign, arch: str | None, choice: Choice) -> Configuration | None:
    """Return the configuration of a network that the user has named, if the file holds the weights it describes."""
    if arch is None or is_built_in(arch):
        return None
    require_named(arch)
    own = configuration(arch)
    if own is None or own.classes < 2:
        return None
    spec = ModelSpec(arch=arch, num_classes=own.classes, image_size=own.size).named(arch)
    with suppress(CheckpointError):  # what it cannot be built for, the user is told with the sizes of the data set
        return own if as_network(path, foreign, spec, choice) is not None else None
    return None


def require_network(path: Path, foreign: Foreign, spec: ModelSpec, choice: Choice) -> Recognised:
    """Return the tensors of a network that the user has named; raise CheckpointError with the differences."""
    found = as_network(path, foreign, spec, choice)
    if found is None:
        raise CheckpointError(
            f"{path} does not fit {spec.arch}: {_nearest(foreign.containers, shapes_of(path, spec))}",
            "check --arch, --key and the number of classes and the size of --dataset",
        )
    return found


def search(path: Path, foreign: Foreign, spec: ModelSpec, choice: Choice, progress: Progress) -> Recognised | None:
    """Return the tensors of the one network of timm that the file holds, None if there is none.

    Every network whose first layer and classifier are in the file is built without memory and compared. Raises
    :class:`CheckpointError` where several networks have these tensors.
    """
    names = {name for tensors in foreign.containers.values() for name in unwrapped(tensors)}
    ends = {".".join(parts[start:]) for name in names for parts in [name.split(".")] for start in range(len(parts))}
    candidates = of_timm.matching(lambda layer: f"{layer}.weight" in ends)
    if candidates:
        progress.say(f"comparing with {len(candidates)} networks of timm; --arch timm:NAME is faster")
    specs = [spec.model_copy(update={"arch": f"timm:{name}"}) for name in candidates]
    found = [fit for one in specs if (fit := as_network(path, foreign, one, choice)) is not None]
    if len(found) > 1:
        listed = ", ".join(one.layout for one in found[:10])
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise CheckpointError(f"the tensors of {path} fit several networks: {listed}{more}", "name one with --arch")
    return found[0] if found else None


def _places(containers: Containers, plain: Containers, wanted: Shapes) -> Iterable[Place]:
    """Yield every place whose names end as the first name of the network."""
    first = next(iter(wanted))
    for key, tensors in plain.items():
        for prefix in [name.removesuffix(first) for name in tensors if f".{name}".endswith(f".{first}")]:
            yield Place(key, prefix, is_averaged(f"{key}.{prefix}", containers[key]))


def _fits(plain: Containers, place: Place, wanted: Shapes, key: str | None) -> bool:
    """Return whether every tensor of the network is at a place, and nothing beside them that may be part of it."""
    own = plain[place.container]
    at = {place.prefix + name: shape for name, shape in wanted.items()}
    there = all(tuple(own[n].shape) == shape if n in own else n.endswith(COUNTER) for n, shape in at.items())
    return there and all(name in at or key is not None or _is_aside(name, place) for name in own)


def _is_aside(name: str, place: Place) -> bool:
    return name.rpartition(".")[2] in HARMLESS or only_trains(name.removeprefix(place.prefix))


def _nearest(containers: Containers, wanted: Shapes) -> str:
    """Return the first differences of the state dict that has most names in common with the network."""
    plain = [{name: tuple(t.shape) for name, t in unwrapped(tensors).items()} for tensors in containers.values()]
    if not plain:
        return "no tensors"
    first = next(iter(wanted))
    best = max(plain, key=lambda shapes: len(shapes.keys() & wanted.keys()))
    prefix = next((name.removesuffix(first) for name in best if f".{name}".endswith(f".{first}")), "")
    return listed(differences(wanted, {name.removeprefix(prefix): shape for name, shape in best.items()}))
