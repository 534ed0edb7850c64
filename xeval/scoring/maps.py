"""Makes the rows of a score table: the maps of every explainer, then those of the controls on the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from xeval.data import Split, normalize
from xeval.engine import Engine
from xeval.errors import UsageError
from xeval.explainers import CONTROLS
from xeval.explainers.base import Control, Draw, Explainer
from xeval.explainers.precomputed import Precomputed
from xeval.metrics import Explained, Scene
from xeval.metrics.scene import Turn
from xeval.models.frozen import reinitialized
from xeval.perturb.draws import word
from xeval.perturb.masks import cam_minmax, complement, minmax
from xeval.scoring.plan import Plan

OTHER_CLASS = "map of another class"
SHOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "signed": lambda maps: maps,
    "relu-minmax": lambda maps: minmax(maps.clamp_min(0)),
    "pytorch-grad-cam": lambda maps: cam_minmax(maps.clamp_min(0)),
}
"""What a protocol makes of an explainer's map on its own grid; the scene scales enlarged maps (``Scene.rescaled``)."""

TURNED: dict[str, Turn] = {"negated": torch.neg, "complement": complement}
"""What a protocol calls the inverse of a map."""


class Maps:
    """Explains scenes as a plan requires; the controls are derived from the first explainer, the reference."""

    def __init__(self, plan: Plan, engine: Engine) -> None:
        self.plan = plan
        self.engine = engine

    def of(self, scene: Scene, positions: Sequence[int]) -> Iterator[tuple[str, list[Explained]]]:
        """Yield name and maps of each row, several draws for random controls, of the images at ``positions``."""
        protocol = self.plan.protocol
        reference: Explained | None = None
        for name in protocol.explainers:
            one = self.explain(scene, name)
            reference = reference or one
            yield name, [one]
        if reference is None:
            raise UsageError("no explainer was named", "name one with --explainers")
        derived: dict[str, Callable[[], Explained]] = {
            "inverse": lambda: reference.inverted(TURNED[protocol.inverse]),
            "shuffled": lambda: self._shuffled(scene, positions),
            "untrained": lambda: self._untrained(scene),
        }
        for name in protocol.controls:
            control = CONTROLS[name]
            if control.draw is None:
                yield name, [derived[name]()]
            else:
                draws = protocol.draws(name)
                yield name, [_drawn(scene, control, control.draw, reference, number, draws) for number in range(draws)]

    def explain(self, scene: Scene, name: str) -> Explained:
        """Return the maps of one of the protocol's explainers of the scene."""
        explainer, layer = self.plan.protocol.explainer(name), self.plan.layer
        if name in self.plan.precomputed:
            return self._looked_up(scene, self.plan.precomputed[name], explainer)
        return Explained.by(
            scene,
            lambda images, classes, model: self._shown(self.engine.explain(explainer, layer, images, classes, model)),
            units=explainer.units,
        )

    def _looked_up(self, scene: Scene, held: Precomputed, explainer: Explainer) -> Explained:
        """Return the maps that were made elsewhere of the scene's images."""

        def again(*_: Any, **__: Any) -> Tensor:
            raise TypeError(
                f"{explainer.name} has maps of the images alone; a metric that explains again has needs={{'explainer'}}"
            )

        places, device = held.places(scene.rows), scene.images.device
        unfit = {} if held.targets is None else {OTHER_CLASS: held.targets[places].to(device) != scene.targets}
        maps = self._shown(held.maps[places].to(scene.images))
        return Explained(scene, maps, again, units=explainer.units, unfit=unfit)

    def _shown(self, maps: Tensor) -> Tensor:
        """Return native maps as the protocol scores them."""
        return SHOWN[self.plan.protocol.map](maps)

    @property
    def _reference(self) -> Explainer:
        return self.plan.protocol.explainer(self.plan.protocol.explainers[0])

    def _shuffled(self, scene: Scene, positions: Sequence[int]) -> Explained:
        """Return the reference's map of another image, chosen by the image's id; perturbations do not change it."""
        split = self.plan.split
        partners = [_partner(split, position) for position in positions]
        others = normalize(split.read(partners).to(scene.images.device), self.plan.info)
        classes = self.engine.logits(others).argmax(1)
        maps = self._shown(self.engine.explain(self._reference, self.plan.layer, others, classes))
        return Explained(scene, maps, lambda *_, **__: maps, units=self._reference.units)

    def _untrained(self, scene: Scene) -> Explained:
        """Return the reference's maps of the network with fresh weights, whichever network is to be explained."""
        reference, layer = self._reference, self.plan.layer

        def explain(images: Tensor, classes: Tensor, _model: nn.Module | None) -> Tensor:
            return self._shown(self.engine.explain(reference, layer, images, classes, self._fresh_network))

        return Explained.by(scene, explain, units=reference.units)

    @cached_property
    def _fresh_network(self) -> nn.Module:
        return reinitialized(self.engine.model, self.plan.protocol.seed)


def _drawn(scene: Scene, control: Control, draw: Draw, reference: Explained, number: int, draws: int) -> Explained:
    """Return the draw ``number`` of a random control's ``draws``; each version of the images gets one of its own."""

    def maps(images: Tensor, version: int, *, targets: Tensor | None = None, model: nn.Module | None = None) -> Tensor:
        del targets, model  # a drawn control depends on neither the class nor the network
        return draw(images, reference.native, scene.keys, number + draws * version)

    return Explained(scene, maps(scene.images, 0), maps, symmetric=control.symmetric)


def _partner(split: Split, position: int) -> int:
    """Choose a row of another image of the split by the row's id; the row itself where there is none."""
    rows, images = len(split), split.images
    first = position + 1 + word(f"shuffled:{split.ids[position]}") % max(rows - 1, 1)
    others = (row % rows for row in range(first, first + rows))
    return next((row for row in others if images[row] != images[position]), position)
