"""Makes random views: every image of a batch gets its own draws, which depend on (seed, stream, image key) alone.

Parameters are drawn on the CPU (the same on every device) and applied to the whole batch where the images are. Images
are float N×C×H×W in [0, 1] here; normalisation comes after.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from xeval.explainers.cam import upsample
from xeval.perturb.draws import uniform
from xeval.perturb.masks import cutoff_mask
from xeval.training.settings import Views

TRIES = 10  # proposals for a crop before the fallback, as in torchvision
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
BLUR_SIGMA = (0.1, 2.0)
Extent: TypeAlias = tuple[int, int]
"""Width and height of the images."""


@dataclass(frozen=True)
class Draws:
    """Named uniform draws of the images ``keys``, int64 (N,) on the CPU; ``stream`` separates epochs and views."""

    seed: int
    stream: str
    keys: Tensor

    def unit(self, name: str, positions: int = 1) -> Tensor:
        """Return draws N×positions in [0, 1)."""
        return uniform(self.seed, f"{self.stream}:{name}", self.keys, 1, positions)[:, 0]

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return draws (N,) in [low, high)."""
        return low + (high - low) * self.unit(name)[:, 0]

    def of(self, rows: Tensor) -> Draws:
        """Return the draws of some of the images."""
        return replace(self, keys=self.keys[rows])

    def happens(self, name: str, probability: float) -> Tensor:
        """Return bool (N,), true with ``probability``."""
        return self.unit(name)[:, 0] < probability


def random_view(images: Tensor, draws: Draws, views: Views) -> Tensor:
    """Return one random view of each image: geometry, flip, colour jitter, grey, blur."""
    extent = (images.shape[-1], images.shape[-2])
    if views.crop is not None:
        images = resized_crop(images, *crop_boxes(draws, views.crop, views.ratio, extent))
    placement = _placement(draws, views, extent)
    if placement is not None:
        images = F.grid_sample(images, _grid(placement, images), align_corners=False)
    if views.flip:
        images = torch.where(_column(draws.happens("flip", views.flip), images), images.flip(-1), images)
    if any(views.jitter):
        images = _some(images, draws, "jitter", views.jitter_p, lambda part, own: jitter(part, own, views.jitter))
    if views.grey:
        images = _some(images, draws, "grey", views.grey, lambda part, _own: grey(part).expand_as(part))
    if views.blur:
        images = _some(images, draws, "blur", views.blur_p, lambda part, own: _blurred(part, own, views.blur))
    return images


def masked_view(standard: Tensor, maps: Tensor, cutoff: float) -> Tensor:
    """Return ExCon's view: normalised images, 0 at pixels whose min-max scaled map value is at most ``cutoff``.

    ``standard`` is N×C×H×W and ``maps`` N×1×h×w (any grid: upsampled bilinearly before scaling).
    """
    return standard * cutoff_mask(upsample(maps, (standard.shape[-2], standard.shape[-1])), cutoff)


def _beside(values: Tensor, images: Tensor) -> Tensor:
    """Return the values on the images' device, without waiting for it."""
    return values.to(images.device, non_blocking=True)


def _column(values: Tensor, images: Tensor) -> Tensor:
    """Return values (N,) as N×1×1×1 on the images' device."""
    return _beside(values, images).reshape(-1, 1, 1, 1)


def _some(
    images: Tensor, draws: Draws, name: str, probability: float, change: Callable[[Tensor, Draws], Tensor]
) -> Tensor:
    """Change the images that ``probability`` chooses; nothing is computed for the others."""
    rows = draws.happens(name, probability).nonzero()[:, 0]
    where = _beside(rows, images)
    part = images.index_select(0, where)
    return images.index_copy(0, where, change(part, draws.of(rows))) if len(rows) else images


def _blurred(images: Tensor, draws: Draws, side: int) -> Tensor:
    return blur(images, draws.between("sigma", *BLUR_SIGMA), side)


def _placement(draws: Draws, views: Views, extent: Extent) -> Tensor | None:
    """Return N×3×3 maps from output to input coordinates in [−1, 1]; None where nothing moves."""
    maps = []
    if views.pad:
        offset = torch.floor(draws.unit("pad", 2) * (2 * views.pad + 1)) - views.pad
        maps.append(_affine(shift=2 * offset / torch.tensor(extent)))
    if views.rotate or views.shift or views.scale != (1, 1):
        maps.append(_small_affine(draws, views, extent))
    if not maps:
        return None
    total = maps[0]
    for matrix in maps[1:]:
        total = total @ matrix
    return total


def _affine(
    scale: Tensor | None = None, shift: Tensor | None = None, angle: Tensor | None = None, aspect: float = 1
) -> Tensor:
    """Return N×3×3 maps from N×2 scales, N×2 shifts and (N,) angles; a missing part is the identity.

    ``aspect`` is H/W: coordinates in [−1, 1] are stretched by it, and a rotation must not be.
    """
    given = next(part for part in (scale, shift, angle) if part is not None)
    matrix = torch.eye(3).repeat(len(given), 1, 1)
    if angle is not None:
        cos, sin = angle.cos(), angle.sin()
        matrix[:, :2, :2] = torch.stack([torch.stack([cos, -sin * aspect], 1), torch.stack([sin / aspect, cos], 1)], 1)
    if scale is not None:
        matrix[:, :2, :2] *= scale[:, None, :]
    if shift is not None:
        matrix[:, :2, 2] = shift
    return matrix


def _small_affine(draws: Draws, views: Views, extent: Extent) -> Tensor:
    """Draw a rotation about the centre, a magnification and a translation."""
    angle = draws.between("rotate", -1, 1) * math.radians(views.rotate)
    magnify = draws.between("scale", *views.scale)
    shift = (2 * draws.unit("shift", 2) - 1) * 2 * views.shift
    aspect = extent[1] / extent[0]
    return _affine(scale=(1 / magnify)[:, None].expand(-1, 2), shift=shift, angle=angle, aspect=aspect)


def _grid(placement: Tensor, images: Tensor) -> Tensor:
    """Return the input coordinates N×H×W×2 (x, y in [−1, 1]) of every output pixel."""
    return F.affine_grid(_beside(placement[:, :2], images), list(images.shape), align_corners=False)


def resized_crop(images: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """Return the boxes of whole pixels, ``corner`` and ``size`` N×2 (x, y), enlarged bilinearly to the images' size.

    Between the outermost pixel centres of the box and its edge the edge pixels are repeated, as torchvision does: what
    lies outside the box never shows.
    """
    extent = torch.tensor([images.shape[-1], images.shape[-2]])
    grid = _grid(_affine(scale=size / extent, shift=(2 * corner + size) / extent - 1), images)
    first, last = (2 * corner + 1) / extent - 1, (2 * (corner + size) - 1) / extent - 1
    limits = [_beside(limit, images)[:, None, None, :] for limit in (first, last)]
    return F.grid_sample(images, grid.clamp(*limits), padding_mode="border", align_corners=False)


def crop_boxes(
    draws: Draws, area: tuple[float, float], ratio: tuple[float, float], extent: Extent
) -> tuple[Tensor, Tensor]:
    """Draw the boxes of random resized crops in whole pixels: their corners and their sizes, each N×2 (x, y).

    The crop is the first of ten proposals (area uniform, log aspect ratio uniform) that fits into the image. Where none
    fits, it is the largest central box of an allowed ratio, which for a square image is the image. The distribution is
    the same as torchvision's.
    """
    areas = area[0] + (area[1] - area[0]) * draws.unit("crop-area", TRIES)
    ratios = torch.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws.unit("crop-ratio", TRIES))
    whole, side = torch.tensor(extent), math.sqrt(extent[0] * extent[1])
    sizes = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()], 2).mul(side).round()
    fits = ((sizes > 0) & (sizes <= whole)).all(2)
    first, some = fits.int().argmax(1), fits.any(1, keepdim=True)
    size = torch.where(some, sizes[torch.arange(len(sizes)), first], _central(extent, ratio))
    corner = torch.floor(draws.unit("crop-corner", 2) * (whole - size + 1))
    return torch.where(some, corner, torch.floor((whole - size) / 2)), size


def _central(extent: Extent, ratio: tuple[float, float]) -> Tensor:
    """Return the size (x, y) of the largest box of an allowed ratio."""
    width, height = extent
    return torch.tensor(
        [min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))], dtype=torch.float32
    )


def grey(images: Tensor) -> Tensor:
    """Return the luminance, N×1×H×W; an image with one channel is returned as it is."""
    if images.shape[1] == 1:
        return images
    weights = _beside(torch.tensor(GREY, dtype=images.dtype), images).reshape(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the images by ``factor`` N×1×1×1."""
    return (images * factor).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend the images with their mean luminance."""
    return torch.lerp(grey(images).mean((-3, -2, -1), keepdim=True), images, factor).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend every pixel with its luminance."""
    return torch.lerp(grey(images).expand_as(images), images, factor).clamp(0, 1)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue by ``turn`` N×1×1×1, as a share of the full circle."""
    if images.shape[1] == 1:
        return images
    value, chroma = images.amax(1, keepdim=True), images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    safe = torch.where(chroma > 0, chroma, 1)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    steps = (_beside(torch.tensor([5.0, 3.0, 1.0]), images).reshape(1, 3, 1, 1) + sextant + 6 * turn) % 6
    return value - chroma * torch.minimum(steps, 4 - steps).clamp(0, 1)


ColourChange = Callable[[Tensor, Tensor], Tensor]
CHANGES: tuple[ColourChange, ...] = (brightness, contrast, saturation, hue)


def jitter(images: Tensor, draws: Draws, strength: tuple[float, float, float, float]) -> Tensor:
    """Change brightness, contrast, saturation and hue by random amounts, in a random order for every image."""
    active = [(number, change, strength[number]) for number, change in enumerate(CHANGES) if strength[number]]
    amounts = {number: _amount(draws, number, power) for number, _, power in active}
    if len(active) == 1:
        number, change, _ = active[0]
        return change(images, _column(amounts[number], images))
    order = draws.unit("jitter-order", len(active)).argsort(1)
    images = images.clone()
    for turn in range(len(active)):
        for place, (number, change, _) in enumerate(active):
            rows = (order[:, turn] == place).nonzero()[:, 0]
            if len(rows):
                where = _beside(rows, images)
                part = images.index_select(0, where)
                images.index_copy_(0, where, change(part, _column(amounts[number][rows], images)))
    return images


def _amount(draws: Draws, number: int, power: float) -> Tensor:
    """Draw factors around 1 for the blends, and turns around 0 for the hue."""
    if CHANGES[number] is hue:
        return draws.between("hue", -power, power)
    return draws.between(CHANGES[number].__name__, max(0.0, 1 - power), 1 + power)


def blur(images: Tensor, sigma: Tensor, side: int) -> Tensor:
    """Blur with a Gaussian of one ``sigma`` (N,) in pixels per image, kernel ``side``×``side``, mirrored borders."""
    count, channels, height, width = images.shape
    reach = side // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = _beside(kernel / kernel.sum(1, keepdim=True), images).repeat_interleave(channels, 0)
    flat = F.pad(images, (reach, reach, reach, reach), mode="reflect").reshape(
        1, count * channels, height + 2 * reach, -1
    )
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return flat.reshape(count, channels, height, width)
