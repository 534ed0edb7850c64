"""Sanity checks: does the map depend on what the network has learned, and on the class that is asked for?

Efficient MPRT: A. Hedström et al., "Sanity checks revisited: an exploration to repair the model parameter randomisation
test", XAI in Action, NeurIPS 2023. Random logit: L. Sixt, M. Granz, T. Landgraf, "When explanations lie", ICML 2020.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from xeval.metrics.continuity import ssim
from xeval.metrics.contrastivity import random_other
from xeval.metrics.metric import CONSTANT_MAP, EXPLAINER, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained, Scene
from xeval.models.frozen import reinitialized


class HistogramSettings(Settings):
    """The parameters of the histogram whose entropy is taken."""

    bins: int = Field(default=100, ge=2, description="bins of equal width between the extremes of each map's |A|")


class LogitSettings(Settings):
    """The random-logit test has no parameters."""


def histogram_entropy(maps: Tensor, bins: int) -> Tensor:
    """Return the entropy in nats of the histogram of |A|, with ``bins`` equal bins between its extremes: float64 (N,).

    It is 0 where all values are the same, and does not depend on the scale of the map.
    """
    a = maps.flatten(1).double().abs()
    low, high = a.amin(1, keepdim=True), a.amax(1, keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    place = ((a - low) / span * bins).long().clamp_max(bins - 1)
    counts = torch.zeros(len(a), bins, dtype=torch.float64, device=a.device).scatter_add_(1, place, torch.ones_like(a))
    share = counts / a.shape[1]
    return -torch.xlogy(share, share).sum(1)


def _reinitialize(scene: Scene, _settings: HistogramSettings) -> nn.Module:
    """Return a copy of the network whose layers are all drawn anew."""
    return reinitialized(scene.engine.model, scene.seed)


@metric(
    "mprt",
    family="randomisation",
    settings=HistogramSettings,
    columns=lambda _s: (
        Column("mprt.rise", "relative rise of the map's entropy under a randomised network", "higher", -1),
    ),
    prepare=_reinitialize,
    convention=lambda s: (
        f"efficient MPRT: (H' − H)/H, H the entropy of the {s.bins}-bin histogram of |A|, H' that of the map of "
        "the same class in a copy of the network with every layer drawn anew; constant maps are undefined"
    ),
    citation="Hedström et al., NeurIPS 2023 workshop XAI in Action",
    needs=EXPLAINER,
    group="sanity",
    default=False,
)
def score_mprt(explained: Explained, settings: HistogramSettings, shared: nn.Module) -> Scores:
    """Does the map lose its order when everything the network has learned is replaced by random weights?

        H = entropy of the histogram of |A(x)|        H' = the same for a network with fresh random weights
        mprt.rise = (H' − H) / H

    This is the efficient model-parameter-randomisation test: one randomised network instead of one a layer. A map that
    comes from the image alone, such as an edge filter, has 0. Constant maps are undefined.
    """
    before = histogram_entropy(explained.maps, settings.bins)
    random = explained.version(explained.scene.images, 0, model=shared)
    after = histogram_entropy(random, settings.bins)
    flat = before <= 0
    rise = (after - before) / torch.where(flat, torch.ones_like(before), before)
    return {"mprt.rise": Values(rise, {CONSTANT_MAP: flat})}


def signed_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the SSIM of signed maps N×1×H×W, with the range of both together as data range: float64 (N,)."""
    both = torch.cat([x, y], 1).double().flatten(1)
    span = both.amax(1) - both.amin(1)
    unit = torch.where(span > 0, span, torch.ones_like(span))[:, None, None, None]
    return ssim(x.double() / unit, y.double() / unit)[:, 0]


def _other_class(scene: Scene, _settings: LogitSettings) -> Tensor:
    """Draw a random other class for each image: int64 (N,)."""
    classes = scene.logits.shape[1]
    return random_other(scene.seed, scene.keys, scene.targets, classes)


@metric(
    "logit",
    family="randomisation",
    settings=LogitSettings,
    columns=lambda _s: (Column("logit.ssim", "SSIM with the signed map of a random other class", "lower", -1, 1),),
    prepare=_other_class,
    convention=lambda _s: (
        "random logit: SSIM (7×7 window) between the signed maps of the explained class and of a uniformly random "
        "other one, data range = range of both"
    ),
    citation="Sixt et al., ICML 2020",
    needs=EXPLAINER | {"other class"},
    group="sanity",
    default=False,
)
def score_logit(explained: Explained, _settings: LogitSettings, shared: Tensor) -> Scores:
    """Does the signed map change when another class is asked for?

        logit.ssim = SSIM(A for c, A for a random other class), data range = range of both

    ``contrast.other`` asks the same of the positive part, which is what people look at; this is the test as published,
    on signed maps. A map that does not depend on the class has 1.
    """
    other = explained.version(explained.scene.images, 0, targets=shared)
    return {"logit.ssim": Values(signed_ssim(explained.maps, other))}
