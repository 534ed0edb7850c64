"""Build networks by name: of this package, of other libraries, of a folder of transformers, of a function of yours.

A library is imported when one of its networks is named, not before. A name may come from anywhere (a run, a checkpoint,
its options) as long as a library lists it; such a network is built without weights, and nothing is downloaded. What
opens a folder, asks a hub or runs a function is built only if the user has typed it in this very call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.errors import CheckpointError, UsageError, unknown
from xeval.models import of_code, of_timm, of_torchvision, of_transformers
from xeval.models.architectures import DESIGNS, MODELS, is_built_in
from xeval.models.classifier import Classifier, ModelSpec, NearestNeighbours, build
from xeval.models.configuration import Configuration
from xeval.models.parts import Parts, taken_apart


@dataclass(frozen=True)
class Source:
    """Where networks come from: how a name is written, the package that it needs, and what is made of a name.

    ``names`` and ``has`` are those of a library that lists its networks; None where a name opens or runs something.
    ``native`` gives the tensors of a file the names that they have in the network.
    """

    about: str
    package: str
    build: Callable[[str, ModelSpec], nn.Module]
    pretrained: Callable[[str, ModelSpec], nn.Module]
    configuration: Callable[[str], Configuration | None]
    names: Callable[[], list[str]] | None = None
    has: Callable[[str], bool] | None = None
    native: Callable[[str, dict[str, Tensor]], dict[str, Tensor]] = lambda _name, tensors: tensors


SOURCES = {
    "timm": Source(
        "timm:NAME, a network of timm, with or without the tag of its weights",
        "timm",
        of_timm.build,
        of_timm.pretrained,
        of_timm.configuration,
        of_timm.names,
        of_timm.has,
    ),
    "torchvision": Source(
        "torchvision:NAME, a classifier of torchvision",
        "torchvision",
        of_torchvision.build,
        of_torchvision.pretrained,
        of_torchvision.configuration,
        of_torchvision.names,
        of_torchvision.has,
    ),
    "hf": Source(
        "hf:FOLDER or hf:NAME, an image classifier of transformers: saved by save_pretrained, or of the hub",
        "transformers",
        of_transformers.build,
        of_transformers.pretrained,
        of_transformers.configuration,
        native=of_transformers.native,
    ),
}
CODE = "pkg.module:function, a function of yours that returns the network"


def network(spec: ModelSpec) -> nn.Module:
    """Build a network by its name, freshly initialised; it returns logits.

    Raises:
        UsageError: the name is unknown, a library is missing, or it cannot build what is asked for.
        CheckpointError: the name is a stored one that opens or runs something.
    """
    require_followed(spec)
    source, _, name = spec.arch.partition(":")
    if is_built_in(spec.arch):
        return build(spec)
    made = partial(of_code.build, spec.arch, others=tuple(SOURCES)) if source not in SOURCES else None
    model = made(spec) if made else SOURCES[source].build(name, spec)
    return _with_head(model, spec)


def _with_head(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Put the head that a specification asks for on a network of another library."""
    if not spec.bank and not spec.normalize_features:
        return model
    parts = taken_apart(model, spec)
    if spec.bank:
        votes = NearestNeighbours(parts.linear.in_features, spec.num_classes, spec.bank)
        model.set_submodule(parts.head_name, votes)
    model.get_submodule(parts.head_name).register_forward_pre_hook(_unit)
    return model


def apart(model: nn.Module, spec: ModelSpec) -> Classifier | Parts:
    """Return a network that :func:`network` has built as features, head and logits.

    Raises :class:`UsageError` where no linear layer gives its logits.
    """
    if isinstance(model, Classifier):
        return model
    if not spec.bank:
        return taken_apart(model, spec)
    with torch.device(cheapest_device(spec.arch)):
        plain = network(spec.model_copy(update={"bank": 0}))
    return replace(taken_apart(plain, spec), network=model)


def cheapest_device(arch: str) -> str:
    """Return where a network is built to look at it; code of others need not know the device without memory."""
    listed = is_built_in(arch) and (arch not in MODELS or arch in DESIGNS)
    return "meta" if listed or arch.partition(":")[0] in SOURCES else "cpu"


def looked_at(spec: ModelSpec) -> nn.Module:
    """Build a network to look at its tensors, without memory for them wherever that is possible."""
    with suppress(UsageError):
        if opens_or_runs(spec.arch):
            with torch.device("meta"):
                return network(spec)
    with torch.device(cheapest_device(spec.arch)):
        return network(spec)


def _unit(_head: nn.Module, given: tuple[object, ...]) -> tuple[object, ...]:
    """Give a head features of unit length."""
    return tuple(F.normalize(one) for one in given)  # type: ignore[arg-type]


def opens_or_runs(arch: str) -> bool:
    """Return whether a name opens a folder, asks a hub or runs a function."""
    source = arch.partition(":")[0]
    if is_built_in(arch):
        return False
    return SOURCES[source].names is None if source in SOURCES else of_code.is_code(arch)


def require_followed(spec: ModelSpec) -> None:
    """Raise an error unless a network may be built: a listed one, or any that the user has typed in this call."""
    if not opens_or_runs(spec.arch):
        require_known(spec.arch)
    elif not spec.typed:
        shown = ascii(spec.arch)[1:-1][:100]
        raise CheckpointError(
            f"the network is stored as {shown}, which opens files or runs code: a stored name is not enough for that",
            f"if you trust it, name it yourself: --arch {shown}",
        )


def require_known(arch: str) -> None:
    """Raise :class:`UsageError` unless ``arch`` is a network of this package, or of a library that is installed."""
    source, _, name = arch.partition(":")
    if is_built_in(arch):
        return
    library = SOURCES.get(source)
    if library is None or library.names is None or library.has is None or not name:
        raise unknown("model", arch, MODELS)
    if not library.has(name):
        near = get_close_matches(name, library.names(), n=3)
        hint = f"did you mean {', '.join(f'{source}:{one}' for one in near)}?" if near else f"see {source}'s list"
        raise UsageError(f"{source} has no network {name[:100]!r}", hint)


def require_named(arch: str) -> None:
    """Raise :class:`UsageError` for a name that the user has typed and that is none of any kind."""
    source, _, name = arch.partition(":")
    if source in SOURCES and not name:
        raise UsageError(f"the model {arch!r} has no name", f"write {SOURCES[source].about}")
    if not opens_or_runs(arch):
        require_known(arch)


def offered(source: str, name: str) -> bool:
    """Return whether a library that lists its networks is installed and has one of this name."""
    has = SOURCES[source].has
    try:
        return has is not None and has(name)
    except UsageError:
        return False


def configuration(arch: str) -> Configuration | None:
    """Return what the network's own configuration says of its images; None for networks that have none."""
    source, _, name = arch.partition(":")
    return None if is_built_in(arch) or source not in SOURCES else SOURCES[source].configuration(name)


def native(arch: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of a network of another library that the user has named."""
    source, _, name = arch.partition(":")
    return SOURCES[source].native(name, tensors) if source in SOURCES else tensors


def pretrained(spec: ModelSpec) -> nn.Module:
    """Build a network with its published weights; its head may be another than the specification's.

    Raises :class:`UsageError` where no weights are published for the name.
    """
    require_followed(spec)
    source, _, name = spec.arch.partition(":")
    if is_built_in(spec.arch) or source not in SOURCES:
        raise UsageError(
            f"no weights are published for {spec.arch}", "give init a weight file, or name a network of timm: or hf:"
        )
    return SOURCES[source].pretrained(name, spec)


def lines() -> list[str]:
    """Return a line for every way of naming a network: this package's names, then the sources and what they need."""
    found = {name: find_spec(source.package) is not None for name, source in SOURCES.items()}
    state = {True: "installed", False: "not installed: pip install 'xeval-explanations[{}]'"}
    told = [f"{source.about} [{state[found[name]].format(source.package)}]" for name, source in SOURCES.items()]
    return [*sorted(MODELS), *told, CODE]
