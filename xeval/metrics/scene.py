"""What a metric is given: a scene (images before a network) and the maps of one explainer in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from xeval.engine import Engine
from xeval.explainers.base import Units
from xeval.explainers.cam import upsample
from xeval.perturb.fills import Compose, replaced
from xeval.perturb.masks import legacy_ranking, ranking, tie_break


@dataclass(frozen=True)
class Scene:
    """A batch of images before a network: what every explainer and metric shares.

    images N×C×H×W (normalised) with their logits N×classes, and ``fill`` of the same shape as the images, which
    ``compose`` puts in the place of removed pixels; keys, explained classes (targets), true classes (labels) and clean
    probabilities of the explained class (p0), each (N,); ``pixel`` C×1×1, one unit of
    pixel value [0, 1] in normalised units (1/std), and ``mean`` C×1×1; ``masks`` of the objects, bool N×1×H×W (boxes
    drawn as masks), where the data set has them. ``legacy_order`` ranks by numpy's unstable argsort, as published code.
    """

    engine: Engine
    images: Tensor
    logits: Tensor
    keys: Tensor
    targets: Tensor
    labels: Tensor
    p0: Tensor
    fill: Tensor
    pixel: Tensor
    mean: Tensor
    masks: Tensor | None = None
    seed: int = 0
    legacy_order: bool = False
    compose: Compose = replaced

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def pixels(self) -> int:
        """H · W."""
        return self.size[0] * self.size[1]

    @cached_property
    def order(self) -> Tensor:
        """The seeded tie-break of each image."""
        return tie_break(self.seed, self.keys, self.pixels)

    def targets_of(self, images: Tensor) -> Tensor:
        """The explained class of each of ``images``, which are some versions of the scene's, one after the other."""
        return self.targets.repeat(len(images) // len(self.targets))

    def masked(self, rows: Tensor, keep: Tensor) -> Tensor:
        """Images number ``rows`` with only ``keep`` (n×1×H×W) left of them.

        Where a bool ``keep`` is false the fill takes the pixel's place; weights in [0, 1] blend image and fill.
        """
        images, fill = self.images[rows], self.fill[:1] if self._one_fill else self.fill[rows]
        return torch.lerp(fill, images, keep) if keep.is_floating_point() else self.compose(images, fill, keep)

    @property
    def _one_fill(self) -> bool:
        """Whether the fill is one image expanded."""
        return self.fill.stride(0) == 0

    @cached_property
    def p_fill(self) -> Tensor:
        """Probability of the targets on the fill image itself (N,); one pass where it is the same for all images."""
        fill = self.fill[:1] if self._one_fill else self.fill
        return self.engine.probabilities(fill).expand(len(self.images), -1).gather(1, self.targets[:, None])[:, 0]


class Again(Protocol):
    """Explain versions of the scene's images once more; each version has a number of its own."""

    def __call__(
        self, images: Tensor, number: int, /, *, targets: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Maps of ``images`` N×C×H×W, optionally for other classes (N,) or of another network."""


class Explained:
    """The maps of one explainer in one scene, and what several metrics derive from them, computed once."""

    def __init__(
        self,
        scene: Scene,
        native: Tensor,
        again: Again,
        *,
        units: Units = "location",
        symmetric: bool = False,
        packed: bool = False,
    ) -> None:
        """``packed`` says that ``again`` takes J versions of all images at once, one version after the other."""
        self.scene = scene
        self.native = native
        self.units = units
        self._again = again
        self._symmetric = symmetric
        self._packed = packed
        self._masked: dict[tuple[int, bool], Tensor] = {}
        self._explained_again: dict[str, Tensor] = {}

    @cached_property
    def maps(self) -> Tensor:
        """Signed maps at the images' size, N×1×H×W."""
        return upsample(self.native, self.scene.size)

    @cached_property
    def positive(self) -> Tensor:
        """ReLU of the maps."""
        return self.maps.clamp_min(0)

    @cached_property
    def empty(self) -> Tensor:
        """Where nothing is left of a map after ReLU, bool (N,)."""
        return self.positive.flatten(1).amax(1) <= 0

    @cached_property
    def ranking(self) -> Tensor:
        """Rank of each pixel, 0 = most relevant, N×H×W."""
        if self.scene.legacy_order:
            return legacy_ranking(self.maps)
        return ranking(self.maps, self.scene.order)

    def keeping(self, counts: list[int], *, lowest: bool = False) -> Tensor:
        """Target probability with only the ``counts`` most (or least) relevant pixels kept: float64 (N, len(counts)).

        Counts of 0 and H·W are short-cut to the fill's and the clean probability; every count costs its pass once.
        """
        lowest = lowest and not self._symmetric
        wanted = [k for k in counts if (k, lowest) not in self._masked]
        fresh = [k for k in dict.fromkeys(wanted) if 0 < k < self.scene.pixels]
        if fresh:
            passed = self._pass(fresh, lowest)
            self._masked.update({(k, lowest): passed[:, j] for j, k in enumerate(fresh)})
        if 0 in counts:
            self._masked[0, lowest] = self.scene.p_fill
        self._masked[self.scene.pixels, lowest] = self.scene.p0
        return torch.stack([self._masked[k, lowest] for k in counts], 1)

    def _pass(self, counts: list[int], lowest: bool) -> Tensor:
        scene = self.scene
        place = scene.pixels - 1 - self.ranking if lowest else self.ranking
        bound = torch.tensor(counts, device=place.device)

        def compose(rows: Tensor, columns: Tensor) -> Tensor:
            keep = place[rows] < bound[columns, None, None]
            return scene.masked(rows, keep.unsqueeze(1))

        return scene.engine.class_probability(compose, len(counts), scene.targets)

    def under(self, keep: Tensor) -> Tensor:
        """Target probability under J masks N×J×H×W, bool or weights (see :meth:`Scene.masked`): float64 (N, J)."""
        scene = self.scene
        return scene.engine.class_probability(
            lambda rows, columns: scene.masked(rows, keep[rows, columns].unsqueeze(1)), keep.shape[1], scene.targets
        )

    def again(self, name: str, images: Tensor) -> Tensor:
        """Signed maps N×J×H×W of the J perturbed versions N×J×C×H×W of each image; computed once per ``name``."""
        if name not in self._explained_again:
            self._explained_again[name] = self._versions(images)
        return self._explained_again[name]

    def _versions(self, images: Tensor) -> Tensor:
        count, versions = images.shape[:2]
        if not self._packed:
            return torch.cat([self.version(images[:, j], 1 + j) for j in range(versions)], 1)
        maps = self.version(images.transpose(0, 1).flatten(0, 1), 1)
        return maps.reshape(versions, count, *maps.shape[2:]).transpose(0, 1)

    def version(
        self, images: Tensor, number: int, *, targets: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Signed maps N×1×H×W of images N×C×H×W, for other classes or of another network; see :class:`Again`."""
        return upsample(self._again(images, number, targets=targets, model=model), self.scene.size)

    def inverted(self) -> Explained:
        """The same maps with their sign turned: its keep curve is this one's deletion curve, so no pass is repeated."""
        return _Inverted(self)


class _Inverted(Explained):
    def __init__(self, original: Explained) -> None:
        def again(
            images: Tensor, number: int, *, targets: Tensor | None = None, model: nn.Module | None = None
        ) -> Tensor:
            return -original._again(images, number, targets=targets, model=model)

        super().__init__(original.scene, -original.native, again, units=original.units)
        self._original = original

    @cached_property
    def ranking(self) -> Tensor:
        return self.scene.pixels - 1 - self._original.ranking

    def keeping(self, counts: list[int], *, lowest: bool = False) -> Tensor:
        return self._original.keeping(counts, lowest=not lowest)

    def again(self, name: str, images: Tensor) -> Tensor:
        return -self._original.again(name, images)
