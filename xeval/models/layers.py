"""Find the layers of a network by name: the one whose maps are explained by default, and that of the ExCon paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.models.architectures import Bottleneck, ResNet
from xeval.models.classifier import Classifier
from xeval.models.layout import Evidence
from xeval.models.watch import Call, calls_and_slopes, same, two_examples

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.Identity)


def last_conv_stage(model: nn.Module, images: Tensor) -> str:
    """Return the name of the last layer whose positions the score still reads, which is explained by default.

    In a convolutional network it is the outermost module that gives the last feature map with more than one position,
    channels first or last; pooling does not count. In a vision transformer that classifies the mean of its tokens it
    gives the last tokens. Where only class tokens are classified, no patch counts behind the last attention: then it
    is what that attention is given, by custom the norm in front of it (``blocks.11.norm1``).

    It is found by one forward and one backward pass of an example of the size of ``images``: the last tensor at whose
    patches the gradient of the score is not 0 or, where it lies inside a module that is given tokens and gives back
    none that count, those tokens. Where the score has no gradient at all, every map counts.

    Raises:
        UsageError: the network has no spatial feature map and no tokens whose grid is known.
    """
    if isinstance(model, Classifier):
        return model.pooled_layer
    reading = _read(model, images)
    last = next((call for call in reversed(reading.named) if reading.counts(call)), None)
    if last is None:
        raise UsageError("the network has no spatial feature map to explain", "name a layer with --layer")
    return reading.outermost(reading.in_front_of_attention(last))


@dataclass(frozen=True)
class _Reading:
    """What was seen in one pass: all calls, those of layers that can be named, and the score's gradient."""

    names: dict[nn.Module, str]
    seen: list[Call]
    named: list[Call]
    slopes: dict[int, Tensor]
    evidence: Evidence

    def counts(self, call: Call) -> bool:
        """Return whether a call makes maps or tokens, and the score depends on some of their patches."""
        slope = self.slopes.get(id(call.made)) if self.slopes else torch.ones_like(call.made)
        if slope is None:
            return False
        try:
            grid = self.evidence.grid(call.module, call.made)(slope)
        except UsageError:
            return False
        return grid[0, 0].numel() > 1 and bool(grid.any())

    def in_front_of_attention(self, call: Call) -> Call:
        """Return the tokens that the module around a call was given, if the score depends on none that it gave.

        Where such a module was given what the call itself made, it is the call.
        """
        if any(same(call.made, part) and not self.counts(one) for one in self.seen for part in one.given):
            return call
        for outer in self._around(call):
            tokens = next((one for one in self.named if self._are_tokens_for(outer, one)), None)
            if tokens is not None and not self.counts(outer):
                return tokens
        return call

    def _are_tokens_for(self, outer: Call, one: Call) -> bool:
        given = one.made.ndim == 3 and any(same(one.made, part) for part in outer.given)
        return given and self.counts(one)

    def _around(self, call: Call) -> Iterator[Call]:
        """Yield the calls that a call was made in, inner ones first."""
        place = next(number for number, one in enumerate(self.seen) if one is call)
        yield from (outer for outer in self.seen[place + 1 :] if outer.begun <= place)

    def outermost(self, call: Call) -> str:
        """Return the name of the outermost of the modules that give what a call has made."""
        names = [self.names[one.module] for one in self.named if one.made is call.made]
        return min(names, key=lambda name: name.count("."))


def _read(model: nn.Module, images: Tensor) -> _Reading:
    two = two_examples(images)
    seen, slopes = calls_and_slopes(model, two)
    names = {module: name for name, module in model.named_modules() if name and not isinstance(module, POOLS)}
    last = {call.module: call for call in seen}
    named = [call for call in seen if call.alone and call.module in names and last[call.module] is call]
    return _Reading(names, seen, named, slopes, Evidence(model, two))


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
