"""Maps that were made elsewhere: a row of a table looks them up by image, and nothing can explain with them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from xeval.runtime.files import digest


@dataclass(frozen=True, eq=False)
class Precomputed:
    """Maps float32 N×1×h×w on the host, and the ids of their images: None where they lie in the data set's order.

    ``targets`` int64 (N,) are the classes that the maps explain, None where nothing says it.
    """

    maps: Tensor
    ids: tuple[str, ...] | None = None
    targets: Tensor | None = None

    @cached_property
    def content(self) -> str:
        """The SHA-256 of maps, ids and targets; with ids it does not depend on the order in which they lie."""
        order = range(len(self.maps)) if self.ids is None else sorted(range(len(self.maps)), key=self.ids.__getitem__)
        found = sha256()
        for number in order:
            found.update(self.maps[number].numpy().data)
        ids = None if self.ids is None else [self.ids[number] for number in order]
        targets = None if self.targets is None else self.targets[torch.tensor(order)].tolist()
        return digest([list(self.maps.shape), ids, targets, found.hexdigest()])

    def of_images(self, ids: Sequence[str]) -> Precomputed:
        """Return the same maps as those of the images with these ids, where they have none of their own."""
        return self if self.ids is not None else replace(self, ids=tuple(ids))

    def places(self, ids: Sequence[str]) -> Tensor:
        """Return the number of the map of each row of a split, by the row's id: int64 (n,), on the host."""
        return torch.tensor([self._numbers[row] for row in ids])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {row: number for number, row in enumerate(self.ids or ())}
