"""Remembers the manifests of image files in the user's cache, so that they are decoded and hashed once, not always.

What is kept counts as long as every file has the same path, size and modification time, and images drawn at random have
the pixels that they had. Nothing is written beside the data.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL

from xeval._version import __version__
from xeval.data.base import Pixels
from xeval.data.files import FolderTree, Tree, ZipTree
from xeval.runtime.cache import recalled, remember
from xeval.runtime.files import digest

SCHEMA = "xeval.manifest/1"
CHECKED = 32  # images of a kept manifest that are decoded and compared
SETTLED = 2.0  # seconds: a file that was changed since could change again and keep its time
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Subject:
    """What a manifest is of: the files of a split, in order, and everything else that decides their pixels."""

    tree: Tree
    ids: Sequence[str]
    about: Sequence[object]

    @property
    def name(self) -> str:
        """Return where the manifest is kept; another version of the same files takes its place."""
        return f"manifests/{digest([self._root, *map(str, self.about)])}.json"

    @property
    def _root(self) -> str:
        return str(Path(self.tree.describe("")).absolute())

    def fingerprint(self) -> tuple[str, float]:
        """Return the hash of paths, sizes and times, and the time of the last change; raise OSError for a lost file."""
        stamps = list(_stamps(self.tree, self.ids))
        last = max((time_ns for _, time_ns in stamps), default=0) / 1e9
        versions = __version__, PIL.__version__
        return digest([versions, self._root, self.ids, stamps, list(map(str, self.about))]), last


def _stamps(tree: Tree, ids: Sequence[str]) -> Iterator[Stamp]:
    """Yield size and modification time of each file, or once those of the zip file that holds them."""
    paths = [tree.root / name for name in ids] if isinstance(tree, FolderTree) else []
    for path in [tree.path] if isinstance(tree, ZipTree) else paths:
        status = Path(path).stat()
        yield status.st_size, status.st_mtime_ns


def kept(subject: Subject, read: Callable[[int], Pixels]) -> str | None:
    """Return the manifest that was kept of these files; None where there is none, or where an image has changed.

    ``read`` returns the pixels of the image at a position.
    """
    found = recalled(subject.name, SCHEMA)
    manifest, hashes = found.get("manifest"), str(found.get("images")).split(",")
    if not isinstance(manifest, str) or len(hashes) != len(subject.ids):
        return None
    if found.get("files") != subject.fingerprint()[0]:
        return None
    chosen = random.SystemRandom().sample(range(len(hashes)), min(CHECKED, len(hashes)))
    return manifest if all(image_hash(read(place)) == hashes[place] for place in chosen) else None


def keep(subject: Subject, manifest: str, hashes: Sequence[str], before: str) -> None:
    """Keep a manifest and the hashes of its images, unless a file has changed since ``before``, their fingerprint."""
    after, last = subject.fingerprint()
    if after == before and last < time.time() - SETTLED:
        remember(subject.name, {"schema": SCHEMA, "files": after, "manifest": manifest, "images": ",".join(hashes)})


def image_hash(pixels: Pixels) -> str:
    """Return a short hash of the pixels of one image."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()
