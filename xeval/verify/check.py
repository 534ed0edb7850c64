"""Defines what ``xeval verify`` compares: each native number with the same number from another library.

Both sides of a check get the same network, images, maps and draws, so a difference comes from the definition or the
code. Quantus reads float32 only; everything else is compared in float64, where rounding does not hide a difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from xeval.engine import Engine, softmax64
from xeval.explainers.base import Explainer
from xeval.metrics import METRICS, Explained, Scene, Values


class Probabilities(nn.Module):
    """A network that ends in the toolkit's float64 softmax, for libraries that would compute their own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities N×classes."""
        return softmax64(self.model(images))


@dataclass(frozen=True)
class Subject:
    """What is verified: the scene of the user's images and network, explained at ``layer``."""

    scene: Scene
    layer: str
    explainer: Explainer
    draws: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def model(self) -> nn.Module:
        """The network that is verified."""
        return self.scene.engine.model

    @property
    def images(self) -> Tensor:
        """The normalised images N×C×H×W."""
        return self.scene.images

    def one(self) -> Explained:
        """Return the explainer's maps with nothing computed yet: each side of a check makes its own passes."""
        engine, layer = self.scene.engine, self.layer
        return Explained.by(
            self.scene,
            lambda images, classes, model: engine.explain(self.explainer, layer, images, classes, model),
            units=self.explainer.units,
        )

    def tie_free(self, channels: int = 1) -> Tensor:
        """Return maps N×channels×H×W that rank like the explainer's but have no two equal values.

        They are float64 and 0 at the bottom. Within a position the first channel is the most relevant.
        """
        ranking = self.one().ranking.unsqueeze(1).double()
        offset = torch.arange(channels, device=ranking.device).reshape(1, -1, 1, 1)
        return self.scene.pixels * channels - 1 - (ranking * channels + offset)

    def values(self, metric: str, column: str, one: Explained | None = None, **settings: Any) -> Tensor:
        """Return a native column or curve, NaN where it is undefined; its draws are kept in ``draws``."""
        about = METRICS[metric]
        chosen = about.settings(**settings)
        shared = self.draws[metric] = about.prepare(self.scene, chosen)
        return defined(about.score(one or self.one(), chosen, shared)[column])

    @cached_property
    def exact(self) -> Subject:
        """The same subject in float64, on a copy of the network; on the host where the device has no float64."""
        scene = self.scene
        device = torch.device("cpu") if scene.images.device.type == "mps" else scene.images.device
        model = copy.deepcopy(self.model).to(device).double().requires_grad_(True)
        engine = Engine(model, batch_size=scene.engine.batch_size)
        images, targets = scene.images.to(device).double(), scene.targets.to(device)
        moved = {name: getattr(scene, name).to(device) for name in ("keys", "labels")}
        exact = {name: getattr(scene, name).to(device).double() for name in ("fill", "pixel", "mean")}
        p0 = engine.probabilities(images).gather(1, targets[:, None])[:, 0]
        masks = None if scene.masks is None else scene.masks.to(device)
        scene = replace(scene, engine=engine, images=images, targets=targets, p0=p0, masks=masks, **moved, **exact)
        return Subject(scene, self.layer, self.explainer)


def defined(values: Values) -> Tensor:
    """Return the values with NaN where they are undefined."""
    value = values.value.clone()
    for where in values.undefined.values():
        value[where] = torch.nan
    return value


Side = Callable[[Subject], Tensor]


@dataclass(frozen=True)
class Check:
    """One comparison between a native number and another library's.

    ``package`` is what has to be importable; ``tolerance`` bounds |a − b| / max(1, |b|).
    """

    name: str
    oracle: str
    package: str
    tolerance: float
    native: Side
    other: Side
    needs_masks: bool = False
