"""What a network's own configuration says of the images that its published weights were trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    """The preprocessing of published weights: constants for images in [0, 1], the side in pixels, how it is reached.

    ``crop`` is the share of the shorter side that the square keeps, ``classes`` how many the weights tell apart.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    interpolation: str
    crop: float
    classes: int
