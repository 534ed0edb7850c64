"""Localisation: does the map point at the object? The truth is a mask, or a box drawn as one.

Pointing game: J. Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.
Relevance mass: L. Arras, A. Osman, W. Samek, "CLEVR-XAI", Information Fusion 2022 ("attribution localisation" of
M. Kohlbrenner et al., IJCNN 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xeval.metrics.metric import EMPTY_MAP, NO_MASK, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained


class LocalisationSettings(Settings):
    """The localisation metrics have no parameters."""


def pointing_hit(ranking: Tensor, masks: Tensor) -> Tensor:
    """Return 1 where the most relevant pixel (rank 0 of N×H×W) lies inside the mask N×1×H×W, else 0: float64 (N,)."""
    return ((ranking == 0) & masks[:, 0]).flatten(1).any(1).double()


def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Return Σ ReLU(A) inside the mask / Σ ReLU(A), float64 (N,); 0 for an empty map."""
    positive = maps.clamp_min(0).double()
    total = positive.flatten(1).sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    return (positive * masks).flatten(1).sum(1) / total


def top_iou(ranking: Tensor, masks: Tensor) -> Tensor:
    """Return the IoU of the mask and as many of the most relevant pixels, float64 (N,); 0 without a mask."""
    size = masks.flatten(1).sum(1)
    shared = ((ranking < size[:, None, None]) & masks[:, 0]).flatten(1).sum(1).double()
    return shared / (2 * size - shared).clamp_min(1)


def _on_objects(explained: Explained, value: Callable[[Tensor], Tensor]) -> Values:
    """Apply ``value`` to the masks N×1×H×W; the result is undefined without an object and for empty maps."""
    masks = explained.scene.masks
    if masks is None:
        masks = torch.zeros_like(explained.maps, dtype=torch.bool)
    return Values(value(masks), {NO_MASK: ~masks.flatten(1).any(1), EMPTY_MAP: explained.empty})


MASKS = frozenset({"masks"})
UNDEFINED = "images without an object mask and empty maps are undefined"


@metric(
    "pointing",
    family="localisation",
    settings=LocalisationSettings,
    columns=lambda _s: (Column("pointing.hit", "most relevant pixel inside the object", "higher", 0, 1),),
    convention=lambda _s: (
        "pointing game: 1 if the pixel with the largest signed map value lies inside the object's mask or box; "
        f"{UNDEFINED}"
    ),
    citation="Zhang et al., ECCV 2016",
    needs=MASKS,
    group="localisation",
)
def score_pointing(explained: Explained, _settings: LocalisationSettings, _shared: None) -> Scores:
    """Does the single most relevant pixel lie on the object?

        pointing.hit = 1 if argmax A lies in the mask or box, else 0

    Equal values are ordered by the seeded tie-break.
    """
    return {"pointing.hit": _on_objects(explained, lambda masks: pointing_hit(explained.ranking, masks))}


@metric(
    "relevance",
    family="localisation",
    settings=LocalisationSettings,
    columns=lambda _s: (Column("relevance.mass", "share of the relevance inside the object", "higher", 0, 1),),
    convention=lambda _s: (
        f"relevance mass: ReLU of the map inside the object's mask or box over its total; {UNDEFINED}"
    ),
    citation="Arras et al., Information Fusion 2022; Kohlbrenner et al., IJCNN 2020",
    needs=MASKS,
    group="localisation",
)
def score_relevance(explained: Explained, _settings: LocalisationSettings, _shared: None) -> Scores:
    """Which share of the positive relevance lies on the object?

        relevance.mass = Σ ReLU(A) inside the mask or box / Σ ReLU(A)

    A uniform map gets the share of the image that the object covers: large objects make large values.
    """
    return {"relevance.mass": _on_objects(explained, lambda masks: relevance_mass(explained.maps, masks))}


@metric(
    "topk",
    family="localisation",
    settings=LocalisationSettings,
    columns=lambda _s: (Column("topk.iou", "overlap of the object and as many most relevant pixels", "higher", 0, 1),),
    convention=lambda _s: (
        "top-k IoU: the object's mask or box against the equally many pixels with the largest signed map values; "
        f"{UNDEFINED}"
    ),
    citation="Arras et al., Information Fusion 2022",
    needs=MASKS,
    group="localisation",
)
def score_topk(explained: Explained, _settings: LocalisationSettings, _shared: None) -> Scores:
    """Do the most relevant pixels cover the object, if as many are taken as the object has?

        k = |mask|        T = the k pixels with the largest A
        topk.iou = |T ∩ mask| / |T ∪ mask|

    A map that ranks pixels at random gets s / (2 − s) where the object covers the share s of the image.
    """
    return {"topk.iou": _on_objects(explained, lambda masks: top_iou(explained.ranking, masks))}
