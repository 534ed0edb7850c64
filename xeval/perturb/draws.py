"""Draw random numbers that are the same for an image in every batch, order and process and on every device.

A draw is a pure function of (seed, stream, image key, draw number, position). The generator is splitmix64, used with
random access: each number is computed from its position, without those before it.

Source: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Return the int64 that has the 64-bit pattern of ``value``."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


CACHED = 1 << 16  # values of 8 bytes in a block that fits the processor's cache

_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, n: int) -> Tensor:
    """Return the logical right shift of int64 (torch's ``>>`` copies the sign) as a new tensor."""
    shifted = x >> n
    shifted &= (1 << (64 - n)) - 1
    return shifted


def _mix(z: Tensor) -> Tensor:
    """Apply splitmix64's output function; it overwrites intermediate results, because memory limits its speed."""
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
    """Return outputs 1 … ``positions`` of the generator started at each ``state``: int64, state.shape + (positions,).

    ``read`` converts the 64 bits, for example to floats. A processor computes the outputs in blocks that stay in its
    cache, an accelerator all at once.
    """
    steps = torch.arange(1, positions + 1, device=state.device, dtype=torch.int64) * _GAMMA
    starts = state.reshape(-1, 1)
    rows = CACHED // max(1, positions) if state.device.type == "cpu" else len(starts)
    blocks = [read(_mix(block + steps)) for block in torch.split(starts, max(1, rows))]
    return torch.cat(blocks).reshape(*state.shape, positions)


def word(text: str) -> int:
    """Return the first eight bytes of the SHA-256 of ``text`` as an int64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def image_keys(ids: Sequence[str]) -> Tensor:
    """Return the key of each image: an int64 hash of its id (its path or index inside the data set)."""
    return torch.tensor([word(name) for name in ids], dtype=torch.int64)


def states(seed: int, stream: str, keys: Tensor, draws: Tensor) -> Tensor:
    """Return the generator states of the pairs (key, draw), int64, elementwise with broadcasting."""
    return _mix(_mix(keys ^ word(f"{seed}:{stream}")) + draws * _GAMMA)


def _generators(seed: int, stream: str, keys: Tensor, draws: int) -> Tensor:
    """Return the states of all draws of N image ``keys``, int64 (N, draws)."""
    return states(seed, stream, keys[:, None], torch.arange(draws, device=keys.device, dtype=torch.int64))


def bits(seed: int, stream: str, keys: Tensor, draws: int, positions: int) -> Tensor:
    """Return 64 random bits for each position as int64, shape (N, draws, positions), for N image ``keys``."""
    return splitmix64(_generators(seed, stream, keys, draws), positions)


def unit(random_bits: Tensor) -> Tensor:
    """Return uniform float32 in [0, 1) from the upper 24 of 64 random bits (exact on every device)."""
    return _shift(random_bits, 40).to(torch.float32).mul_(2.0**-24)


def gaussian(random_bits: Tensor) -> Tensor:
    """Return standard normal float32 by inversion from the upper 23 of 64 random bits; |z| < 5.4."""
    u = _shift(random_bits, 41).to(torch.float32).add_(0.5).mul_(2.0**-23)
    return u.mul_(2).sub_(1).erfinv_().mul_(2.0**0.5)


def uniform(seed: int, stream: str, keys: Tensor, draws: int, positions: int) -> Tensor:
    """Return uniform float32 in [0, 1), shape (N, draws, positions)."""
    return splitmix64(_generators(seed, stream, keys, draws), positions, unit)


def normal(seed: int, stream: str, keys: Tensor, draws: int, positions: int) -> Tensor:
    """Return standard normal float32, shape (N, draws, positions)."""
    return splitmix64(_generators(seed, stream, keys, draws), positions, gaussian)
