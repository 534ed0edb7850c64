"""Draw procedural shapes on textured grounds; their exact masks are the ground truth for testing localisation.

Image i of a split is a function of (split, i, side) alone, so images can be drawn when they are read, in any order.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xeval.data.base import Dataset, DatasetInfo, Index, Ints, Pixels, Split
from xeval.data.sources import reader

if TYPE_CHECKING:
    import torch

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]
CLASSES = ("circle", "square", "triangle", "cross", "ring")
SIDE = 32
COUNTS = {"train": 2000, "test": 500}
SEEDS = {"train": 1, "test": 2}
MEAN, STD = (0.5, 0.5, 0.5), (0.139, 0.139, 0.139)


class Shapes(Split):
    """A split that draws its images on demand; the labels cycle through the classes."""

    def __init__(self, info: DatasetInfo, name: str) -> None:
        count = COUNTS[name]
        super().__init__(info, name, np.arange(count) % len(CLASSES), [f"{name}-{row:04d}" for row in range(count)])

    def _images(self, positions: Ints) -> Pixels:
        images = np.empty((len(positions), *self.info.shape), dtype=np.uint8)
        for row, position in enumerate(positions):
            images[row] = draw(self.name, int(position), images.shape[3])[0]
        return images

    def _masks(self, positions: Ints) -> Mask:
        masks = np.empty((len(positions), 1, *self.info.shape[1:]), dtype=np.bool_)
        for row, position in enumerate(positions):
            masks[row, 0] = draw(self.name, int(position), masks.shape[3])[1]
        return masks

    def masks(self, index: Index) -> torch.Tensor | None:
        """Return the pixels of the shape, bool (n, 1, H, W)."""
        import torch

        return torch.from_numpy(self._masks(self._positions(index)))

    def boxes(self, index: Index) -> torch.Tensor | None:
        """Return the smallest boxes around the masks, int64 (n, 4), inclusive."""
        import torch

        masks = self._masks(self._positions(index))[:, 0]
        boxes = [(*_extent(mask.any(axis=0)), *_extent(mask.any(axis=1))) for mask in masks]
        corners = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)
        return corners[:, [0, 2, 1, 3]]


def draw(split: str, position: int, side: int) -> tuple[Pixels, Mask]:
    """Draw one image uint8 (3, side, side) and the mask (side, side) of its shape.

    The ground has stripes between two colours plus noise. The shape has a third colour, at least 0.35 away from the
    ground's mean in every channel, with noise of its own. Its radius is 15–22 % of the side; it lies anywhere inside
    the image and is turned by up to 20 degrees.
    """
    random = np.random.default_rng((SEEDS[split], position))
    radius, angle = random.uniform(0.15, 0.22), random.uniform(-np.pi / 9, np.pi / 9)
    centre = random.uniform(0.24, 0.76, size=2)
    grid = (np.arange(side) + 0.5) / side
    x, y = grid[None, :] - centre[0], grid[:, None] - centre[1]
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    mask = _inside(CLASSES[position % len(CLASSES)], u, v)
    ground = _ground(random, grid)
    level = ground.mean(axis=(1, 2))
    away = np.where(level > 0.5, -1.0, 1.0) * random.uniform(0.35, 0.5, size=3)
    colour = (level + away)[:, None, None] + np.zeros_like(ground)
    noise = random.normal(0, 0.05, size=ground.shape)
    image = np.where(mask, colour, ground) + noise
    return (image.clip(0, 1) * 255).round().astype(np.uint8), mask


def _inside(shape: str, u: Plane, v: Plane) -> Mask:
    """Return the pixels of a shape of radius 1 around the origin; v points down."""
    distance = np.hypot(u, v)
    thin, long = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    inside: dict[str, Mask] = {
        "circle": distance <= 1,
        "square": long <= 0.85,
        "triangle": (v <= 0.6) & (abs(u) * np.sqrt(3) <= v + 1.1),
        "cross": (thin <= 0.3) & (long <= 1),
        "ring": (distance <= 1) & (distance >= 0.6),
    }
    return inside[shape]


def _ground(random: np.random.Generator, grid: Plane) -> Plane:
    """Draw stripes (3, side, side) of random direction and width between two colours."""
    direction, waves, phase = random.uniform(0, np.pi), random.uniform(3, 8), random.uniform(0, 2 * np.pi)
    along = np.cos(direction) * grid[None, :] + np.sin(direction) * grid[:, None]
    weight = 0.5 + 0.5 * np.sin(2 * np.pi * waves * along + phase)
    first, second = random.uniform(0.35, 0.65, size=(2, 3))
    stripes: Plane = first[:, None, None] + (second - first)[:, None, None] * weight
    return stripes


def _extent(line: Mask) -> tuple[int, int]:
    """Return the first and last true position."""
    found = np.flatnonzero(line)
    return int(found[0]), int(found[-1])


@reader("shapes", "five procedural shapes on textures, 32 px, colour, with exact masks")
def read(_root: Path, size: int | None) -> Dataset:
    """Five shapes, 2,000 images to train on and 500 to test on, with masks and boxes."""
    info = DatasetInfo("shapes", CLASSES, MEAN, STD, channels=3, size=size or SIDE)
    return Dataset(info, {name: partial(Shapes, info, name) for name in COUNTS})
