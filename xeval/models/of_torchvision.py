"""Classifiers of torchvision, as ``torchvision:NAME``."""

from __future__ import annotations

from typing import Any

from torch import nn

from xeval.errors import UsageError
from xeval.models.classifier import ModelSpec
from xeval.models.configuration import Configuration


def _models() -> Any:
    from torchvision import models

    return models


def names() -> list[str]:
    """Return all classifiers."""
    return list(_models().list_models(module=_models()))


def has(name: str) -> bool:
    """Return whether torchvision has a classifier of this name."""
    return name in names()


def build(name: str, spec: ModelSpec) -> nn.Module:
    """Build a network with fresh weights; raise :class:`UsageError` for images without three channels."""
    if spec.in_channels != 3:
        raise UsageError(
            f"torchvision's networks take 3 channels, these images have {spec.in_channels}", "check --dataset"
        )
    options = {"image_size": spec.image_size} if name.startswith("vit_") else {}
    model: nn.Module = _models().get_model(name, weights=None, num_classes=spec.num_classes, **options)
    return model


def pretrained(name: str, spec: ModelSpec) -> nn.Module:
    """Build a network with its published weights, all classes of them."""
    if spec.in_channels != 3:
        raise UsageError("torchvision's weights take 3 channels", "choose another data set, or leave out init")
    model: nn.Module = _models().get_model(name, weights="DEFAULT")
    return model


def configuration(name: str) -> Configuration | None:
    """Return what belongs to a network's default weights; None where it has none."""
    weights = getattr(_models().get_model_weights(name), "DEFAULT", None)
    if weights is None:
        return None
    used = weights.transforms()
    return Configuration(
        tuple(used.mean),
        tuple(used.std),
        used.crop_size[0],
        used.interpolation.value,
        used.crop_size[0] / used.resize_size[0],
        len(weights.meta["categories"]),
    )
