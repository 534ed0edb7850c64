"""Fills define what replaces the removed pixels of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xeval.perturb.draws import normal
from xeval.perturb.imputation import linear_imputation
from xeval.registry import Registry

Make = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
Compose = Callable[[Tensor, Tensor, Tensor], Tensor]


def replaced(images: Tensor, fill: Tensor, keep: Tensor) -> Tensor:
    """Return ``images`` where ``keep`` (bool N×1×H×W) is true and ``fill`` elsewhere."""
    return torch.where(keep, images, fill)


def imputed(images: Tensor, fill: Tensor, keep: Tensor) -> Tensor:
    """Return ``images`` with the removed pixels interpolated from the kept ones, plus ``fill`` there."""
    return torch.where(keep, images, linear_imputation(images, keep) + fill)


@dataclass(frozen=True)
class Fill:
    """A fill, which replaces the removed pixels of an image.

    ``make(images, mean, pixel, keys, seed)`` returns what remains of an image when no pixel is kept, N×C×H×W
    normalised. If that is the same for all images, one image is expanded (with stride 0). ``mean`` and ``pixel`` are
    C×1×1, as in the scene. ``compose(images, fill, keep)`` puts it in the place of the removed pixels.
    """

    make: Make
    compose: Compose = replaced


FILLS: Registry[Fill] = Registry("fill")


def fill(name: str, compose: Compose = replaced) -> Callable[[Make], Make]:
    """Register a function that makes a fill under ``name``."""

    def decorate(make: Make) -> Make:
        FILLS.add(name, Fill(make, compose), make)
        return make

    return decorate


@fill("mean")
def mean_fill(images: Tensor, _mean: Tensor, _pixel: Tensor, _keys: Tensor, _seed: int) -> Tensor:
    """The data set's mean colour: 0 in normalised space."""
    return torch.zeros_like(images[:1]).expand_as(images)


@fill("black")
def black_fill(images: Tensor, mean: Tensor, pixel: Tensor, _keys: Tensor, _seed: int) -> Tensor:
    """Pixel value 0."""
    return (-mean * pixel).expand_as(images)


@fill("blur")
def blur_fill(images: Tensor, _mean: Tensor, _pixel: Tensor, _keys: Tensor, _seed: int) -> Tensor:
    """The image itself under a Gaussian of σ = min(H, W)/8 (kernel cut at 2σ, edges reflected)."""
    from torchvision.transforms.functional import gaussian_blur

    side = min(images.shape[-2:])
    sigma = side / 8
    kernel = 2 * min(round(2 * sigma), side - 1) + 1
    blurred: Tensor = gaussian_blur(images, [kernel, kernel], [sigma, sigma])
    return blurred


@fill("noise")
def noise_fill(images: Tensor, mean: Tensor, pixel: Tensor, keys: Tensor, seed: int) -> Tensor:
    """Gaussian noise around the mean colour with the data set's deviation, clamped to pixel values [0, 1]."""
    noise = normal(seed, "fill", keys, 1, images[0].numel()).reshape(images.shape)
    return torch.maximum(torch.minimum(noise, (1 - mean) * pixel), -mean * pixel)


@fill("road", compose=imputed)
def road_fill(images: Tensor, _mean: Tensor, _pixel: Tensor, keys: Tensor, seed: int) -> Tensor:
    """Noisy linear imputation: weighted means of the neighbours, plus this noise, σ = 0.01 in normalised units."""
    return 0.01 * normal(seed, "road", keys, 1, images[0].numel()).reshape(images.shape)
