"""Leave the images that cannot be decoded out of a split, the same for every checkpoint, and name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xeval.data.base import Index, Ints, Pixels, Split, unreadable

if TYPE_CHECKING:
    import torch


class Readable(Split):
    """A split with the images of another split at ``places``, in their order and under their ids."""

    def __init__(self, whole: Split, places: Ints) -> None:
        super().__init__(whole.info, whole.name, whole.labels[places], [whole.ids[place] for place in places])
        self.notes, self.own_objects = whole.notes, whole.own_objects
        self._whole = whole
        self._places = places

    def _images(self, positions: Ints) -> Pixels:
        pixels: Pixels = self._whole.read(self._places[positions]).numpy()
        return pixels

    def boxes(self, index: Index) -> torch.Tensor | None:
        """Return the boxes that the whole split has for these images."""
        return self._whole.boxes(self._places[self._positions(index)])

    def masks(self, index: Index) -> torch.Tensor | None:
        """Return the masks that the whole split has for these images."""
        return self._whole.masks(self._places[self._positions(index)])


def without_damaged(split: Split) -> tuple[Split, dict[int, str]]:
    """Return the split without its unreadable images, and their position → problem; if none is readable, keep all."""
    problems = unreadable(split, range(len(split)))
    if not problems or len(problems) == len(split):
        return split, {}
    return Readable(split, np.setdiff1d(np.arange(len(split)), list(problems))), problems
