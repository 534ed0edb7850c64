"""Decide which network a foreign file holds: what the user names, what the file names, what the shapes say."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from xeval.checkpoints.facts import arch_of
from xeval.checkpoints.layouts import Recognised, no_network, recognise
from xeval.checkpoints.libraries import as_network, require_network, search
from xeval.checkpoints.match import differences_from, fitting
from xeval.checkpoints.places import Choice
from xeval.checkpoints.sandbox import Foreign
from xeval.data import DatasetInfo
from xeval.errors import CheckpointError
from xeval.models import ModelSpec
from xeval.models.architectures import is_built_in
from xeval.models.sources import SOURCES, offered, require_named
from xeval.runtime.progress import Progress


def identify(
    path: Path, foreign: Foreign, info: DatasetInfo, arch: str | None, choice: Choice, progress: Progress
) -> tuple[Recognised, str]:
    """Return the network of a file and the name of its architecture, ``arch`` if the user names it.

    Otherwise a network of timm or torchvision counts that the file names and whose tensors it holds, then a residual
    network of any design, then the network of timm that has these tensors. Raises :class:`CheckpointError` or
    :class:`UsageError` where that leaves none or several.
    """
    if arch is not None:
        return _as_told(path, foreign, info, arch, choice), arch
    return _as_named(path, foreign, info, choice) or _by_shapes(path, foreign, info, choice, progress)


def _as_told(path: Path, foreign: Foreign, info: DatasetInfo, arch: str, choice: Choice) -> Recognised:
    require_named(arch)
    if not is_built_in(arch):
        return require_network(path, foreign, _spec(arch, info).named(arch), choice)
    found = recognise(path, foreign, len(info.classes), choice)
    if found is None:
        raise no_network(path, foreign)
    return found


def _as_named(path: Path, foreign: Foreign, info: DatasetInfo, choice: Choice) -> tuple[Recognised, str] | None:
    """Return the network of another library that the file names; the built-in ones are found by their shapes."""
    named = arch_of(foreign.fields)
    if named is None or is_built_in(named):
        return None
    for arch in (f"{source}:{named}" for source in SOURCES if offered(source, named)):
        if (found := as_network(path, foreign, _spec(arch, info), choice)) is not None:
            return found, arch
    return None


def _by_shapes(
    path: Path, foreign: Foreign, info: DatasetInfo, choice: Choice, progress: Progress
) -> tuple[Recognised, str]:
    found = recognise(path, foreign, len(info.classes), choice)
    fits = fitting(found.tensors, info.channels) if found else []
    if found and len(fits) == 1:
        return _compared(path, found, arch_of(foreign.fields), fits[0]), fits[0]
    if found and fits:
        raise CheckpointError(
            f"the tensors of {path} fit several architectures: {', '.join(fits)}", "name one with --arch"
        )
    other = search(path, foreign, _spec("", info), choice, progress)
    if other is not None:
        return other, other.layout
    raise _unknown(path, found, info) if found else no_network(path, foreign)


def _compared(path: Path, found: Recognised, named: str | None, arch: str) -> Recognised:
    """Add a note where the file names another architecture than the one that its tensors have.

    Raises:
        CheckpointError: timm is missing, which may have a network of that name: some have the tensors of another one
            and compute something else, as those with blurred pooling do.
    """
    if named in (None, arch):
        return found
    if named is not None and not is_built_in(named) and find_spec("timm") is None:
        raise CheckpointError(
            f"{path} names the network {named[:100]}, its tensors are those of {arch}, and without timm nobody sees "
            "whether the two are one",
            f"install it: pip install 'xeval-explanations[timm]', or name the network with --arch {arch}",
        )
    return replace(found, notes=(*found.notes, f"the file names {named}, its tensors are those of {arch}"))


def _unknown(path: Path, found: Recognised, info: DatasetInfo) -> CheckpointError:
    but = differences_from(found.tensors, info.channels)
    remedy = "save the whole state_dict(), or name the network with --arch (see: xeval list models)"
    if find_spec("timm") is None:
        remedy = f"{remedy}; those of timm need: pip install 'xeval-explanations[timm]'"
    return CheckpointError(f"the network in {path} is none that is known{but}", remedy)


def _spec(arch: str, info: DatasetInfo) -> ModelSpec:
    return ModelSpec(arch=arch, num_classes=len(info.classes), in_channels=info.channels, image_size=info.size)
