"""Pixel flipping as Quantus defines it, in both of the definitions that its versions use.

Source: S. Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
propagation", PLoS ONE 2015; A. Hedström et al., "Quantus", JMLR 2023. Version 0.5 flips positions, all channels at
once; version 0.6 flips single channel values. Both set them to the smallest value of the normalised image, use the
probability of the true class, leave the clean point out of the curve and take the trapezoid rule over the points.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from xeval.metrics.metric import Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained
from xeval.perturb.masks import legacy_ranking


class FlipSettings(Settings):
    """The parameters that say what a feature is, how many are flipped at once, and how equal values are ordered."""

    semantics: Literal["0.5", "0.6"] = Field(
        default="0.6",
        description="the version of Quantus that is followed: 0.5 flips positions in all channels at once, 0.6 single "
        "channel values",
    )
    step: int = Field(default=32, ge=1, description="features flipped at once")
    legacy_order: bool = Field(
        default=False, description="rank with numpy's unstable sort on the host, as Quantus does, not by the seed"
    )


def features(explained: Explained, settings: FlipSettings) -> Tensor:
    """Return the rank of each feature, int64 N×1×H×W or N×C×H×W; it is flipped at step number rank // step.

    The channels of one position follow one another, unless ``legacy_order`` leaves their order to numpy.
    """
    n, channels, height, width = explained.scene.images.shape
    if settings.semantics == "0.5":
        channels = 1
    if settings.legacy_order:
        values = explained.maps.expand(-1, channels, -1, -1)
        return legacy_ranking(values.reshape(n, 1, channels * height, width)).reshape(values.shape)
    channel = torch.arange(channels, device=explained.maps.device).reshape(-1, 1, 1)
    return explained.ranking.unsqueeze(1) * channels + channel


def flipping_curve(explained: Explained, settings: FlipSettings) -> Tensor:
    """Return the probability of the true class after each step, without the clean image: float64 (N, steps)."""
    scene, place = explained.scene, features(explained, settings)
    total = place[0].numel()
    black = scene.images.amin((1, 2, 3), keepdim=True)

    def compose(rows: Tensor, columns: Tensor) -> Tensor:
        flipped = place[rows] < ((columns + 1) * settings.step)[:, None, None, None]
        return torch.where(flipped, black[rows], scene.images[rows])

    return scene.engine.class_probability(compose, -(-total // settings.step), scene.labels)


def mean_area(curve: Tensor) -> Tensor:
    """Integrate curves (N, K) by the trapezoid rule and divide by K − 1: (N,); the point itself where K = 1."""
    return torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1) if curve.shape[1] > 1 else curve[:, 0]


def _convention(settings: FlipSettings) -> str:
    unit = "positions, all channels together" if settings.semantics == "0.5" else "single channel values"
    order = ", ranked by numpy's unstable sort" if settings.legacy_order else ""
    return (
        f"pixel flipping as Quantus {settings.semantics}: {settings.step} {unit} a step{order}, set to the smallest "
        "value of the normalised image; softmax of the true class; area without the clean point over the number of "
        "points − 1"
    )


@metric(
    "pixelflip",
    family="faithfulness",
    settings=FlipSettings,
    columns=lambda _s: (Column("pixelflip.auc", "area under the pixel-flipping curve", "lower", 0, 1),),
    convention=_convention,
    citation="Bach et al., PLoS ONE 2015; Hedström et al., JMLR 2023",
    default=False,
)
def score(explained: Explained, settings: FlipSettings, _shared: None) -> Scores:
    """How fast does the probability of the true class fall while the most relevant features are blackened, computed as
    Quantus computes it?

        curve(j) = f of the true class with the j·step most relevant features set to min(x),  j = 1 … K
        pixelflip.auc = trapezoid rule over the K points / (K − 1)

    It differs from ``deletion`` in four ways: the class is the true one, not the predicted one; removed values become
    the smallest value of the normalised image; the clean image is not a point of the curve; and under 0.6 a feature is
    one channel of one pixel. It is here to compare with tables made by Quantus; ask for it by name.
    """
    return {"pixelflip.auc": Values(mean_area(flipping_curve(explained, settings)))}
