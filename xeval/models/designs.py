"""Describe a residual network of any depth and width in a few numbers, and read them from the shapes of its tensors.

He et al., "Deep residual learning for image recognition", CVPR 2016; wide networks: Zagoruyko and Komodakis, BMVC 2016;
ResNeXt: Xie et al., CVPR 2017; the stem of three convolutions and the pooled shortcut ("-D"): He et al., "Bag of tricks
for image classification with convolutional neural networks", CVPR 2019.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Literal

Shape = tuple[int, ...]
EXPANSION = {"basic": 1, "bottleneck": 4}
MAX_STAGES, MAX_DEPTH, MAX_CHANNELS = 8, 400, 8192
NAME = re.compile(
    r"resnet:(?P<block>basic|bottleneck),(?P<depths>\d+(?:-\d+)*),(?P<planes>\d+),(?P<inner>\d+)x(?P<groups>\d+),"
    r"(?P<stem>\d+(?:-\d+-\d+)?)(?P<cifar>,cifar)?(?P<pooled>,pooled)?"
)


@dataclass(frozen=True)
class Design:
    """The numbers of a residual network.

    ``planes`` are the channels of the first stage, before the expansion of a bottleneck; ``inner`` are those of its 3×3
    convolutions, in ``groups``. Both double with every stage. ``stem`` are the widths of one convolution, or of three.
    With ``cifar`` the stem keeps the size of the image. ``pooled`` shortcuts average before their 1×1 convolution.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    planes: int = 64
    inner: int = 64
    groups: int = 1
    stem: tuple[int, ...] = (64,)
    cifar: bool = False
    pooled: bool = False

    @property
    def dim(self) -> int:
        """The number of features."""
        return (self.planes << len(self.depths) - 1) * EXPANSION[self.block]

    @property
    def name(self) -> str:
        """All numbers as a text that :func:`design_named` reads, such as ``resnet:bottleneck,3-4-6-3,64,64x1,64``."""
        depths, stem = ("-".join(map(str, numbers)) for numbers in (self.depths, self.stem))
        options = f"{',cifar' * self.cifar}{',pooled' * self.pooled}"
        return f"resnet:{self.block},{depths},{self.planes},{self.inner}x{self.groups},{stem}{options}"


def design_named(name: str) -> Design | None:
    """Return the design that a name spells out, None for other names and for numbers that no network has."""
    found = NAME.fullmatch(name)
    if found is None or len(name) > 100:
        return None
    design = Design(
        block="basic" if found["block"] == "basic" else "bottleneck",
        depths=tuple(map(int, found["depths"].split("-"))),
        planes=int(found["planes"]),
        inner=int(found["inner"]),
        groups=int(found["groups"]),
        stem=tuple(map(int, found["stem"].split("-"))),
        cifar=found["cifar"] is not None,
        pooled=found["pooled"] is not None,
    )
    return design if _possible(design) else None


def _possible(design: Design) -> bool:
    channels = (design.dim, design.inner, *design.stem)
    return (
        len(design.depths) <= MAX_STAGES
        and all(0 < depth <= MAX_DEPTH for depth in design.depths)
        and all(0 < number <= MAX_CHANNELS for number in channels)
        and design.groups > 0
        and design.inner % design.groups == 0
    )


def design_of(shapes: Mapping[str, Shape]) -> Design | None:
    """Return the design of a backbone with tensors of these shapes, None where there is no residual network.

    The first block of each stage tells everything, so other tensors may still differ from the design's.
    """
    depths = tuple(takewhile(bool, (_depth(shapes, stage) for stage in count(1))))
    stem = _stem(shapes)
    conv2 = shapes.get("layer1.0.conv2.weight", ())
    block: Literal["basic", "bottleneck"] = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    last = shapes.get("layer1.0.conv3.weight", conv2)
    if not depths or not stem or len(conv2) != 4 or len(last) != 4 or 0 in (*conv2, *last):
        return None
    design = Design(
        block=block,
        depths=depths,
        planes=last[0] // EXPANSION[block],
        inner=conv2[0],
        groups=conv2[0] // conv2[1] if block == "bottleneck" else 1,
        stem=stem,
        cifar=len(stem) == 1 and shapes["conv1.weight"][-1] == 3,
        pooled=any(re.fullmatch(r"layer\d+\.0\.downsample\.2\.weight", name) for name in shapes),
    )
    return design if _possible(design) else None


def _depth(shapes: Mapping[str, Shape], stage: int) -> int:
    return next(block for block in count() if f"layer{stage}.{block}.conv1.weight" not in shapes)


def _stem(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    """Return the widths of the stem's convolutions, empty if it is none of the two kinds."""
    for names in (("conv1.weight",), ("conv1.0.weight", "conv1.3.weight", "conv1.6.weight")):
        found = [shapes.get(name, ()) for name in names]
        if all(len(shape) == 4 for shape in found):
            return tuple(shape[0] for shape in found)
    return ()
