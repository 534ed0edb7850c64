"""Deletion and insertion curves on one grid of keep fractions, and the areas under them.

Source: V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.
The insertion curve starts at the fill and keeps more and more of the most relevant pixels (it is the keep curve);
the deletion curve starts at the image and fills the most relevant pixels first.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from xeval.metrics.metric import NOT_POSITIVE, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained


class GridSettings(Settings):
    """The grid of fractions j/steps, j = 0 … steps, at which a curve is evaluated."""

    steps: int = Field(default=32, ge=1, description="number of equal steps; both end points are included")


def grid(steps: int, pixels: int) -> list[int]:
    """Return the numbers of pixels kept, ⌊j · pixels / steps⌋ for j = 0 … steps."""
    return [j * pixels // steps for j in range(steps + 1)]


def area(curve: Tensor) -> Tensor:
    """Return the area (N,) under curves (N, K) over equally spaced fractions from 0 to 1, by the trapezoid rule."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


def insertion_curve(explained: Explained, steps: int) -> Tensor:
    """Return the target probability with the most relevant j/steps of the pixels kept: float64 (N, steps + 1)."""
    return explained.keeping(grid(steps, explained.scene.pixels))


def deletion_curve(explained: Explained, steps: int) -> Tensor:
    """Return the target probability with the most relevant j/steps of the pixels filled: float64 (N, steps + 1)."""
    return explained.keeping(grid(steps, explained.scene.pixels)[::-1], lowest=True)


@metric(
    "deletion",
    family="faithfulness",
    settings=GridSettings,
    columns=lambda _s: (
        Column("deletion.auc", "area under the deletion curve", "lower", 0, 1),
        Column("deletion.relative", "area under the deletion curve over p0", "lower", 0),
        Column("deletion.gain", "deletion area of a random map minus this one's", "higher", -1, 1),
    ),
    curves=("deletion.curve",),
    gain_of={"deletion.gain": "deletion.auc"},
    convention=lambda s: (
        f"deletion: most relevant positions filled first, all channels together, {s.steps} equal steps; "
        "softmax of the explained class; gain = the same image's area under random maps minus the area"
    ),
    citation="Petsiuk et al., RISE, BMVC 2018",
)
def score_deletion(explained: Explained, settings: GridSettings, _shared: None) -> Scores:
    """How fast does the probability of the explained class fall while the most relevant pixels are filled first?

        curve(j) = f(x with the j·H·W/steps most relevant pixels filled),  j = 0 … steps
        deletion.auc = area under the curve over [0, 1] (trapezoid rule)
        deletion.relative = deletion.auc / p0
        deletion.gain = deletion.auc of random maps of the same image − deletion.auc

    A small area is easy to get from a network that is never sure, hence the other two: ``relative`` takes the clean
    probability out, and ``gain`` compares with the control ``random`` (the mean of its draws) on the same image.
    """
    curve = deletion_curve(explained, settings.steps)
    auc = area(curve)
    return {
        "deletion.auc": Values(auc),
        "deletion.relative": Values(auc / explained.scene.p0, {NOT_POSITIVE: explained.scene.p0 <= 0}),
        "deletion.curve": Values(curve),
    }


@metric(
    "insertion",
    family="faithfulness",
    settings=GridSettings,
    columns=lambda _s: (Column("insertion.auc", "area under the insertion (keep) curve", "higher", 0, 1),),
    curves=("insertion.curve",),
    convention=lambda s: f"insertion: the keep curve on the same grid ({s.steps} steps)",
    citation="Petsiuk et al., RISE, BMVC 2018",
)
def score_insertion(explained: Explained, settings: GridSettings, _shared: None) -> Scores:
    """How fast does the probability of the explained class come back while the most relevant pixels are put into the
    fill first?

        curve(j) = f(fill with the j·H·W/steps most relevant pixels of x),  j = 0 … steps
        insertion.auc = area under the curve over [0, 1] (trapezoid rule)

    This is the keep curve of the report. Pixels are kept as ``drop`` keeps them, at more fractions.
    """
    curve = insertion_curve(explained, settings.steps)
    return {"insertion.auc": Values(area(curve)), "insertion.curve": Values(curve)}
