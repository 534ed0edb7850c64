"""Provides the images of a run as uint8, on the device where they fit, in an order that depends on seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xeval.data import Split
from xeval.perturb.draws import bits, image_keys
from xeval.runtime.distributed import ALONE, Processes

RESIDENT_BYTES = 2 << 30
CHUNK = 1024


@dataclass(frozen=True)
class Batch:
    """This rank's share of one batch, made by :meth:`Pool.take`.

    ``images`` uint8 n×C×H×W and ``labels`` (n,) are on the device, ``keys`` (n,) on the CPU; ``rows`` are the positions
    in the split. ``whole`` has the labels of all ranks in order, and ``shares`` the number of images of each rank. A
    rank without a share holds the images of the first rank as placeholders, which do not count.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    rows: NDArray[np.int64]
    whole: Tensor
    shares: tuple[int, ...]


@dataclass(eq=False)
class Pool:
    """The images ``rows`` of one split, as :func:`make_pool` lays them out.

    ``labels`` (n,) are on the device, ``keys`` (n,) on the CPU. ``resident`` holds all images, uint8 n×C×H×W on the
    device, or is None where they are read batch by batch.
    """

    split: Split
    rows: NDArray[np.int64]
    device: torch.device
    labels: Tensor
    keys: Tensor
    resident: Tensor | None
    processes: Processes = ALONE

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> Batch:
        """Return this rank's share of the batch of these positions in the pool (int64 on the CPU)."""
        shares, rank = shared_out(len(positions), self.processes.world), self.processes.rank
        start = sum(shares[:rank]) if shares[rank] else 0
        own = positions[start : start + (shares[rank] or shares[0])]
        rows, where = self.rows[own.numpy()], self._sent(own)
        images = self.resident[where] if self.resident is not None else self._sent(self.split.read(rows))
        labels = self.labels[where]
        whole = labels if len(own) == len(positions) else self.labels[self._sent(positions)]
        return Batch(images, labels, self.keys[own], rows, whole, shares)

    def _sent(self, values: Tensor) -> Tensor:
        """Return the values on the device, without waiting for it."""
        return values.to(self.device, non_blocking=True)

    def steps(self, size: int) -> int:
        """Return how many batches :meth:`batches` gives."""
        return len(self._cuts(len(self), size))

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Yield all images in ``order`` (default: as they are); a last batch of one image joins the one before."""
        order = torch.arange(len(self)) if order is None else order
        for start, stop in self._cuts(len(self), size):
            yield self.take(order[start:stop])

    def shuffled(self, seed: int, stream: str) -> Tensor:
        """Return a permutation of the pool that depends on (seed, stream) and the images' keys alone."""
        return bits(seed, stream, self.keys, 1, 1)[:, 0, 0].argsort(stable=True)

    @staticmethod
    def _cuts(count: int, size: int) -> list[tuple[int, int]]:
        starts = list(range(0, count, size))
        if len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))


def make_pool(split: Split, rows: NDArray[np.int64], device: torch.device, processes: Processes = ALONE) -> Pool:
    """Put the images ``rows`` of a split on a device; more than 2 GiB are read batch by batch instead."""
    info = split.info
    fits = 0 < len(rows) * math.prod(info.shape) <= RESIDENT_BYTES
    chunks = [split.read(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)] if fits else []
    return Pool(
        split,
        rows,
        device,
        torch.from_numpy(split.labels[rows]).to(device),
        image_keys([split.ids[row] for row in rows]),
        torch.cat(chunks).to(device) if fits else None,
        processes,
    )


def shared_out(count: int, world: int) -> tuple[int, ...]:
    """Return how many of ``count`` images each rank gets: equal shares, but never a single image.

    BatchNorm has no variance to compute from a single image. Where there are fewer than two images per rank, the last
    ranks get none.
    """
    served = max(1, min(world, count // 2))
    each, more = divmod(count, served)
    return (*(each + (rank < more) for rank in range(served)), *[0] * (world - served))
