"""Image classifiers of transformers, as ``hf:FOLDER`` (written by ``save_pretrained``) or ``hf:NAME`` of the hub.

Only the library's own classes are built: code that a folder or the hub brings along is never run, weights are read as
safetensors alone, and for a folder no network is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from xeval.errors import ResourceError, UsageError
from xeval.models.classifier import ModelSpec
from xeval.models.configuration import Configuration
from xeval.models.reading import Reading
from xeval.runtime.endings import first_line

T = TypeVar("T")
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # as Pillow numbers them


def transformers() -> Any:
    """Return the package; raise :class:`UsageError` that says how to install it where it is missing."""
    try:
        import transformers as package
    except ImportError:
        raise UsageError(
            "networks named hf: need the package transformers",
            "install it: pip install 'xeval-explanations[transformers]'",
        ) from None
    return package


def build(name: str, spec: ModelSpec) -> nn.Module:
    """Build a network with fresh weights as its configuration describes it, for other classes and sizes if need be."""
    package = transformers()
    config = _asked(name, package.AutoConfig.from_pretrained)
    if config.num_labels != spec.num_classes:
        config.num_labels = spec.num_classes
    for key, value in (("num_channels", spec.in_channels), ("image_size", spec.image_size)):
        if hasattr(config, key):
            setattr(config, key, value)
    kinds = package.AutoModelForImageClassification
    return _with_logits(_told(name, lambda: kinds.from_config(config, trust_remote_code=False, dtype=torch.float32)))


def pretrained(name: str, spec: ModelSpec) -> nn.Module:  # noqa: ARG001 - every source is asked alike
    """Build a network with its published weights, all classes of them."""
    kinds = transformers().AutoModelForImageClassification
    return _with_logits(_asked(name, kinds.from_pretrained, use_safetensors=True, dtype=torch.float32))


def native(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names that the network has in memory, where a file has those that the library stores.

    The library itself translates; tensors that are not this network's stay as they are.
    """
    config = _asked(name, transformers().AutoConfig.from_pretrained)
    with torch.device("meta"):
        network = _told(name, lambda: transformers().AutoModelForImageClassification.from_config(config))
    if tensors.keys() == network.state_dict().keys():
        return tensors
    try:
        model, found = type(network).from_pretrained(
            None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=torch.float32
        )
    except (RuntimeError, ValueError, OSError):
        return tensors
    return tensors if any(found.values()) else dict(model.state_dict())


def configuration(name: str) -> Configuration | None:
    """Return what the image processor beside a network says; None where there is none, or its images are not square."""
    package = transformers()
    config = _asked(name, package.AutoConfig.from_pretrained)
    read = package.image_processing_base.ImageProcessingMixin.get_image_processor_dict
    try:
        told, _ = _asked(name, read)
    except (UsageError, ResourceError):  # a network can be built without an image processor
        return None
    size = _side(told.get("crop_size") if told.get("do_center_crop") else None) or _side(told.get("size"))
    if size is None or not told.get("image_mean") or not told.get("image_std"):
        return None
    plain = told.get("do_normalize", True)
    return Configuration(
        tuple(told["image_mean"]) if plain else (0.0,),
        tuple(told["image_std"]) if plain else (1.0,),
        size,
        RESAMPLING.get(told.get("resample", 2), "unknown"),
        told.get("crop_pct") or 1.0,
        config.num_labels,
    )


def _side(size: Any) -> int | None:
    """Return the side of a square as an image processor writes it."""
    if isinstance(size, dict):
        sides = {size[key] for key in ("height", "width", "shortest_edge") if key in size}
        size = sides.pop() if len(sides) == 1 else None
    return size if isinstance(size, int) else None


def _asked(name: str, read: Callable[..., T], **options: Any) -> T:
    local = Path(name).is_dir()
    return _told(name, lambda: read(name, local_files_only=local, trust_remote_code=False, **options), local=local)


def _told(name: str, action: Callable[[], T], *, local: bool = True) -> T:
    """Return what the library gives; turn its errors into ours."""
    try:
        return action()
    except OSError as error:
        if local:
            raise UsageError(
                f"hf:{name} cannot be read ({first_line(error)})", "name a folder that save_pretrained has written"
            ) from None
        raise ResourceError(
            f"hf:{name} is no folder, and the hub does not give it ({first_line(error)})",
            "check the name and the connection, or name a folder that save_pretrained has written",
        ) from None
    except (ValueError, KeyError, ImportError, TypeError) as error:
        raise UsageError(
            f"hf:{name} is no image classifier that transformers builds by itself ({first_line(error)})",
            "name a model of its class AutoModelForImageClassification",
        ) from None


def _with_logits(model: Any) -> nn.Module:
    """Make a network answer with its logits alone."""
    model.register_forward_hook(Reading(key="logits", whole=True))
    network: nn.Module = model
    return network
