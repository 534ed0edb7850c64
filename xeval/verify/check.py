"""What ``xeval verify`` compares: each native number beside the same number from another library.

Both sides of a check get the same network, images, maps and draws, so what differs is the definition or the code.
Quantus reads float32 only; everything else is compared in float64, where rounding does not blur a verdict.
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
    """The network with the toolkit's softmax in float64, for libraries that would compute their own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities N×classes."""
        return softmax64(self.model(images))


@dataclass(frozen=True)
class Subject:
    """What is verified: the scene of the user's images before the user's network, explained at ``layer``."""

    scene: Scene
    layer: str
    explainer: Explainer
    draws: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.scene.engine.model

    @property
    def images(self) -> Tensor:
        """Normalised images N×C×H×W."""
        return self.scene.images

    def one(self) -> Explained:
        """The explainer's maps, with nothing computed before: each side of a check pays for its own passes."""
        scene, engine = self.scene, self.scene.engine

        def maps(
            images: Tensor, _number: int, *, targets: Tensor | None = None, model: nn.Module | None = None
        ) -> Tensor:
            classes = scene.targets_of(images) if targets is None else targets
            return engine.explain(self.explainer, self.layer, images, classes, model)

        return Explained(scene, maps(scene.images, 0), maps, units=self.explainer.units, packed=True)

    def tie_free(self, channels: int = 1) -> Tensor:
        """Maps N×channels×H×W with the ranking of the explainer's and no two values equal; float64, 0 at the bottom.

        Within a position the first channel is the most relevant.
        """
        ranking = self.one().ranking.unsqueeze(1).double()
        offset = torch.arange(channels, device=ranking.device).reshape(1, -1, 1, 1)
        return self.scene.pixels * channels - 1 - (ranking * channels + offset)

    def values(self, metric: str, column: str, one: Explained | None = None, **settings: Any) -> Tensor:
        """A native column or curve, NaN where it is undefined; what was drawn for it stays in ``draws``."""
        about = METRICS[metric]
        chosen = about.settings(**settings)
        shared = self.draws[metric] = about.prepare(self.scene, chosen)
        return defined(about.score(one or self.one(), chosen, shared)[column])

    @cached_property
    def exact(self) -> Subject:
        """The same in float64, on a copy of the network; on the host where the device has no float64."""
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
    """The values with NaN where they are undefined."""
    value = values.value.clone()
    for where in values.undefined.values():
        value[where] = torch.nan
    return value


Side = Callable[[Subject], Tensor]


@dataclass(frozen=True)
class Check:
    """One comparison. ``package`` is what has to be importable; ``tolerance`` bounds |a − b| / max(1, |b|)."""

    name: str
    oracle: str
    package: str
    tolerance: float
    native: Side
    other: Side
    needs_masks: bool = False
