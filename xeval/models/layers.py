"""Find the layers of a network by name: the last convolutional stage and the layer that the ExCon paper explains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.models.architectures import Bottleneck, ResNet
from xeval.models.classifier import Classifier
from xeval.models.frozen import frozen_eval


def last_conv_stage(model: nn.Module, example: Tensor) -> str:
    """Return the name of the outermost module that produces the last spatial feature map (N×K×h×w with h·w > 1).

    One forward pass of ``example`` is watched to find it; pooling to a single position does not count.

    Raises:
        UsageError: the network has no spatial feature map, or tokens behind it (a vision transformer).
    """
    if isinstance(model, Classifier):
        return model.pooled_layer
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.append((name, out)))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.AvgPool2d | nn.Identity)
    ]
    try:
        with frozen_eval(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    outputs = [(name, out) for name, out in seen if isinstance(out, Tensor)]
    spatial = [(name, out) for name, out in outputs if out.ndim == 4 and out[0, 0].numel() > 1]
    if not spatial:
        raise UsageError("the network has no spatial feature map to explain", "name a layer with --layer")
    last = spatial[-1][1]
    after = outputs[max(place for place, (_, out) in enumerate(outputs) if out is last) :]
    if any(out.ndim == 3 for _, out in after):
        raise UsageError(
            "the network works on tokens behind its last feature map",
            "name a layer with --layer, such as the norm before its last attention, or use a gradient explainer",
        )
    return next(name for name, out in sorted(spatial, key=lambda pair: pair[0].count(".")) if out is last)


EXCON_LAYER = "excon-2022"  # in recipes and protocols: the layer that excon_layer names


def excon_layer(model: nn.Module, size: int | tuple[int, int]) -> str:
    """Return the name of the convolution that the ExCon paper explains, before BatchNorm and the residual sum.

    At 32 px, it is the last convolution of the stage whose map has half the image's side (``layer2``: 16×16); at 64 px,
    of the last stage. In ResNet-50 it is ``conv3``, in ResNet-18 ``conv2``.

    Raises:
        UsageError: the paper names no layer for this network and size.
    """
    stages: dict[object, str] = {32: "layer2", 64: "layer4"}
    if isinstance(model, Classifier) and isinstance(model.backbone, ResNet) and size in stages:
        blocks = dict(model.backbone.named_children()).get(stages[size])
        if isinstance(blocks, nn.Sequential):
            last = len(blocks) - 1
            conv = "conv3" if isinstance(blocks[last], Bottleneck) else "conv2"
            return f"backbone.{stages[size]}.{last}.{conv}"
    raise UsageError("the ExCon paper defines no layer for this network and image size", "name one with --layer")


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """Return the module called ``layer``; raise :class:`UsageError` that lists the known names for an unknown one."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if layer not in modules:
        from xeval.errors import unknown

        raise unknown("layer", layer, [name for name in modules if name])
    return modules[layer]
