"""Contrastivity: does the map of another class look different?

Contrastivity: P. E. Pope et al., "Explainability methods for graph convolutional neural networks", CVPR 2019.
SSIM: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from xeval.metrics.continuity import ssim
from xeval.metrics.metric import EMPTY_MAP, EMPTY_OTHER, EXPLAINER, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained, Scene
from xeval.perturb.draws import uniform
from xeval.perturb.masks import minmax


class ContrastSettings(Settings):
    """The parameter that says what an empty map of the other class is worth."""

    legacy_empty_other: bool = Field(
        default=False,
        description="as published in 2026: an empty map of the other class is compared like any other map; the SSIM of "
        "a map with an empty one is close to 0, which is the best value",
    )
    later: ClassVar[frozenset[str]] = frozenset({"legacy_empty_other"})


@dataclass(frozen=True)
class Classes:
    """The classes (N,) that are compared with the explained one: a random other, the runner-up and the least likely."""

    other: Tensor
    runnerup: Tensor
    least: Tensor


def random_other(seed: int, keys: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Draw a class other than the target for each image, uniformly at random: int64 (N,)."""
    u = uniform(seed, "other class", keys, 1, 1)[:, 0, 0]
    return (targets + 1 + (u * (classes - 1)).long()) % classes


def _prepare(scene: Scene, _settings: ContrastSettings) -> Classes:
    """Choose the other classes of every image from the seeded draws and the logits."""
    logits = scene.logits
    explained = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, scene.targets[:, None], True)
    return Classes(
        other=random_other(scene.seed, scene.keys, scene.targets, logits.shape[1]),
        runnerup=logits.masked_fill(explained, -torch.inf).argmax(1),
        least=logits.masked_fill(explained, torch.inf).argmin(1),
    )


def _about_empty_maps(settings: ContrastSettings) -> str:
    if settings.legacy_empty_other:
        return "an empty map of the other class counts like any other, an empty map of the explained class is undefined"
    return "pairs with an empty map are undefined"


@metric(
    "contrast",
    family="contrastivity",
    settings=ContrastSettings,
    columns=lambda _s: (
        Column("contrast.other", "SSIM with the map of a random other class", "lower", -1, 1),
        Column("contrast.runnerup", "SSIM with the map of the runner-up", "lower", -1, 1),
        Column("contrast.least", "SSIM with the map of the least likely class", "lower", -1, 1),
    ),
    prepare=_prepare,
    convention=lambda s: (
        "contrastivity: SSIM (7×7 window) between the maps of the explained class and of another one, each ReLU "
        f"and min-max; the random other class is uniform over all others; {_about_empty_maps(s)}; a "
        "map that does not know the class has 1"
    ),
    citation="Pope et al., CVPR 2019; Wang et al., IEEE TIP 2004",
    needs=EXPLAINER | {"other class"},
)
def score(explained: Explained, settings: ContrastSettings, shared: Classes) -> Scores:
    """Does the map of another class look different? A map that shows where the object is, whatever is asked, does not
    explain a decision between classes.

        contrast.other = SSIM(m(A for c), m(A for a random other class)),  m = min-max of the ReLU
        contrast.runnerup = the same with the second most likely class
        contrast.least = the same with the least likely class

    SSIM as in ``ssim``, 7×7 windows. The random class is uniform over all others and belongs to the image, so every
    explainer and checkpoint meets the same one. A map that does not depend on the class has 1. Pairs in which one map
    is empty are undefined; with ``legacy_empty_other`` only those in which the map of c is.
    """
    own, scores = minmax(explained.positive), {}
    for name, targets in (("other", shared.other), ("runnerup", shared.runnerup), ("least", shared.least)):
        maps = explained.version(explained.scene.images, 0, targets=targets).clamp_min(0)
        undefined = {EMPTY_MAP: explained.empty}
        if not settings.legacy_empty_other:
            undefined[EMPTY_OTHER] = (maps.flatten(1).amax(1) <= 0) & ~explained.empty
        scores[f"contrast.{name}"] = Values(ssim(own, minmax(maps))[:, 0], undefined)
    return scores
