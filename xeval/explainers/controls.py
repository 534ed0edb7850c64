"""Control explainers give the reference rows that show what a score is worth.

Each takes ``(images, reference, keys, draw)``: normalised images N×C×H×W, the reference explainer's maps N×1×h×w on
their own grid, the image keys (N,) and the number of the draw. It returns maps N×1×h×w or N×1×H×W. The scorer derives
the last three from the reference explainer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xeval.explainers.base import control, derived_control
from xeval.perturb.draws import splitmix64, states, unit


def _noise(keys: Tensor, draw: int, size: tuple[int, ...], stream: str) -> Tensor:
    number = torch.full_like(keys, draw)
    values = unit(splitmix64(states(0, stream, keys, number), size[-2] * size[-1]))
    return values.reshape(len(keys), 1, *size[-2:])


@control("random", draws=5, symmetric=True)
def random(images: Tensor, _reference: Tensor, keys: Tensor, draw: int) -> Tensor:
    """Uniform noise, one value a pixel."""
    return _noise(keys, draw, tuple(images.shape), "random")


@control("random-cam", draws=5, symmetric=True)
def random_cam(_images: Tensor, reference: Tensor, keys: Tensor, draw: int) -> Tensor:
    """Uniform noise on the reference's own grid, upsampled as its maps are: what smoothness alone is worth."""
    return _noise(keys, draw, tuple(reference.shape), "random-cam")


@control("centre")
def centre(images: Tensor, _reference: Tensor, _keys: Tensor, _draw: int) -> Tensor:
    """A Gaussian at the centre, σ = min(H, W)/4: what knowing that objects sit in the middle is worth."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    bump = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * (min(height, width) / 4) ** 2))
    return bump.expand(len(images), 1, height, width).clone()


@control("edge")
def edge(images: Tensor, _reference: Tensor, _keys: Tensor, _draw: int) -> Tensor:
    """Sobel gradient magnitude of the intensity (mean of the normalised channels), borders replicated."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor(
        [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=images.device, dtype=images.dtype
    )
    kernels = torch.stack([sobel, sobel.T]).unsqueeze(1)
    magnitude: Tensor = torch.linalg.vector_norm(F.conv2d(grey, kernels), dim=1, keepdim=True)
    return magnitude


@control("constant", symmetric=True)
def constant(images: Tensor, _reference: Tensor, _keys: Tensor, _draw: int) -> Tensor:
    """The same value everywhere; ranked by the seeded tie-break alone."""
    return torch.ones_like(images[:, :1])


@derived_control("inverse")
def inverse() -> None:
    """The reference explainer's map with its sign turned: what the opposite is worth."""


@derived_control("shuffled")
def shuffled() -> None:
    """The reference explainer's map of another image of the split, drawn by the image's id."""


@derived_control("untrained")
def untrained() -> None:
    """The reference explainer on the same network with fresh random weights."""
