"""Build backbones, which are registered by name.

Residual networks follow He et al., "Deep residual learning for image recognition", CVPR 2016; parameter names are
those of torchvision. Every activation is a separate module that is used once, so that rules that hook modules work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

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


class BasicBlock(nn.Module):
    """A residual block that has two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inplanes, planes, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inplanes×H×W to N×planes×H/stride×W/stride."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A residual block that has 1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 convolution has the stride."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = _shortcut(inplanes, planes * 4, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inplanes×H×W to N×4·planes×H/stride×W/stride."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.downsample(x))  # type: ignore[no-any-return]


def _shortcut(inplanes: int, planes: int, stride: int) -> nn.Sequential:
    """Return the projection of the shortcut, empty (the identity, without parameters) where shapes already agree."""
    if stride == 1 and inplanes == planes:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class ResNet(nn.Module):
    """A residual network up to its last convolutional stage ``layer<n>``; it maps images to N×dim×h×w."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        in_channels: int = 3,
        width: int = 64,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride, padding = (7, 2, 3) if imagenet_stem else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet_stem else nn.Identity()
        planes = width
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for index in range(depth):
                step = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(planes, width * 2**stage, step))
                planes = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dim = planes
        self.last_stage = f"layer{len(depths)}"
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


def _resnet(name: str, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], **options: Any) -> None:
    @architecture(name)
    def build(channels: int) -> ResNet:
        return ResNet(block, depths, in_channels=channels, **options)


_resnet("resnet-small", BasicBlock, (1, 1, 1), width=16)
for _name, _block, _depths in (
    ("resnet18", BasicBlock, (2, 2, 2, 2)),
    ("resnet34", BasicBlock, (3, 4, 6, 3)),
    ("resnet50", Bottleneck, (3, 4, 6, 3)),
):
    _resnet(f"{_name}-cifar", _block, _depths)
    _resnet(_name, _block, _depths, imagenet_stem=True)


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
