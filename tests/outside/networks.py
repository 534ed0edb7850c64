"""Small modules that behave like networks from elsewhere, and images and labels for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES, SIDE = 4, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(n: int = 12, side: int = SIDE) -> Tensor:
    """Images in [0, 1], smooth enough that maps differ."""
    noise = torch.rand(n, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(noise, (side, side), mode="bilinear").clamp(0, 1)


def labels(n: int = 12) -> Tensor:
    return torch.arange(n) % CLASSES


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


class Plain(nn.Module):
    """Two convolutions, pooling, a linear layer; ``last`` is put behind it."""

    def __init__(self, last: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), norm or nn.Identity(), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)
        )
        self.head = nn.Linear(8, CLASSES)
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(8 * self.head(self.features(x).mean((-2, -1))))


class DropsAlways(nn.Module):
    """Dropout that evaluation mode does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class Volumes(nn.Module):
    """A 3-D convolution over a stack of shifted copies: weights of rank 5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.flat = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        volume = torch.stack([x, x.roll(1, -1)], 2)
        return self.head(self.flat(self.conv(volume).mean(2)).mean((-2, -1)))
