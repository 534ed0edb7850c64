"""Build backbones, which are registered by name.

Residual networks follow He et al., "Deep residual learning for image recognition", CVPR 2016; parameter names are
those of torchvision. Every activation is a separate module that is used once, so that rules that hook modules work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn

from xeval.models.designs import EXPANSION, Design, design_named
from xeval.registry import Registry

Builder = Callable[[int], nn.Module]
Built = TypeVar("Built", bound=Builder)
MODELS: Registry[Builder] = Registry("model")


def architecture(name: str) -> Callable[[Built], Built]:
    """Register a function or class under ``name`` that builds a backbone from its number of input channels."""

    def decorate(builder: Built) -> Built:
        MODELS.add(name, builder, builder)
        return builder

    return decorate


def is_built_in(arch: str) -> bool:
    """Return whether ``arch`` is a registered name or spells out the design of a residual network."""
    return arch in MODELS or design_named(arch) is not None


def backbone(arch: str, channels: int) -> nn.Module:
    """Build the backbone of that name; raise :class:`UsageError` for an unknown one."""
    design = design_named(arch)
    return MODELS[arch](channels) if design is None else ResNet(design, channels)


class BasicBlock(nn.Module):
    """A residual block that has two 3×3 convolutions and a shortcut."""

    def __init__(self, inplanes: int, planes: int, stride: int, design: Design) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inplanes, planes, stride, pooled=design.pooled)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inplanes×H×W to N×planes×H/stride×W/stride."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A residual block that has 1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 convolution has the stride."""

    def __init__(self, inplanes: int, planes: int, stride: int, design: Design) -> None:
        super().__init__()
        inner = design.inner * planes // design.planes
        self.conv1 = nn.Conv2d(inplanes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=design.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = _shortcut(inplanes, planes * 4, stride, pooled=design.pooled)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inplanes×H×W to N×4·planes×H/stride×W/stride."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.downsample(x))  # type: ignore[no-any-return]


def _shortcut(inplanes: int, planes: int, stride: int, *, pooled: bool) -> nn.Sequential:
    """Return the projection of the shortcut, empty (the identity, without parameters) where shapes already agree."""
    if stride == 1 and inplanes == planes:
        return nn.Sequential()
    if not pooled:
        return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, nn.Conv2d(inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes))


def _stem(in_channels: int, design: Design) -> nn.Module:
    """Return one convolution (7×7, or 3×3 at the size of the image), or three of 3×3 with what lies between them."""
    if len(design.stem) == 1:
        kernel, stride, padding = (3, 1, 1) if design.cifar else (7, 2, 3)
        return nn.Conv2d(in_channels, design.stem[0], kernel, stride, padding, bias=False)
    first, second, third = design.stem
    return nn.Sequential(
        nn.Conv2d(in_channels, first, 3, 2, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, 1, 1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.Conv2d(second, third, 3, 1, 1, bias=False),
    )


class ResNet(nn.Module):
    """A residual network up to its last convolutional stage ``layer<n>``; it maps images to N×dim×h×w."""

    def __init__(self, design: Design, in_channels: int = 3) -> None:
        super().__init__()
        block = Bottleneck if design.block == "bottleneck" else BasicBlock
        self.conv1 = _stem(in_channels, design)
        self.bn1 = nn.BatchNorm2d(design.stem[-1])
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if design.cifar else nn.MaxPool2d(3, 2, 1)
        inplanes = design.stem[-1]
        for stage, depth in enumerate(design.depths):
            planes = design.planes * 2**stage
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(block(inplanes, planes, 2 if stage > 0 and index == 0 else 1, design))
                inplanes = planes * EXPANSION[design.block]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dim = inplanes
        self.last_stage = f"layer{len(design.depths)}"
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images N×C×H×W to the last stage's output N×dim×h×w."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        return x


DESIGNS: dict[str, Design] = {}
"""The designs that have a name of their own."""


def _resnet(name: str, design: Design) -> None:
    @architecture(name)
    def build(channels: int) -> ResNet:
        return ResNet(design, channels)

    DESIGNS[name] = design


def _resnets() -> Iterator[tuple[str, Design]]:
    """Yield the networks of torchvision and of timm, under the names that they have there."""
    eighteen, fifty = (2, 2, 2, 2), (3, 4, 6, 3)
    deep: dict[str, Any] = {"stem": (32, 32, 64), "pooled": True}
    tiered: dict[str, Any] = {"stem": (24, 32, 64), "pooled": True}
    yield "resnet101", Design("bottleneck", (3, 4, 23, 3))
    yield "resnet152", Design("bottleneck", (3, 8, 36, 3))
    yield "wide_resnet50_2", Design("bottleneck", fifty, inner=128)
    yield "wide_resnet101_2", Design("bottleneck", (3, 4, 23, 3), inner=128)
    yield "resnext50_32x4d", Design("bottleneck", fifty, inner=128, groups=32)
    yield "resnext101_32x8d", Design("bottleneck", (3, 4, 23, 3), inner=256, groups=32)
    yield "resnext101_64x4d", Design("bottleneck", (3, 4, 23, 3), inner=256, groups=64)
    yield "resnet10t", Design("basic", (1, 1, 1, 1), **tiered)
    yield "resnet14t", Design("bottleneck", (1, 1, 1, 1), **tiered)
    yield "resnet26", Design("bottleneck", eighteen)
    yield "resnet26t", Design("bottleneck", eighteen, **tiered)
    yield "resnet18d", Design("basic", eighteen, **deep)
    yield "resnet26d", Design("bottleneck", eighteen, **deep)
    yield "resnet34d", Design("basic", fifty, **deep)
    yield "resnet50d", Design("bottleneck", fifty, **deep)
    yield "resnet101d", Design("bottleneck", (3, 4, 23, 3), **deep)
    yield "resnet152d", Design("bottleneck", (3, 8, 36, 3), **deep)


_resnet("resnet-small", Design("basic", (1, 1, 1), planes=16, inner=16, stem=(16,), cifar=True))
for _name, _design in (
    ("resnet18", Design("basic", (2, 2, 2, 2))),
    ("resnet34", Design("basic", (3, 4, 6, 3))),
    ("resnet50", Design("bottleneck", (3, 4, 6, 3))),
):
    _resnet(f"{_name}-cifar", replace(_design, cifar=True))
    _resnet(_name, _design)
for _name, _design in _resnets():
    _resnet(_name, _design)


@architecture("cnn-tiny")
class TinyCNN(nn.Module):
    """Two convolutions: the cheapest network with a spatial map, for tests and for measuring overhead."""

    dim = 16
    last_stage = "stage"

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map images N×C×H×W to N×16×H/4×W/4."""
        return self.stage(self.stem(x))  # type: ignore[no-any-return]
