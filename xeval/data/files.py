"""Read and list files by relative name, in a folder or inside a zip file; nothing is written."""

from __future__ import annotations

import os
import stat
import zipfile
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from xeval.data.archive import DAMAGE, Zip, require_name
from xeval.errors import CheckpointError, DataError

MAX_FILE = 64 * 2**20


class Tree(Protocol):
    """The interface to files that are read by name, with '/' between the parts."""

    def describe(self, name: str) -> str:
        """Return where the file lies, for messages."""
        ...

    def read(self, name: str) -> bytes:
        """Return all bytes of a file; raise DataError if it is missing, unreadable, no regular file or beyond 64 MB."""
        ...

    def below(self, folder: str) -> list[str]:
        """Return the sorted names of all files below a folder, at any depth; empty if the folder does not exist."""
        ...

    def files(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder; empty if the folder does not exist."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder, without the path and without hidden ones."""
        ...


class FolderTree:
    """A tree of the files below a directory."""

    def __init__(self, root: Path, limit: int = MAX_FILE) -> None:
        self.root = root
        self.limit = limit

    def describe(self, name: str) -> str:
        """Return the file's path."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """Return all bytes of a file."""
        path = self.root / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path} is not a regular file", "replace or remove it")
            _require_length(str(path), status.st_size, self.limit)
            return path.read_bytes()
        except OSError as fault:
            raise DataError(
                f"{path} cannot be read ({fault.strerror})", "check that it is there and readable"
            ) from fault

    def below(self, folder: str) -> list[str]:
        """Return the sorted names of all files below a folder."""
        top = self.root / folder
        found = [Path(parent, file) for parent, _, files in os.walk(top) for file in files]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def files(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder."""
        top = self.root / folder
        found = [Path(entry) for entry in os.scandir(top) if not entry.is_dir()] if top.is_dir() else []
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder."""
        top = self.root / folder
        return (
            sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and entry.name[0] != ".")
            if top.is_dir()
            else []
        )


class ZipTree:
    """A tree of the files of a zip file below ``prefix``, read in place; safe across threads, forks and pickling."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._open: dict[int, zipfile.ZipFile] = {}

    @classmethod
    def around(cls, path: Path, file: str) -> ZipTree:
        """Return the tree whose top folder holds ``file``, the least deep one; raise DataError if no folder does."""
        tree = cls(path)
        tops = [name for name in tree._zip.namelist() if name.rpartition("/")[2] == file]
        if not tops:
            raise DataError(f"{path} holds no {file}", "give an archive in the official layout")
        tree.prefix = min(tops, key=len).removesuffix(file)
        return tree

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "prefix": self.prefix, "_open": {}}

    def describe(self, name: str) -> str:
        """Return the zip file's path and the member."""
        return f"{self.path}:{self.prefix}{name}"

    def read(self, name: str) -> bytes:
        """Return all bytes of a member."""
        try:
            entry = self._zip.getinfo(self.prefix + name)
            _require_length(self.describe(name), entry.file_size, MAX_FILE)
            return self._zip.read(entry)
        except KeyError:
            raise DataError(f"{self.describe(name)} is missing", "fetch the archive again") from None
        except DAMAGE as fault:
            raise DataError(f"{self.describe(name)} cannot be read ({fault})", "fetch the archive again") from fault

    def below(self, folder: str) -> list[str]:
        """Return the sorted names of all files below a folder."""
        start = f"{folder}/" if folder else ""
        parents = [parent for parent in self._parents if f"{parent}/".startswith(start)]
        return sorted(name for parent in parents for name in self._parents[parent])

    def files(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder."""
        return sorted(self._parents.get(folder, []))

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder."""
        start = f"{folder}/" if folder else ""
        inner = {parent[len(start) :].split("/")[0] for parent in self._parents if parent.startswith(start)}
        return sorted(name for name in inner if name and name[0] != ".")

    @cached_property
    def _parents(self) -> dict[str, list[str]]:
        """The files of each folder by its name, without the prefix."""
        parents: dict[str, list[str]] = defaultdict(list)
        for entry in self._zip.infolist():
            if entry.is_dir() or not entry.filename.startswith(self.prefix):
                continue
            name = require_name(entry.filename, self.path)[len(self.prefix) :]
            parents[name.rpartition("/")[0]].append(name)
        return dict(parents)

    @property
    def _zip(self) -> zipfile.ZipFile:
        process = os.getpid()  # a forked worker must not share its parent's file position
        if process not in self._open:
            self._open[process] = open_zip(self.path)
        return self._open[process]


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file; raise CheckpointError if it is damaged, no zip file, or has too large a directory."""
    try:
        return Zip(path)
    except DAMAGE as fault:
        raise CheckpointError(f"{path} is damaged or no zip file ({fault})", "fetch it again") from fault


def text_lines(tree: Tree, name: str) -> list[str]:
    """Return the lines of a UTF-8 text file; a byte-order mark and CR LF are accepted."""
    try:
        return tree.read(name).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise DataError(f"{tree.describe(name)} is not UTF-8 text ({fault})", "replace the file") from fault


def _require_length(name: str, length: int, limit: int) -> None:
    if length > limit:
        raise DataError(f"{name} has {length:,} bytes", f"files up to {limit:,} bytes are read")
