"""Backbones, the classifier around them, the lookup of the last convolutional stage and the frozen evaluation mode.

Residual networks follow He et al., "Deep residual learning for image recognition", CVPR 2016; parameter names are
torchvision's. Every activation is a module of its own (none is used twice), so rules that hook modules work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.errors import UsageError, XevalError
from xeval.registry import Registry


class ModelSpec(BaseModel):
    """All that is needed to build a classifier; it travels with the checkpoint. ``bank``: examples of a k-NN head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    num_classes: int = Field(ge=2)
    in_channels: int = Field(default=3, ge=1, le=1024)
    image_size: int = Field(ge=1)
    normalize_features: bool = False
    bank: int = Field(default=0, ge=0)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

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
        """N×inplanes×H×W → N×planes×H/stride×W/stride."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1, 3×3 (which strides), 1×1 convolutions and a shortcut."""

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
        """N×inplanes×H×W → N×4·planes×H/stride×W/stride."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.downsample(x))  # type: ignore[no-any-return]


def _shortcut(inplanes: int, planes: int, stride: int) -> nn.Sequential:
    """The projection of the shortcut; empty (the identity, without parameters) where shapes already agree."""
    if stride == 1 and inplanes == planes:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class ResNet(nn.Module):
    """A residual network up to its last convolutional stage ``layer<n>``: images → N×dim×h×w."""

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
        """Images N×C×H×W → the last stage's output N×dim×h×w."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        return x


class TinyCNN(nn.Module):
    """Two convolutions: the cheapest network with a spatial map, for tests and for measuring overhead."""

    dim = 16
    last_stage = "stage"

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Images N×C×H×W → N×16×H/4×W/4."""
        return self.stage(self.stem(x))  # type: ignore[no-any-return]


Builder = Callable[[int], nn.Module]
MODELS: Registry[Builder] = Registry("model")


def _resnet(name: str, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], **options: Any) -> None:
    MODELS.add(name, lambda channels: ResNet(block, depths, in_channels=channels, **options), __file__)


_resnet("resnet-small", BasicBlock, (1, 1, 1), width=16)
for _name, _block, _depths in (
    ("resnet18", BasicBlock, (2, 2, 2, 2)),
    ("resnet34", BasicBlock, (3, 4, 6, 3)),
    ("resnet50", Bottleneck, (3, 4, 6, 3)),
):
    _resnet(f"{_name}-cifar", _block, _depths)
    _resnet(_name, _block, _depths, imagenet_stem=True)
MODELS.add("cnn-tiny", TinyCNN, __file__)


class NearestNeighbours(nn.Module):
    """A head that lets the k most similar stored examples vote (Z. Wu et al., "Unsupervised feature learning via
    non-parametric instance discrimination", CVPR 2018).

    logit_c = log Σ_j exp(cos_j / τ) over the examples j of class c among the k nearest by cosine, so that the softmax
    is the share of the votes; a class without a vote gets log(ε).
    """

    def __init__(self, dim: int, num_classes: int, examples: int, *, k: int = 20, temperature: float = 0.07) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(examples, dim))
        self.register_buffer("labels", torch.zeros(examples, dtype=torch.int64))
        self.bank: Tensor
        self.labels: Tensor
        self.num_classes = num_classes
        self.k = min(k, examples)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Unit features N×dim → logits N×classes."""
        similarity, nearest = (features @ self.bank.T).topk(self.k, dim=1)
        votes = torch.exp((similarity - 1) / self.temperature)
        total = torch.zeros(len(features), self.num_classes, dtype=votes.dtype, device=votes.device)
        return torch.log(total.scatter_add(1, self.labels[nearest], votes) + 1e-12)


class Classifier(nn.Module):
    """A backbone, global average pooling and a head, which is linear unless another one is given.

    With ``normalize_features`` the head sees features of unit length (the probes of the 2026 paper); the same switch
    holds in training and in scoring because it is part of the :class:`ModelSpec`.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, *, normalize_features: bool = False, bank: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        dim = int(backbone.dim)  # type: ignore[arg-type]
        self.head: nn.Module = NearestNeighbours(dim, num_classes, bank) if bank else nn.Linear(dim, num_classes)
        self.normalize_features = normalize_features

    @property
    def linear(self) -> nn.Linear:
        """The linear head; raises :class:`UsageError` where the head is of another kind."""
        if not isinstance(self.head, nn.Linear):
            raise UsageError("the classifier has no linear head", "use one that was trained with a linear head")
        return self.head

    @property
    def pooled_layer(self) -> str:
        """Name of the module whose output is the input of the global average pooling."""
        return f"backbone.{self.backbone.last_stage}"

    def stages(self, images: Tensor) -> Tensor:
        """The last convolutional stage's output, N×K×h×w."""
        return self.backbone(images)  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Pooled features without normalisation, N×K."""
        return self.stages(images).mean((-2, -1))

    def logits(self, features: Tensor) -> Tensor:
        """Logits N×classes of pooled features N×K."""
        return self.head(F.normalize(features) if self.normalize_features else features)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×classes."""
        return self.logits(self.features(images))


def build(spec: ModelSpec) -> Classifier:
    """A freshly initialised classifier; seed torch before the call for reproducible weights."""
    backbone = MODELS[spec.arch](spec.in_channels)
    return Classifier(
        backbone, spec.num_classes, normalize_features=spec.normalize_features or spec.bank > 0, bank=spec.bank
    )


def last_conv_stage(model: nn.Module, example: Tensor) -> str:
    """Name of the outermost module that produces the last spatial feature map (N×K×h×w with h·w > 1 or K > 1).

    Found by watching one forward pass of ``example``; pooling to a single position does not count. Raises
    :class:`UsageError` for a network without a spatial feature map, or with tokens behind it (a vision transformer).
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
        raise UsageError("the network works on tokens behind its last feature map", "use a gradient explainer")
    return next(name for name, out in sorted(spatial, key=lambda pair: pair[0].count(".")) if out is last)


def excon_layer(model: nn.Module, size: int) -> str:
    """The convolution that the ExCon paper explains, before BatchNorm and the residual sum.

    The last convolution of the stage whose map has half the image's side at 32 px (``layer2``: 16×16), of the last
    stage at 64 px; ResNet-50 ``conv3``, ResNet-18 ``conv2``. Raises :class:`UsageError` for other networks and sizes.
    """
    stages = {32: "layer2", 64: "layer4"}
    if isinstance(model, Classifier) and isinstance(model.backbone, ResNet) and size in stages:
        blocks = dict(model.backbone.named_children()).get(stages[size])
        if isinstance(blocks, nn.Sequential):
            last = len(blocks) - 1
            conv = "conv3" if isinstance(blocks[last], Bottleneck) else "conv2"
            return f"backbone.{stages[size]}.{last}.{conv}"
    raise UsageError("the ExCon paper defines no layer for this network and image size", "name one with --layer")


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with a guarantee: parameters' training flags come back, and no buffer changes by a byte.

    Raises :class:`XevalError` when BatchNorm statistics (or any other buffer) changed inside.
    """
    modes = {module: module.training for module in model.modules()}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    try:
        yield
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
        if changed:
            raise XevalError(
                f"scoring changed the model's buffer {changed[0]!r}", "use a model whose eval mode leaves buffers alone"
            )
    finally:
        for module, mode in modes.items():
            module.training = mode


def reinitialized(model: nn.Module, seed: int) -> nn.Module:
    """A copy in evaluation mode whose layers have drawn their initial weights anew; the model itself stays as it is.

    Drawn on the host, so every device gets the same weights; torch's random state is put back. Parameters that no layer
    knows how to reset (class tokens, positions) are shuffled.
    """
    device = next(model.parameters()).device
    fresh = copy.deepcopy(model)
    if device.type != "meta":  # which has nothing to move
        fresh = fresh.cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), device=parameter.device)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return fresh.to(device).eval()
