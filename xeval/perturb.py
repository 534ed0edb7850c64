"""Perturbations: counter-based draws, rankings, masks and fills, shared by the metrics and by ExCon's training views.

A draw is a pure function of (seed, stream, image key, draw number, position): splitmix64 with random access. Nothing
depends on the batch an image came in, on the order, the number of workers or the device.

Source: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from xeval.errors import UsageError
from xeval.registry import Registry
from xeval.road import linear_imputation


def _signed(value: int) -> int:
    """The 64-bit pattern of ``value`` as the int64 that holds it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


CACHED = 1 << 16  # values of 8 bytes

_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, n: int) -> Tensor:
    """Logical right shift of int64 (torch's ``>>`` copies the sign); a tensor of its own."""
    shifted = x >> n
    shifted &= (1 << (64 - n)) - 1
    return shifted


def _mix(z: Tensor) -> Tensor:
    """The output function of splitmix64, written over its own intermediate results: the memory is what it waits for."""
    first = _shift(z, 30)
    first ^= z
    first *= _MIX_1
    second = _shift(first, 27)
    second ^= first
    second *= _MIX_2
    third = _shift(second, 31)
    third ^= second
    return third


def splitmix64(state: Tensor, positions: int, read: Callable[[Tensor], Tensor] = lambda bits: bits) -> Tensor:
    """Outputs 1 … ``positions`` of the generators started at each ``state``: int64, state.shape + (positions,).

    ``read`` makes something else of the 64 bits. A processor works on blocks that stay in its cache, an accelerator on
    everything at once.
    """
    steps = torch.arange(1, positions + 1, device=state.device, dtype=torch.int64) * _GAMMA
    starts = state.reshape(-1, 1)
    rows = CACHED // max(1, positions) if state.device.type == "cpu" else len(starts)
    blocks = [read(_mix(block + steps)) for block in torch.split(starts, max(1, rows))]
    return torch.cat(blocks).reshape(*state.shape, positions)


def word(text: str) -> int:
    """The first eight bytes of the SHA-256 of ``text`` as an int64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def image_keys(ids: Sequence[str]) -> Tensor:
    """The key of each image: an int64 hash of its id (path or index inside the data set)."""
    return torch.tensor([word(name) for name in ids], dtype=torch.int64)


def states(seed: int, stream: str, keys: Tensor, draws: Tensor) -> Tensor:
    """The generator states of the pairs (key, draw), elementwise with broadcasting: int64."""
    return _mix(_mix(keys ^ word(f"{seed}:{stream}")) + draws * _GAMMA)


def _generators(seed: int, stream: str, keys: Tensor, draws: int) -> Tensor:
    """The states of all draws of N image ``keys``, int64 (N, draws)."""
    return states(seed, stream, keys[:, None], torch.arange(draws, device=keys.device, dtype=torch.int64))


def bits(seed: int, stream: str, keys: Tensor, draws: int, positions: int) -> Tensor:
    """64 random bits each as int64, shape (N, draws, positions), for N image ``keys``."""
    return splitmix64(_generators(seed, stream, keys, draws), positions)


def unit(random_bits: Tensor) -> Tensor:
    """Uniform float32 in [0, 1) from the upper 24 of 64 random bits (exact on every device)."""
    return _shift(random_bits, 40).to(torch.float32).mul_(2.0**-24)


def gaussian(random_bits: Tensor) -> Tensor:
    """Standard normal float32 by inversion from the upper 23 of 64 random bits; |z| < 5.4."""
    u = _shift(random_bits, 41).to(torch.float32).add_(0.5).mul_(2.0**-23)
    return u.mul_(2).sub_(1).erfinv_().mul_(2.0**0.5)


def uniform(seed: int, stream: str, keys: Tensor, draws: int, positions: int) -> Tensor:
    """Uniform float32 in [0, 1), shape (N, draws, positions)."""
    return splitmix64(_generators(seed, stream, keys, draws), positions, unit)


def normal(seed: int, stream: str, keys: Tensor, draws: int, positions: int) -> Tensor:
    """Standard normal float32, shape (N, draws, positions)."""
    return splitmix64(_generators(seed, stream, keys, draws), positions, gaussian)


def kept(fraction: float, pixels: int) -> int:
    """⌊fraction · pixels⌋ in exact decimal arithmetic: 0.15 of 1024 pixels is 153, 0.29 of 100 is 29."""
    if not 0 <= fraction <= 1:
        raise UsageError(f"the keep fraction {fraction:g} lies outside [0, 1]", "use a fraction such as 0.15")
    return int(Fraction(repr(fraction)) * pixels)


def tie_break(seed: int, keys: Tensor, pixels: int) -> Tensor:
    """A random order of the pixels of each image, int64 (N, pixels): it decides between equal map values."""
    return bits(seed, "tie-break", keys, 1, pixels)[:, 0].argsort(dim=1)


def ranks(maps: Tensor, order: Tensor) -> Tensor:
    """The rank of each pixel, 0 = most relevant; equal values in the seeded ``order``.

    ``maps`` N×1×H×W, ``order`` from :func:`tie_break`; returns int64 N×H×W. Deterministic and independent of the batch.
    """
    flat = maps.flatten(1).gather(1, order)
    descending = order.gather(1, flat.argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(descending)
    return torch.empty_like(descending).scatter_(1, descending, places).reshape(maps.shape[0], *maps.shape[-2:])


def legacy_ranks(maps: Tensor) -> Tensor:
    """Ranks by numpy's default argsort of −A on the host: what published code does, with arbitrary order among ties."""
    flat = maps.flatten(1)
    order = torch.from_numpy(np.argsort(-flat.cpu().numpy(), axis=1)).to(maps.device)
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(maps.shape[0], *maps.shape[-2:])


def top_k(maps: Tensor, k: int, order: Tensor) -> Tensor:
    """Boolean N×1×H×W mask of the ``k`` most relevant pixels of each map."""
    return (ranks(maps, order) < k).unsqueeze(1)


def cut_ties(maps: Tensor, k: int) -> Tensor:
    """Share of pixels equal to the last kept value where the cut at ``k`` runs through ties: float64 (N,)."""
    flat = maps.flatten(1)
    pixels = flat.shape[1]
    if k in (0, pixels):
        return torch.zeros(len(flat), dtype=torch.float64, device=maps.device)
    ordered = flat.sort(dim=1, descending=True).values
    tied = (flat == ordered[:, k - 1 : k]).sum(1).double() / pixels
    return torch.where(ordered[:, k - 1] == ordered[:, k], tied, torch.zeros_like(tied))


def minmax(maps: Tensor) -> Tensor:
    """Each map scaled to [0, 1] on its own; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))


def cutoff_mask(maps: Tensor, cutoff: float) -> Tensor:
    """Boolean mask of the pixels whose min-max normalised value exceeds ``cutoff`` (ExCon's training mask)."""
    return minmax(maps) > cutoff


Make = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
Compose = Callable[[Tensor, Tensor, Tensor], Tensor]


def replaced(images: Tensor, fill: Tensor, keep: Tensor) -> Tensor:
    """``images`` where ``keep`` (bool N×1×H×W) is true, ``fill`` elsewhere."""
    return torch.where(keep, images, fill)


def imputed(images: Tensor, fill: Tensor, keep: Tensor) -> Tensor:
    """``images`` with the removed pixels interpolated from the kept ones, plus ``fill`` there."""
    return torch.where(keep, images, linear_imputation(images, keep) + fill)


@dataclass(frozen=True)
class Fill:
    """What takes the place of removed pixels.

    ``make(images, mean, pixel, keys, seed)`` is what an image becomes of which nothing is kept, N×C×H×W normalised; one
    image expanded (with stride 0) where it is the same for all.
    ``mean`` and ``pixel`` C×1×1 as in the scene. ``compose(images, fill, keep)`` puts it in the place of pixels.
    """

    make: Make
    compose: Compose = replaced


FILLS: Registry[Fill] = Registry("fill")


def fill(name: str, compose: Compose = replaced) -> Callable[[Make], Make]:
    """Register what removed pixels become under ``name``."""

    def decorate(make: Make) -> Make:
        FILLS.add(name, Fill(make, compose), __file__)
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
    """The image itself under a Gaussian of σ = H/8 (kernel cut at 2σ, edges reflected)."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = images.shape[-2] / 8
    kernel = 2 * min(round(2 * sigma), min(images.shape[-2:]) - 1) + 1
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
