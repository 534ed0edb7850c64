"""The classes of a data set: a few facts about it, and splits that read uint8 images by position."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xeval.errors import DataError, UsageError, unknown

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Index = Sequence[int] | np.ndarray
CHUNK = 512
Size: TypeAlias = int | tuple[int, int]
"""The side of square images, or height and width of others."""


def as_size(height: int, width: int) -> Size:
    """Return the size of images of this height and width: one number for squares."""
    return height if height == width else (height, width)


def height_and_width(size: Size) -> tuple[int, int]:
    """Return height and width of images of a size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_text(size: Size) -> str:
    """Return a size as height×width."""
    return "×".join(map(str, height_and_width(size)))


@dataclass(frozen=True)
class DatasetInfo:
    """The facts that a model and a report need about a data set; ``mean`` and ``std`` are of images scaled to [0, 1].

    ``size`` is that of the images as read, resized by ``interpolation``; ``native`` is that of the files, None if they
    differ or there are none.
    """

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    size: Size
    native: Size | None = None
    interpolation: str = "bilinear"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image as read: channels, height, width."""
        return self.channels, *height_and_width(self.size)


def read_size(text: str) -> Size:
    """Return the size that a text says, a side or HEIGHTxWIDTH; raise :class:`UsageError` for any other text."""
    sides = re.fullmatch(r"([0-9]{1,6})(?:[x×]([0-9]{1,6}))?", text.strip().lower())
    if sides is None:
        raise UsageError(f"{text!r} is no size of images", "give a side such as 224, or HEIGHTxWIDTH such as 48x96")
    return as_size(int(sides[1]), int(sides[2] or sides[1]))


class Split(ABC):
    """One split of a data set, read lazily: labels and ids are in memory, :meth:`read` reads the images.

    ``notes`` are sentences on what its reader passed over or did without; who uses the split says them.
    """

    notes: tuple[str, ...] = ()
    own_objects: bool = False
    """Whether masks and boxes are the user's, who may change them: scores are then told apart by them too."""

    def __init__(self, info: DatasetInfo, name: str, labels: np.ndarray, ids: Sequence[str]) -> None:
        self.info = info
        self.name = name
        self.labels = np.asarray(labels, dtype=np.int64)
        self.ids = tuple(ids)
        self._manifest: str | None = None
        _require_rows(self)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: Index) -> torch.Tensor:
        """Return the images at these positions, uint8 (n, C, H, W).

        Raises:
            UsageError: a position lies outside the split.
            DataError: an image cannot be decoded; the message names its file.
        """
        import torch

        images = self._images(self._positions(index))
        return torch.from_numpy(np.ascontiguousarray(images))

    @property
    def images(self) -> tuple[str, ...]:
        """The id of each row's image: another one for each row, unless images have several labels with a row each."""
        return self.ids

    def truth(self, index: Index) -> torch.Tensor | None:
        """Return all labels of images that may have several, bool (n, classes); None where each has one."""
        self._positions(index)
        return None

    @abstractmethod
    def _images(self, positions: Ints) -> Pixels:
        """Return uint8 (n, C, H, W) for valid positions, int64 (n,)."""

    def boxes(self, index: Index) -> torch.Tensor | None:
        """Return boxes int64 (n, 4): x0, y0, x1, y1, inclusive, in pixels of the image as read; None without boxes."""
        self._positions(index)
        return None

    def masks(self, index: Index) -> torch.Tensor | None:
        """Return exact object masks, bool (n, 1, H, W), or None where the data set has none."""
        self._positions(index)
        return None

    def manifest(self, *, rehash: bool = False) -> str:
        """Return the sha256 (hex) of the image shape, the labels and the pixels as read, in order; compute it once.

        Image files whose manifest an earlier command has kept are not decoded again, except with ``rehash``.

        Raises:
            DataError: images cannot be decoded; the message says how many and names the first.
        """
        if rehash or self._manifest is None:
            self._manifest = (None if rehash else self._kept()) or self._hashed()
        return self._manifest

    def _kept(self) -> str | None:
        """Return the manifest that was kept by an earlier command, if it can be trusted."""
        return None

    def _hashed(self, each: Callable[[Pixels], None] = lambda _: None) -> str:
        """Read all images and return their manifest; ``each`` is called with the pixels of blocks of images."""
        shape = (len(self), *self.info.shape)
        digest = hashlib.sha256(repr(shape).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for start in range(0, len(self), CHUNK):
            positions = np.arange(start, min(start + CHUNK, len(self)))
            try:
                images = np.ascontiguousarray(self._images(positions))
            except DataError:
                problems = unreadable(self, range(len(self)))
                raise _damage(self, problems) from None
            digest.update(images.data)
            each(images)
        return digest.hexdigest()

    def _positions(self, index: Index) -> Ints:
        positions = np.asarray(index, dtype=np.int64).reshape(-1)
        outside = positions[(positions < 0) | (positions >= len(self))]
        if len(outside):
            raise UsageError(
                f"{self.info.name}/{self.name} has no image number {outside[0]}",
                f"use positions from 0 to {len(self) - 1}",
            )
        return positions


def _require_rows(split: Split) -> None:
    where = f"{split.info.name}/{split.name}"
    if not len(split.labels):
        raise DataError(f"{where} has no images", "check the folder, or run `xeval data check`")
    if len(split.labels) != len(split.ids):
        raise DataError(f"{where} has {len(split.labels)} labels for {len(split.ids)} images", "check the label file")
    lowest, highest, classes = split.labels.min(), split.labels.max(), len(split.info.classes)
    if lowest < 0 or highest >= classes:
        raise DataError(
            f"{where} has labels from {lowest} to {highest} for {classes} classes",
            "check the label file and the class names",
        )
    broken = [name for name in split.ids if not name.isascii() and name != name.encode(errors="replace").decode()]
    if broken:
        raise DataError(f"{where} has file names that are no Unicode text, first {broken[0]!a}", "rename the files")
    if len(set(split.ids)) < len(split.ids):
        twice = [name for name, count in Counter(split.ids).items() if count > 1]
        raise DataError(f"{where} has duplicate image ids: {', '.join(twice[:5])}", "remove or rename the duplicates")


class ArraySplit(Split):
    """A split whose images lie in one uint8 array (N, C, H, W), in memory or memory-mapped; reading resizes them."""

    def __init__(self, info: DatasetInfo, name: str, images: Pixels, labels: np.ndarray, ids: Sequence[str]) -> None:
        super().__init__(info, name, labels, ids)
        self._array = images

    def _images(self, positions: Ints) -> Pixels:
        return resized(self._array[positions], self.info.size)


@dataclass(frozen=True)
class Dataset:
    """A data set that a reader has found and checked; its splits are opened on demand.

    ``measured`` says that mean and standard deviation are those of the images found, not published ones;
    ``interpolations`` are the ways in which its images can be resized.
    """

    info: DatasetInfo
    splits: Mapping[str, Callable[[], Split]]
    measured: bool = False
    interpolations: frozenset[str] = frozenset({"bilinear"})

    def interpolated(self, method: str) -> Dataset:
        """Return the data set with images that are resized by a method, as it is where it has no such method."""
        if method == self.info.interpolation or method not in self.interpolations:
            return self
        info = replace(self.info, interpolation=method)
        return replace(self, info=info, splits={name: partial(_under, info, own) for name, own in self.splits.items()})

    def split(self, name: str) -> Split:
        """Return the split called ``name``; raise a UsageError that lists the known names for an unknown one."""
        if name not in self.splits:
            raise unknown("split", name, self.splits)
        return self.splits[name]()


def _under(info: DatasetInfo, opened: Callable[[], Split]) -> Split:
    split = opened()
    split.info = info
    return split


def normalize(images: torch.Tensor, info: DatasetInfo) -> torch.Tensor:
    """Normalise images for the network: (x − mean) / std per channel.

    Args:
        images: (n, C, H, W), uint8 in [0, 255] or floating point in [0, 1].
        info: the data set, which has the constants mean and std.

    Returns:
        float32, with the same shape and on the same device.
    """
    import torch

    scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    constants = (torch.tensor(values, dtype=torch.float32) for values in (info.mean, info.std))
    mean, std = (one.to(images.device, non_blocking=True) for one in constants)
    return (scaled - mean[:, None, None]) / std[:, None, None]


def resized(images: Pixels, size: Size) -> Pixels:
    """Resize uint8 images (N, C, H, W) as a whole to another size: bilinear, with antialiasing where they shrink."""
    import torch

    wanted = height_and_width(size)
    if images.shape[2:] == wanted:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    shrinks = any(new < old for new, old in zip(wanted, images.shape[2:], strict=True))
    small = torch.nn.functional.interpolate(pixels, wanted, mode="bilinear", antialias=shrinks)
    result: Pixels = small.round().to(torch.uint8).numpy()
    return result


def _damage(split: Split, problems: dict[int, str]) -> DataError:
    first = problems[min(problems)] if problems else "an image could not be read at first"
    return DataError(
        f"{first} ({len(problems)} of {len(split)} images of {split.info.name}/{split.name} cannot be read)",
        "replace or remove them; `xeval data check` lists all, `xeval score --allow-partial` leaves them out",
    )


def unreadable(split: Split, index: Index) -> dict[int, str]:
    """Return position → problem for the images that cannot be decoded, or whose masks cannot; empty if all can."""
    positions = [int(position) for position in index]
    problems: dict[int, str] = {}
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        if _problem(split, chunk):
            each = {position: _problem(split, [position]) for position in chunk}
            problems |= {position: problem for position, problem in each.items() if problem}
    return problems


def _problem(split: Split, positions: list[int]) -> str | None:
    try:
        split.read(positions)
        split.masks(positions)
    except DataError as fault:
        return fault.problem
    return None


def moments(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation per channel of uint8 images (N, C, H, W) scaled to [0, 1], to four decimals."""
    scaled = images.astype(np.float64) / 255
    mean, std = scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))
    return tuple(mean.round(4).tolist()), tuple(std.clip(min=1e-4).round(4).tolist())
