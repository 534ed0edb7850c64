"""Register the readers of data sets, and open a data set by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.data.base import Dataset, Size, as_size, height_and_width, size_text
from xeval.data.download import Archive, require_checksum
from xeval.errors import DataError, UsageError
from xeval.registry import Registry
from xeval.runtime.cache import user_cache

Reader = Callable[[Path, Any], Dataset]
Locate = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Source:
    """A reader, called with data root and side in pixels (None for the default), and what the lists say of its data.

    One for ``any_shape`` is also called with (height, width).
    """

    read: Reader
    description: str
    archives: tuple[Archive, ...]
    locate: Locate
    remedy: str
    any_shape: bool = False


READERS: Registry[Source] = Registry("dataset")


def reader(
    name: str,
    description: str,
    *,
    archives: tuple[Archive, ...] = (),
    locate: Locate = lambda _root: None,
    remedy: str = "",
    any_shape: bool = False,
) -> Callable[[Reader], Reader]:
    """Register the function that reads a data set under the data set's name.

    ``archives`` are the official files; the first is the one to fetch. ``locate`` finds the data set below a data root.
    ``remedy`` says how to get what cannot be fetched. ``any_shape`` says that images need not be read as squares.
    """

    def decorate(read: Reader) -> Reader:
        READERS.add(name, Source(read, description, archives, locate, remedy, any_shape), read)
        return read

    return decorate


def data_root(root: Path | None = None) -> Path:
    """Return where data sets are looked for: ``root``, else $XEVAL_DATA, else the user's cache directory."""
    if root is not None:
        return root
    if os.environ.get("XEVAL_DATA"):
        return Path(os.environ["XEVAL_DATA"])
    return user_cache()


def missing(name: str, wanted: str, root: Path, remedy: str = "") -> DataError:
    """Return the error for a data set that was not found."""
    return DataError(
        f"{name} was not found: looked for {wanted} in {root}",
        remedy or f"run `xeval data get {name}`, or give --data DIR",
    )


def require_official(place: Path, archives: tuple[Archive, ...]) -> bool:
    """Return whether ``place`` has the name of one of these archives; raise CheckpointError if its checksum differs.

    This is called before anything in an archive is read. Your own archive under another name is not compared.
    """
    named = [archive for archive in archives if place.name == archive.file and place.is_file()]
    for archive in named:
        require_checksum(place, archive)
    return bool(named)


def open_dataset(name: str, root: Path | None = None, size: Size | None = None) -> Dataset:
    """Open a data set by name, or ``folder:PATH``; ``size`` resizes its images: pixels a side, or (height, width).

    Raises:
        UsageError: the name is unknown or the size is impossible.
        DataError: files are missing or unreadable; the message says what was looked for and where.
    """
    kind, _, path = name.partition(":")
    source = READERS[kind]
    if size is not None:
        size = _possible(size, kind, source)
    if (kind == "folder") != bool(path):
        raise UsageError(f"the data set {name!r} is not understood", "write folder:PATH, or the name alone")
    where = Path(path) if path else data_root(root)
    if root is not None and not path and not root.exists():
        raise DataError(f"the data directory {root} does not exist", "check --data")
    return source.read(where, size)


def _possible(size: Size, kind: str, source: Source) -> Size:
    """Return a size as it is written; raise :class:`UsageError` for one that the images cannot have."""
    sides = height_and_width(size)
    if not all(4 <= side <= 4096 for side in sides):
        raise UsageError(
            f"images of {' and '.join(map(str, dict.fromkeys(sides)))} pixels a side were asked for",
            "choose a side from 4 to 4096",
        )
    if len(set(sides)) > 1 and not source.any_shape:
        raise UsageError(
            f"{kind} has square images, not {size_text(size)}", "choose one number of pixels for both sides"
        )
    return as_size(*sides)
