"""Localisation: does the map point at the object? The truth is a mask, or a box drawn as one.

Pointing game: J. Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.
Relevance mass: L. Arras, A. Osman, W. Samek, "CLEVR-XAI", Information Fusion 2022 ("attribution localisation" of
M. Kohlbrenner et al., IJCNN 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xeval.metrics.metric import EMPTY_MAP, METRICS, NO_MASK, Column, Metric, Scores, Settings, Values, nothing
from xeval.metrics.scene import Explained


class LocalisationSettings(Settings):
    """No parameters."""


def pointing_hit(ranking: Tensor, masks: Tensor) -> Tensor:
    """1 where the most relevant pixel (rank 0 of N×H×W) lies inside the mask N×1×H×W, else 0: float64 (N,)."""
    return ((ranking == 0) & masks[:, 0]).flatten(1).any(1).double()


def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Σ ReLU(A) inside the mask / Σ ReLU(A), float64 (N,); 0 for an empty map."""
    positive = maps.clamp_min(0).double()
    total = positive.flatten(1).sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    return (positive * masks).flatten(1).sum(1) / total


def top_iou(ranking: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of the mask and the equally many most relevant pixels, float64 (N,); 0 without a mask."""
    size = masks.flatten(1).sum(1)
    shared = ((ranking < size[:, None, None]) & masks[:, 0]).flatten(1).sum(1).double()
    return shared / (2 * size - shared).clamp_min(1)


def _pointing(explained: Explained, masks: Tensor) -> Tensor:
    """Does the single most relevant pixel lie on the object?

        pointing.hit = 1 if argmax A lies in the mask or box, else 0

    Equal values are ordered by the seeded tie-break.
    """
    return pointing_hit(explained.ranking, masks)


def _relevance(explained: Explained, masks: Tensor) -> Tensor:
    """Which share of the positive relevance lies on the object?

        relevance.mass = Σ ReLU(A) inside the mask or box / Σ ReLU(A)

    A uniform map gets the share of the image that the object covers: large objects make large values.
    """
    return relevance_mass(explained.maps, masks)


def _topk(explained: Explained, masks: Tensor) -> Tensor:
    """Do the most relevant pixels cover the object, if as many are taken as the object has?

        k = |mask|        T = the k pixels with the largest A
        topk.iou = |T ∩ mask| / |T ∪ mask|

    A map that ranks pixels at random gets s / (2 − s) where the object covers the share s of the image.
    """
    return top_iou(explained.ranking, masks)


def _score(column: str, value: Callable[[Explained, Tensor], Tensor]) -> Callable[[Explained, Any, None], Scores]:
    """A column of what ``value`` computes from maps and masks N×1×H×W, documented by it."""

    def score(explained: Explained, _settings: LocalisationSettings, _shared: None) -> Scores:
        masks = explained.scene.masks
        if masks is None:
            masks = torch.zeros_like(explained.maps, dtype=torch.bool)
        undefined = {NO_MASK: ~masks.flatten(1).any(1), EMPTY_MAP: explained.empty}
        return {column: Values(value(explained, masks), undefined)}

    score.__doc__ = value.__doc__
    return score


def _register(column: str, title: str, sentence: str, value: Callable[[Explained, Tensor], Tensor], cite: str) -> None:
    name = column.partition(".")[0]
    METRICS.add(
        name,
        Metric(
            name=name,
            family="localisation",
            settings=LocalisationSettings,
            columns=lambda _s: (Column(column, title, "higher", 0, 1),),
            score=_score(column, value),
            prepare=nothing,
            convention=lambda _s: f"{sentence}; images without an object mask and empty maps are undefined",
            citation=cite,
            needs=frozenset({"masks"}),
            group="localisation",
        ),
        __file__,
    )


_register(
    "pointing.hit",
    "most relevant pixel inside the object",
    "pointing game: 1 if the pixel with the largest signed map value lies inside the object's mask or box",
    _pointing,
    "Zhang et al., ECCV 2016",
)
_register(
    "relevance.mass",
    "share of the relevance inside the object",
    "relevance mass: ReLU of the map inside the object's mask or box over its total",
    _relevance,
    "Arras et al., Information Fusion 2022; Kohlbrenner et al., IJCNN 2020",
)
_register(
    "topk.iou",
    "overlap of the object and as many most relevant pixels",
    "top-k IoU: the object's mask or box against the equally many pixels with the largest signed map values",
    _topk,
    "Arras et al., Information Fusion 2022",
)
