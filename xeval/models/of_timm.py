"""Networks of timm, as ``timm:NAME``; a name may have the tag of its weights behind a dot, as timm writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from xeval.errors import UsageError
from xeval.models.classifier import ModelSpec
from xeval.models.configuration import Configuration


def timm() -> Any:
    """Return the package; raise :class:`UsageError` that says how to install it where it is missing."""
    try:
        import timm as package
    except ImportError:
        raise UsageError(
            "networks of timm need the package timm", "install it: pip install 'xeval-explanations[timm]'"
        ) from None
    return package


def names() -> list[str]:
    """Return all networks."""
    return list(timm().list_models())


def has(name: str) -> bool:
    """Return whether timm lists a name, with or without the tag of published weights; its other forms reach a hub."""
    plain, dot, _ = name.partition(".")
    return plain in names() and (not dot or name in timm().list_models(pretrained=True))


def matching(present: Callable[[str], bool]) -> list[str]:
    """Return the networks whose first layer and classifier are ``present``; none if timm is not installed."""
    try:
        package = timm()
    except UsageError:
        return []
    return [name for name in names() if all(map(present, _ends(package.get_pretrained_cfg(name))))]


def _ends(config: Any) -> list[str]:
    """Return the names of the first layers and of the classifiers in the configuration of a network."""
    both = [getattr(config, "first_conv", None), getattr(config, "classifier", None)]
    return [name for part in both for name in ([part] if isinstance(part, str) else part or [])]


def build(name: str, spec: ModelSpec) -> nn.Module:
    """Build a network with fresh weights."""
    return _created(name, spec, pretrained=False)


def pretrained(name: str, spec: ModelSpec) -> nn.Module:
    """Build a network with published weights and a fresh head."""
    return _created(name, spec, pretrained=True)


def _created(name: str, spec: ModelSpec, *, pretrained: bool) -> nn.Module:
    package = timm()
    config = package.get_pretrained_cfg(name)
    other_size = getattr(config, "fixed_input_size", False) and tuple(config.input_size[1:]) != spec.shape[1:]
    size = {"img_size": spec.image_size} if other_size else {}
    model: nn.Module = package.create_model(
        name, pretrained=pretrained, num_classes=spec.num_classes, in_chans=spec.in_channels, **size
    )
    return model


def configuration(name: str) -> Configuration | None:
    """Return what timm's configuration says of a network's images; None where they are not square."""
    config = timm().get_pretrained_cfg(name)
    if config is None or config.input_size[-1] != config.input_size[-2]:
        return None
    return Configuration(
        tuple(config.mean),
        tuple(config.std),
        config.input_size[-1],
        config.interpolation,
        config.crop_pct,
        config.num_classes,
    )
