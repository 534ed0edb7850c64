"""Build networks of other libraries by names such as ``timm:resnet26d`` or ``torchvision:densenet121``.

A library is imported when one of its networks is named, not before. Only names that it lists are passed on to it,
without pretrained weights: nothing is downloaded, and a name in a file can neither reach a hub nor a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from xeval.errors import UsageError, unknown
from xeval.models.architectures import MODELS, is_built_in
from xeval.models.classifier import ModelSpec, build


@dataclass(frozen=True)
class Source:
    """A library of networks: the names that it has, and how one of them is built for a specification."""

    names: Callable[[], Iterable[str]]
    build: Callable[[str, ModelSpec], nn.Module]


def network(spec: ModelSpec) -> nn.Module:
    """Build a network of this package or of another library, freshly initialised; it returns logits.

    Raises :class:`UsageError` for an unknown name, and where a library is missing or cannot build what is asked for.
    """
    require_known(spec.arch)
    source, _, name = spec.arch.partition(":")
    return build(spec) if is_built_in(spec.arch) else SOURCES[source].build(name, spec)


def require_known(arch: str) -> None:
    """Raise :class:`UsageError` unless ``arch`` is a network of this package, or of a library that is installed."""
    source, _, name = arch.partition(":")
    if is_built_in(arch):
        return
    if source not in SOURCES or not name:
        raise unknown("model", arch, MODELS)
    names = SOURCES[source].names()
    if name not in names:
        near = get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(f'{source}:{one}' for one in near)}?" if near else f"see {source}'s list"
        raise UsageError(f"{source} has no network {name[:100]!r}", hint)


def offered(source: str, name: str) -> bool:
    """Return whether a library is installed and has a network of this name."""
    try:
        return name in SOURCES[source].names()
    except UsageError:
        return False


def timm_names(present: Callable[[str], bool]) -> list[str]:
    """Return the networks of timm whose first layer and classifier are ``present``; none if timm is not installed."""
    try:
        timm = _timm()
    except UsageError:
        return []
    return [name for name in timm.list_models() if all(map(present, _ends(timm.get_pretrained_cfg(name))))]


def _ends(config: Any) -> list[str]:
    """Return the names of the first layers and of the classifiers in the configuration of a network of timm."""
    both = [getattr(config, "first_conv", None), getattr(config, "classifier", None)]
    return [name for part in both for name in ([part] if isinstance(part, str) else part or [])]


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UsageError(
            "networks of timm need the package timm", "install it: pip install 'xeval-explanations[timm]'"
        ) from None
    return timm


def _of_timm(name: str, spec: ModelSpec) -> nn.Module:
    timm = _timm()
    config = timm.get_pretrained_cfg(name)
    other_size = getattr(config, "fixed_input_size", False) and config.input_size[-1] != spec.image_size
    size = {"img_size": spec.image_size} if other_size else {}
    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=spec.num_classes, in_chans=spec.in_channels, **size
    )
    return model


def _of_torchvision(name: str, spec: ModelSpec) -> nn.Module:
    from torchvision import models

    if spec.in_channels != 3:
        raise UsageError(
            f"torchvision's networks take 3 channels, these images have {spec.in_channels}", "check --dataset"
        )
    model: nn.Module = models.get_model(name, weights=None, num_classes=spec.num_classes)
    return model


def _names_of_torchvision() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


SOURCES = {
    "timm": Source(lambda: _timm().list_models(), _of_timm),
    "torchvision": Source(_names_of_torchvision, _of_torchvision),
}
