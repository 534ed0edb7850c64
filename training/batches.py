"""The images of a run: uint8, on the device where they fit, in an order that depends on seed and epoch alone."""

from __future__ import annotations

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
    """``images`` uint8 n×C×H×W and ``labels`` (n,) on the device; ``keys`` (n,) on the CPU; ``rows`` in the split.

    These are the images of this rank; ``whole`` has the labels of all ranks' in order, ``shares`` says how many each
    rank has. A rank without a share holds images that stand in and count for nothing.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    rows: NDArray[np.int64]
    whole: Tensor
    shares: tuple[int, ...]


class Pool:
    """The images ``rows`` of one split; more than 2 GiB are read again batch by batch instead of being kept."""

    def __init__(
        self, split: Split, rows: NDArray[np.int64], device: torch.device, processes: Processes = ALONE
    ) -> None:
        self.split = split
        self.rows = rows
        self.device = device
        self.processes = processes
        self.labels = torch.from_numpy(split.labels[rows]).to(device)
        self.keys = image_keys([split.ids[row] for row in rows])
        info = split.info
        resident = len(rows) * info.channels * info.size**2 <= RESIDENT_BYTES
        self._images = self._load() if resident and len(rows) else None

    def __len__(self) -> int:
        return len(self.rows)

    def _load(self) -> Tensor:
        chunks = [self.split.read(self.rows[start : start + CHUNK]) for start in range(0, len(self.rows), CHUNK)]
        return torch.cat(chunks).to(self.device)

    def take(self, positions: Tensor) -> Batch:
        """This rank's share of the batch of these positions in the pool (int64 on the CPU)."""
        shares, rank = shared_out(len(positions), self.processes.world), self.processes.rank
        start = sum(shares[:rank]) if shares[rank] else 0
        own = positions[start : start + (shares[rank] or shares[0])]
        rows, where = self.rows[own.numpy()], own.to(self.device)
        images = self._images[where] if self._images is not None else self.split.read(rows).to(self.device)
        labels = self.labels[where]
        whole = labels if len(own) == len(positions) else self.labels[positions.to(self.device)]
        return Batch(images, labels, self.keys[own], rows, whole, shares)

    def steps(self, size: int) -> int:
        """How many batches :meth:`batches` gives."""
        return len(self._cuts(len(self), size))

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """All images in ``order`` (default: as they are); a last batch of one image joins the one before."""
        order = torch.arange(len(self)) if order is None else order
        for start, stop in self._cuts(len(self), size):
            yield self.take(order[start:stop])

    def shuffled(self, seed: int, stream: str) -> Tensor:
        """A permutation of the pool that depends on (seed, stream) and the images' keys alone."""
        return bits(seed, stream, self.keys, 1, 1)[:, 0, 0].argsort(stable=True)

    @staticmethod
    def _cuts(count: int, size: int) -> list[tuple[int, int]]:
        starts = list(range(0, count, size))
        if len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))


def shared_out(count: int, world: int) -> tuple[int, ...]:
    """How many of ``count`` images each rank gets: alike, but nobody a single one, of which BatchNorm learns nothing.

    Where they are fewer than two a rank, the last ranks get none.
    """
    served = max(1, min(world, count // 2))
    each, more = divmod(count, served)
    return (*(each + (rank < more) for rank in range(served)), *[0] * (world - served))
