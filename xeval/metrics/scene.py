"""What a metric is given: a scene (a batch of images and a network) and the maps of one explainer for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xeval.engine import Engine
from xeval.explainers.base import Units
from xeval.explainers.cam import upsample
from xeval.perturb.fills import Compose, replaced
from xeval.perturb.masks import cam_minmax, legacy_ranking, ranking, tie_break


@dataclass(frozen=True)
class Scene:
    """A batch of images and a network, with everything that all explainers and metrics share.

    ``images`` N×C×H×W are normalised; ``logits`` are N×classes. ``fill`` has the shape of the images, and ``compose``
    puts it in the place of removed pixels. ``keys``, ``targets`` (explained classes), ``labels`` (true classes) and
    ``p0`` (clean probabilities of the explained classes) are (N,). ``pixel`` C×1×1 is one unit of pixel value [0, 1] in
    normalised units (1/std), and ``mean`` is C×1×1. ``masks`` of the objects, bool N×1×H×W (boxes are drawn as masks),
    exist where the data set has them. ``rows`` are the ids by which maps made elsewhere are found; several rows may be
    of one image, and of one key. ``legacy_order`` ranks by numpy's unstable argsort, as published code does, and
    ``rescaled`` scales maps to [0, 1] once more after they have been enlarged, as pytorch-grad-cam does.
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
    rows: Sequence[str] = ()
    seed: int = 0
    legacy_order: bool = False
    rescaled: bool = False
    compose: Compose = replaced

    @classmethod
    def of(
        cls,
        engine: Engine,
        images: Tensor,
        keys: Tensor,
        *,
        targets: Tensor | None = None,
        labels: Tensor | None = None,
        fill: Tensor | None = None,
        **about: Any,
    ) -> Scene:
        """Make the scene of normalised ``images`` and the network of ``engine``, with one pass of each image.

        The explained classes are the predicted ones, the true classes the explained ones, and the fill is 0 (the mean
        colour) unless they are given; ``about`` are the other fields.
        """
        logits = engine.logits(images)
        probabilities = engine.linked(logits).to(images.device)
        explained = probabilities.max(1).indices if targets is None else targets
        return cls(
            engine=engine,
            images=images,
            logits=logits,
            keys=keys,
            targets=explained,
            labels=explained if labels is None else labels,
            p0=probabilities.gather(1, explained[:, None])[:, 0],
            fill=torch.zeros_like(images) if fill is None else fill,
            **about,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def pixels(self) -> int:
        """Number of pixels of an image, H · W."""
        return self.size[0] * self.size[1]

    @cached_property
    def order(self) -> Tensor:
        """The seeded tie-break of each image, which orders equal values of a map."""
        return tie_break(self.seed, self.keys, self.pixels)

    def decisions(self, logits: Tensor) -> Tensor:
        """Return what the network decides (N, …) by logits (N, …, classes) of versions of the scene's images.

        It is the class or, where the probability is the sigmoid of a class's own logit, whether that of the explained
        class exceeds ½.
        """
        if self.engine.link != "sigmoid":
            return logits.argmax(-1)
        explained = self.targets.reshape(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)
        return logits.gather(-1, explained)[..., 0] > 0

    def targets_of(self, images: Tensor) -> Tensor:
        """Return the explained class of each of ``images``: whole copies of the scene's batch, one after the other."""
        return self.targets.repeat(len(images) // len(self.targets))

    def masked(self, rows: Tensor, keep: Tensor) -> Tensor:
        """Return the images at the indices ``rows`` with only ``keep`` (n×1×H×W) left of them.

        Where a bool ``keep`` is false the fill takes the pixel's place; weights in [0, 1] blend image and fill.
        """
        images, fill = self.images[rows], self.fill[:1] if self._one_fill else self.fill[rows]
        return torch.lerp(fill, images, keep) if keep.is_floating_point() else self.compose(images, fill, keep)

    def enlarged(self, native: Tensor) -> Tensor:
        """Return maps N×1×h×w at the images' size, N×1×H×W; maps of that size stay as they are."""
        maps = upsample(native, self.size)
        return cam_minmax(maps) if self.rescaled and maps is not native else maps

    @property
    def _one_fill(self) -> bool:
        """Whether the fill is a single image expanded to the batch."""
        return self.fill.stride(0) == 0

    @cached_property
    def p_fill(self) -> Tensor:
        """Probability of the targets on the fill image itself (N,), from one pass where all images share the fill."""
        fill = self.fill[:1] if self._one_fill else self.fill
        return self.engine.probabilities(fill).expand(len(self.images), -1).gather(1, self.targets[:, None])[:, 0]


Explain = Callable[[Tensor, Tensor, nn.Module | None], Tensor]
"""``(images, classes, model) -> maps``, N×1×h×w; the scene's own network is used where ``model`` is None."""


Turn = Callable[[Tensor], Tensor]
"""A function that reverses the order of the values of each map (…, H, W)."""


class Again(Protocol):
    """A function that explains other versions of the scene's images; each version is identified by its number."""

    def __call__(
        self, images: Tensor, number: int, /, *, targets: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Return the maps of ``images`` N×C×H×W, optionally for other classes (N,) or of another network."""


class Explained:
    """The maps of one explainer in one scene, and what several metrics derive from them; each is computed once."""

    def __init__(
        self,
        scene: Scene,
        native: Tensor,
        again: Again,
        *,
        units: Units = "location",
        symmetric: bool = False,
        packed: bool = False,
        unfit: Mapping[str, Tensor] = {},
    ) -> None:
        """Keep the native maps N×1×h×w and ``again``, which makes maps of other versions of the images.

        ``packed`` says that ``again`` takes J versions of all images at once, one version after the other.
        ``symmetric`` says that the reversed ranking has the same distribution, so one set of passes serves the keep and
        the deletion curve. ``unfit`` says for which images the map must not be scored: reason → bool (N,).
        """
        self.scene = scene
        self.native = native
        self.units = units
        self.unfit = unfit
        self._again = again
        self._symmetric = symmetric
        self._packed = packed
        self._masked: dict[tuple[int, bool], Tensor] = {}
        self._explained_again: dict[str, Tensor] = {}

    @classmethod
    def by(cls, scene: Scene, explain: Explain, *, units: Units = "location") -> Explained:
        """Make the maps with ``explain``, which is called again for other versions, classes and networks."""

        def again(
            images: Tensor, _number: int, *, targets: Tensor | None = None, model: nn.Module | None = None
        ) -> Tensor:
            return explain(images, scene.targets_of(images) if targets is None else targets, model)

        return cls(scene, again(scene.images, 0), again, units=units, packed=True)

    @cached_property
    def maps(self) -> Tensor:
        """The signed maps at the images' size, N×1×H×W."""
        return self.scene.enlarged(self.native)

    @cached_property
    def positive(self) -> Tensor:
        """The ReLU of the maps."""
        return self.maps.clamp_min(0)

    @cached_property
    def empty(self) -> Tensor:
        """Where a map has no positive value, bool (N,)."""
        return self.positive.flatten(1).amax(1) <= 0

    @cached_property
    def ranking(self) -> Tensor:
        """The rank of each pixel, 0 = most relevant, N×H×W."""
        if self.scene.legacy_order:
            return legacy_ranking(self.maps)
        return ranking(self.maps, self.scene.order)

    def keeping(self, counts: list[int], *, lowest: bool = False) -> Tensor:
        """Return target probabilities with the ``counts`` most (or least) relevant pixels kept: float64 (N, counts).

        Counts of 0 and H·W need no masked pass: they are the fill's and the clean probability. Every other count is
        passed only once; its result is kept.
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
        """Return the target probability (N, len(counts)) with the ``counts`` most (or least) relevant pixels kept."""
        scene = self.scene
        place = scene.pixels - 1 - self.ranking if lowest else self.ranking
        bound = torch.tensor(counts, device=place.device)

        def compose(rows: Tensor, columns: Tensor) -> Tensor:
            keep = place[rows] < bound[columns, None, None]
            return scene.masked(rows, keep.unsqueeze(1))

        return scene.engine.class_probability(compose, len(counts), scene.targets)

    def under(self, keep: Tensor) -> Tensor:
        """Return target probabilities under J masks N×J×H×W, bool or weights (:meth:`Scene.masked`): float64 (N, J)."""
        scene = self.scene
        return scene.engine.class_probability(
            lambda rows, columns: scene.masked(rows, keep[rows, columns].unsqueeze(1)), keep.shape[1], scene.targets
        )

    def again(self, name: str, images: Tensor) -> Tensor:
        """Return signed maps N×J×H×W of J perturbed versions N×J×C×H×W of each image, computed once per ``name``."""
        if name not in self._explained_again:
            self._explained_again[name] = self._versions(images)
        return self._explained_again[name]

    def _versions(self, images: Tensor) -> Tensor:
        """Explain the versions N×J×C×H×W, in one call if the explainer takes them packed, else one by one."""
        count, versions = images.shape[:2]
        if not self._packed:
            return torch.cat([self.version(images[:, j], 1 + j) for j in range(versions)], 1)
        maps = self.version(images.transpose(0, 1).flatten(0, 1), 1)
        return maps.reshape(versions, count, *maps.shape[2:]).transpose(0, 1)

    def version(
        self, images: Tensor, number: int, *, targets: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Return signed maps N×1×H×W of images N×C×H×W, for other classes or of another network; see :class:`Again`."""
        return self.scene.enlarged(self._again(images, number, targets=targets, model=model))

    def inverted(self, turn: Turn = torch.neg) -> Explained:
        """Return the maps in reverse order, turned by ``turn``: with their sign turned unless another one is given.

        Their keep curve is this deletion curve: no pass is repeated.
        """
        return _Inverted(self, turn)


class _Inverted(Explained):
    """The maps of another :class:`Explained` in reverse order; it uses the passes of the original."""

    def __init__(self, original: Explained, turn: Turn) -> None:
        def again(
            images: Tensor, number: int, *, targets: Tensor | None = None, model: nn.Module | None = None
        ) -> Tensor:
            return turn(original.version(images, number, targets=targets, model=model))

        super().__init__(original.scene, turn(original.native), again, units=original.units, unfit=original.unfit)
        self._original = original
        self._turn = turn

    @cached_property
    def maps(self) -> Tensor:
        return self._turn(self._original.maps)

    @cached_property
    def ranking(self) -> Tensor:
        return self.scene.pixels - 1 - self._original.ranking

    def keeping(self, counts: list[int], *, lowest: bool = False) -> Tensor:
        return self._original.keeping(counts, lowest=not lowest)

    def again(self, name: str, images: Tensor) -> Tensor:
        return self._turn(self._original.again(name, images))
