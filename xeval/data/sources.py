"""Where data sets come from: the registry of readers and the way from a name to an open data set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xeval.data.base import Dataset
from xeval.data.download import Archive, require_checksum
from xeval.errors import DataError, UsageError
from xeval.registry import Registry

Reader = Callable[[Path, int | None], Dataset]
Locate = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Source:
    """A reader (data root, side in pixels or None for its own → data set) and what the lists say about it."""

    read: Reader
    description: str
    archives: tuple[Archive, ...]
    locate: Locate
    remedy: str


READERS: Registry[Source] = Registry("dataset")


def reader(
    name: str,
    description: str,
    *,
    archives: tuple[Archive, ...] = (),
    locate: Locate = lambda _root: None,
    remedy: str = "",
) -> Callable[[Reader], Reader]:
    """Register the function that reads a data set under the data set's name.

    ``archives`` are the official files, the one to fetch first; ``locate`` finds the data set below a data root;
    ``remedy`` says how to get what cannot be fetched.
    """

    def decorate(read: Reader) -> Reader:
        READERS.add(name, Source(read, description, archives, locate, remedy), read)
        return read

    return decorate


def data_root(root: Path | None = None) -> Path:
    """Where data sets are looked for: ``root``, else $XEVAL_DATA, else the user's cache directory."""
    if root is not None:
        return root
    if os.environ.get("XEVAL_DATA"):
        return Path(os.environ["XEVAL_DATA"])
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():
        return Path(cache) / "xeval"
    try:
        return Path.home() / ".cache" / "xeval"
    except RuntimeError:  # no HOME and no such user
        return Path(tempfile.gettempdir()) / "xeval"


def missing(name: str, wanted: str, root: Path, remedy: str = "") -> DataError:
    """The error for a data set that is not there."""
    return DataError(
        f"{name} was not found: looked for {wanted} in {root}",
        remedy or f"run `xeval data get {name}`, or give --data DIR",
    )


def require_official(place: Path, archives: tuple[Archive, ...]) -> bool:
    """Whether ``place`` is one of these archives by its name; CheckpointError where it is another file by that name.

    Called before anything in an archive is read. An archive of your own under another name is not compared.
    """
    named = [archive for archive in archives if place.name == archive.file and place.is_file()]
    for archive in named:
        require_checksum(place, archive)
    return bool(named)


def open_dataset(name: str, root: Path | None = None, size: int | None = None) -> Dataset:
    """Open a data set by name, or ``folder:PATH``; ``size`` resizes its images to that many pixels a side.

    Raises:
        UsageError: unknown name or impossible size.
        DataError: files missing or unreadable; says what was looked for and where.
    """
    if size is not None and not 4 <= size <= 4096:
        raise UsageError(f"images of {size} pixels a side were asked for", "choose a side from 4 to 4096")
    kind, _, path = name.partition(":")
    source = READERS[kind]
    if (kind == "folder") != bool(path):
        raise UsageError(f"the data set {name!r} is not understood", "write folder:PATH, or the name alone")
    where = Path(path) if path else data_root(root)
    if root is not None and not path and not root.exists():
        raise DataError(f"the data directory {root} does not exist", "check --data")
    return source.read(where, size)
