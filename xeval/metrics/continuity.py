"""Continuity: does the map stay the same when the image hardly changes?

SSIM: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004.
Sensitivity: C.-K. Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from xeval.metrics.metric import EMPTY_MAP, EXPLAINER, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained, Scene
from xeval.perturb.draws import normal, uniform
from xeval.perturb.masks import minmax


class NoiseSettings(Settings):
    """The parameters of the Gaussian noise that is added to the images."""

    n: int = Field(default=10, ge=1, description="noisy versions of an image")
    sigma: float = Field(default=0.02, gt=0, description="standard deviation in pixel units [0, 1], clamped there")
    legacy_clip_normalised: bool = Field(
        default=False,
        description="as published in 2026: noise is added to the normalised image, which is then clamped to [0, 1]; "
        "that sets every below-average value to 0",
    )


class BallSettings(Settings):
    """The parameters of the perturbations, which are drawn uniformly from an L∞ ball around the image."""

    n: int = Field(default=10, ge=1, description="perturbed versions of an image")
    radius: float = Field(default=0.02, gt=0, description="radius of the ball in pixel units, not clamped")

    @property
    def key(self) -> str:
        """The name under which metrics with equal balls share the maps of the perturbed images."""
        return f"ball-{self.n}-{self.radius:g}"


@dataclass(frozen=True)
class Versions:
    """The perturbed images N×n×C×H×W, with a bool tensor (N, n) that is true where the predicted class changed."""

    images: Tensor
    flipped: Tensor


def ssim(x: Tensor, y: Tensor, window: int = 7) -> Tensor:
    """Return the structural similarity of maps (…, H, W) with data range 1, float64 (…,).

    It takes uniform ``window`` × ``window`` windows, the sample covariance, K1 = .01 and K2 = .03, and averages over
    the windows that lie inside the map. For a smaller map the window shrinks to the largest odd size that fits.
    """
    side = min(window, x.shape[-2], x.shape[-1])
    side -= 1 - side % 2
    a, b = x.double().reshape(-1, 1, *x.shape[-2:]), y.double().reshape(-1, 1, *y.shape[-2:])
    mean = [F.avg_pool2d(part, side, 1) for part in (a, b, a * a, b * b, a * b)]
    ux, uy = mean[0], mean[1]
    sample = side**2 / max(side**2 - 1, 1)
    vx, vy, vxy = (sample * (m - p) for m, p in zip(mean[2:], (ux * ux, uy * uy, ux * uy), strict=True))
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    return index.mean((-3, -2, -1)).reshape(x.shape[:-2])


def _gaussian(scene: Scene, settings: NoiseSettings) -> Versions:
    """Draw the noisy versions of the images and predict their classes."""
    draws = normal(scene.seed, "ssim", scene.keys, settings.n, scene.images[0].numel())
    noise = settings.sigma * draws.reshape(len(scene.images), settings.n, *scene.images.shape[1:])
    if settings.legacy_clip_normalised:
        images = (scene.images.unsqueeze(1) + noise).clamp(0, 1)
    else:
        pixels = (scene.images / scene.pixel + scene.mean).unsqueeze(1)
        images = ((pixels + noise).clamp(0, 1) - scene.mean) * scene.pixel
    logits = scene.engine.logits(images.flatten(0, 1)).reshape(-1, settings.n, scene.logits.shape[1])
    return Versions(images, scene.decisions(logits) != scene.decisions(scene.logits)[:, None])


@metric(
    "ssim",
    family="continuity",
    settings=NoiseSettings,
    columns=lambda _s: (
        Column("ssim.value", "SSIM of the maps of the image and of the noisy image", "higher", -1, 1),
        Column("ssim.flipped", "share of noisy images with another prediction", None, 0, 1),
    ),
    prepare=_gaussian,
    convention=lambda s: (
        f"SSIM: {s.n} draws of N(0, {s.sigma:g}) in {'normalised' if s.legacy_clip_normalised else 'pixel'} space, "
        "clamped to [0, 1] there; class fixed on the clean "
        "image; ReLU and min-max per map, 7×7 window; images with an empty map are undefined"
    ),
    citation="Wang et al., IEEE TIP 2004",
    needs=EXPLAINER,
)
def score_ssim(explained: Explained, _settings: NoiseSettings, shared: Versions) -> Scores:
    """Does the map keep its structure when the image is covered with faint noise?

        ssim.value = mean over draws of SSIM(m(A(x)), m(A(x + noise))),  m = min-max of the ReLU
        ssim.flipped = share of the noisy images that are classified otherwise

        SSIM(u, v) = mean over 7×7 windows of
                     (2 μ_u μ_v + .01²)(2 σ_uv + .03²) / ((μ_u² + μ_v² + .01²)(σ_u² + σ_v² + .03²))

    The class explained is that of the clean image in both maps. A map that never changes has 1, so a high value alone
    says little: look at ``ssim.flipped`` and at the controls. Images with an empty map are undefined.
    """
    clean = minmax(explained.positive)
    noisy = minmax(explained.again("ssim", shared.images).clamp_min(0))
    index = ssim(clean.expand_as(noisy), noisy).mean(1)
    return {
        "ssim.value": Values(index, {EMPTY_MAP: explained.empty}),
        "ssim.flipped": Values(shared.flipped.double().mean(1)),
    }


def ball(scene: Scene, settings: BallSettings) -> Tensor:
    """Return perturbed images N×n×C×H×W, drawn uniformly from the L∞ ball around each image."""
    u = uniform(scene.seed, "sensitivity", scene.keys, settings.n, scene.images[0].numel())
    step = u.mul_(2).sub_(1).reshape(len(scene.images), settings.n, *scene.images.shape[1:])
    return torch.addcmul(scene.images.unsqueeze(1), step, settings.radius * scene.pixel)


def relative_change(clean: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor]:
    """Return ‖A(x) − A(x + d)‖₂ (N, n) and ‖A(x)‖₂ (N, 1) in float64, for maps N×1×H×W and N×n×H×W."""
    base = clean.double()
    return (perturbed.double() - base).flatten(2).norm(dim=2), base.flatten(2).norm(dim=2)


@metric(
    "sensitivity",
    family="continuity",
    settings=BallSettings,
    columns=lambda _s: (
        Column("sensitivity.max", "largest relative change of the map", "lower", 0),
        Column("sensitivity.avg", "mean relative change of the map", "lower", 0),
        Column("sensitivity.rawmax", "largest change of the map in its own units", None, 0),
        Column("sensitivity.rawavg", "mean change of the map in its own units", None, 0),
    ),
    prepare=ball,
    convention=lambda s: (
        f"sensitivity: max and mean over {s.n} draws d uniform in an L∞ ball of {s.radius:g} (pixel units) of "
        "‖A(x) − A(x+d)‖/‖A(x)‖, signed map"
    ),
    citation="Yeh et al., NeurIPS 2019",
    needs=EXPLAINER,
)
def score_sensitivity(explained: Explained, settings: BallSettings, shared: Tensor) -> Scores:
    """How much does the map change, relative to its size, when every pixel moves a little?

        sensitivity.max = max over draws d of ‖A(x) − A(x + d)‖₂ / ‖A(x)‖₂
        sensitivity.avg = the mean over draws
        sensitivity.rawmax, sensitivity.rawavg = the same without the denominator

    On signed maps. The raw columns have the unit of the map and cannot be compared between explainers. Undefined where
    the map is 0 everywhere.
    """
    moved, size = relative_change(explained.maps, explained.again(settings.key, shared))
    ratio = moved / torch.where(size > 0, size, torch.ones_like(size))
    undefined = {EMPTY_MAP: size[:, 0] <= 0}
    return {
        "sensitivity.max": Values(ratio.amax(1), undefined),
        "sensitivity.avg": Values(ratio.mean(1), undefined),
        "sensitivity.rawmax": Values(moved.amax(1), undefined),
        "sensitivity.rawavg": Values(moved.mean(1), undefined),
    }
