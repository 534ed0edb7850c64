"""Networks of several builds, with one interface: normalised images in, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneChannel(nn.Module):
    """The image itself as the only channel, its mean, and the logits 2·mean and −mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False)
        self.conv.weight.data.fill_(1.0)
        self.head.weight.data = torch.tensor([[2.0], [-1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((-2, -1)))


class Plain(nn.Module):
    """Two convolutions with biases, pooling between them; every activation a module, in place if wanted."""

    def __init__(self, channels: int = 3, *, inplace: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, 1, 1)
        self.act1 = nn.ReLU(inplace=inplace)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(6, 8, 3, 1, 1)
        self.act2 = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.second(self.pool(self.act1(self.first(x)))))
        return self.head(x.mean((-2, -1)))


class DeepPools(nn.Sequential):
    """Pooling windows that overlap, the second one behind features that vary even where the image is constant."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 64, 4),
        )  # fmt: skip


class Functional(Plain):
    """The same with an activation that is no module."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(self.pool(torch.tanh(self.first(x)))))
        return self.head(x.mean((-2, -1)))


class Linear(nn.Module):
    """Logits that are a linear function of the pixels."""

    def __init__(self, channels: int = 3, side: int = 16) -> None:
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(channels * side * side, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(x))


def seeded(build: object, *arguments: object, **options: object) -> nn.Module:
    """``build(…)`` with weights from a fixed seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*arguments, **options).eval()  # type: ignore[operator]


def settled(model: nn.Module) -> nn.Module:
    """Give BatchNorm statistics and shifts that are not the identity, so that folding them wrongly is seen."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.3), (module.running_var, 0.7), (module.bias.data, -0.2)):
                tensor.copy_(low + 0.6 * torch.rand(tensor.shape, generator=generator))
    return model


def tiny_vit(side: int = 32) -> nn.Module:
    """torchvision's vision transformer of 4×4 patches, small; its head is 0."""
    from torchvision.models import VisionTransformer

    return seeded(
        VisionTransformer,
        image_size=side,
        patch_size=side // 4,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=4,
    )


OF_ATTENTION = ("attention-rollout", "gradient-attention")
"""Explainers of networks with attention between all of their tokens."""


def attentive(side: int = 16) -> nn.Module:
    """A vision transformer of 4×4 patches with a head that is not 0."""
    model = tiny_vit(side)
    with torch.no_grad():
        model.heads.head.weight.copy_(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
    return model


def torchvision_resnet() -> nn.Module:
    """torchvision's ResNet-18: in-place ReLUs, each used twice in its block."""
    from torchvision.models import resnet18

    return seeded(resnet18, num_classes=4)
