"""Small scenes with a known truth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xeval.engine import Engine
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import Explained, Scene
from xeval.metrics.scene import Again
from xeval.models import ModelSpec, build
from xeval.perturb.draws import image_keys

SIDE = 16


class MeanOfPixels(nn.Module):
    """Two classes; logit 0 is ``gain`` times the mean of the pixels inside ``where`` (H×W), logit 1 is 0."""

    def __init__(self, where: Tensor, gain: float = 6.0) -> None:
        super().__init__()
        self.register_buffer("where", where.float())
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        inside = (images.mean(1) * self.where).sum((-2, -1)) / self.where.sum()
        return torch.stack([self.gain * inside, torch.zeros_like(inside)], 1)


def region(side: int = SIDE) -> Tensor:
    """A square of a quarter of the area, away from the centre."""
    where = torch.zeros(side, side)
    where[1 : 1 + side // 2, 1 : 1 + side // 2] = 1
    return where


def small_model(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Module:
    """A freshly initialised small residual network in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(ModelSpec(arch="resnet-small", num_classes=classes, in_channels=channels, image_size=SIDE)).eval()


def images(n: int, channels: int = 3, side: int = SIDE, seed: int = 0) -> Tensor:
    """Normalised random images."""
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def scene_of(
    model: nn.Module, x: Tensor, *, batch_size: int = 64, ids: list[str] | None = None, fill: Tensor | None = None
) -> Scene:
    """The scene of normalised images with an object in :func:`region`; the explained class is the predicted one."""
    channels = x.shape[1]
    return Scene.of(
        Engine(model, batch_size=batch_size),
        x,
        image_keys(ids or [f"image-{i}" for i in range(len(x))]),
        fill=fill,
        pixel=torch.full((channels, 1, 1), 4.0),
        mean=torch.full((channels, 1, 1), 0.5),
        masks=region(x.shape[-1]).bool().repeat(len(x), 1, 1, 1),
    )


def live(scene: Scene, explainer: str = "grad-cam") -> Explained:
    """An explainer at work in a scene, on whatever images, classes and network are asked for."""
    about = EXPLAINERS[explainer]

    def maps(x: Tensor, _number: int, *, targets: Tensor | None = None, model: nn.Module | None = None) -> Tensor:
        network = scene.engine.model if model is None else model
        classes = scene.targets if targets is None else targets
        return about.explain(network, network.pooled_layer, x, classes)

    return Explained(scene, maps(scene.images, 0), maps, units=about.units)


def explained(scene: Scene, maps: Tensor, again: Again | None = None) -> Explained:
    """Fixed maps N×1×h×w, the same for every perturbed image unless ``again`` says otherwise."""
    return Explained(scene, maps, again or (lambda _images, _number, **_: maps))


def control(scene: Scene, name: str, reference: Explained, draw: int = 0) -> Explained:
    """One draw of a control explainer."""
    about = CONTROLS[name]

    def maps(x: Tensor, number: int, **_: object) -> Tensor:
        return about.draw(x, reference.native, scene.keys, draw + about.draws * number)

    return Explained(scene, maps(scene.images, 0), maps, symmetric=about.symmetric)
