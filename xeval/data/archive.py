"""Read tar and zip archives, which are untrusted: what a member claims is checked before it is used.

Only regular files with plain relative names are read, within fixed limits; links, devices, absolute and parent paths
are refused. This module alone creates files, never the archive library. It creates them in a directory that gets its
final name only when it is complete.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Self, cast

from xeval.errors import CheckpointError, ResourceError, UsageError
from xeval.runtime.files import file_hash
from xeval.runtime.signals import runs_elsewhere

MAX_MEMBERS = 50_000
MAX_NAME = 1024
MAX_BYTES = 2**30  # limit for all members together, unpacked; the CIFAR archives hold 185 MB
MAX_HEADER = 2**16  # limit for an extended header of the tar format, which is read whole
MAX_READ = 2**25  # limit for one read of a zip file: its directory, of at most 700,000 entries, is read whole
CHUNK = 2**20
MARKER = ".complete"
TEMPORARY = ".xeval-tmp-"
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
    OSError,
)


def extract(path: Path, root: Path, folder: str) -> Path:
    """Unpack ``folder`` of a tar or zip file to ``root/folder``, which becomes visible only when it is complete.

    Raises:
        CheckpointError: a member is refused, or the archive is damaged; nothing is left behind.
        ResourceError: the folder cannot be created.
    """
    target = root / folder
    _remove_stale(root)
    temporary = root / f"{TEMPORARY}{os.getpid()}"
    temporary.mkdir()
    try:
        count = 0
        for name, source in members(path):
            _write(temporary, name, source)
            count += 1
        if not (temporary / folder).is_dir():
            raise CheckpointError(f"{path} holds no folder {folder!r}", "fetch the official archive")
        marker = {"archive": path.name, "sha256": file_hash(path), "files": count}
        (temporary / folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
        with suppress(OSError):  # another process was faster and created the complete folder
            (temporary / folder).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not target.is_dir():
        raise ResourceError(f"{target} could not be created", "check the permissions and the space on the disk")
    return target


def read_members(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the contents of the wanted members of a tar or zip file, in memory; missing names are left out."""
    return {name: source.read() for name, source in members(path) if name in wanted}


def members(path: Path) -> Iterator[tuple[str, Member]]:
    """Yield all regular files of a tar or zip file as (name, open file), in order, each checked before it is read."""
    with _damage_named(path):
        for name, source in _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path):
            yield name, Member(path, source)


@dataclass(frozen=True)
class Member:
    """An open file in an archive; it raises a CheckpointError that names the archive when reading finds damage."""

    path: Path
    source: IO[bytes]

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, or all that is left if ``size`` is negative."""
        with _damage_named(self.path):
            return self.source.read(size)


def require_name(name: str, path: Path) -> str:
    """Return the member name in normal form; raise CheckpointError if it could leave the folder or harm a terminal."""
    parts = PurePosixPath(name).parts
    reasons = {
        "an absolute path": name.startswith("/") or name[1:2] == ":",
        "a path to a parent": ".." in parts,
        "a backslash": "\\" in name,
        "unprintable characters": not name.isprintable(),
        "an over-long name": len(name) > MAX_NAME or any(len(part.encode()) > 255 for part in parts),
        "an empty name": not parts,
    }
    for reason, applies in reasons.items():
        if applies:
            raise _refused(path, name, reason)
    return "/".join(parts)


def require_size(path: Path, count: int, total: int) -> None:
    """Raise CheckpointError for an archive that has too many members or unpacks to too many bytes."""
    if count > MAX_MEMBERS:
        raise CheckpointError(f"{path} has more than {MAX_MEMBERS:,} members", "fetch the official archive")
    if not 0 <= total <= MAX_BYTES:
        raise CheckpointError(f"{path} declares more than {MAX_BYTES:,} bytes unpacked", "fetch the official archive")


def _tar_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    count = total = 0
    with _Limited(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # the library would keep all members in memory
            name = require_name(member.name, path)
            count, total = count + 1, total + abs(member.size)
            require_size(path, count, total)
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise _refused(path, member.name, "a link or a device")
            yield name, content


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with Zip(path) as archive:
        entries = archive.infolist()
        require_size(path, len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            name = require_name(entry.filename, path)
            if (entry.external_attr >> 28) not in (0, 0o10, 0o04):  # Unix file type: unset, regular or directory
                raise _refused(path, entry.filename, "a link or a device")
            if not entry.is_dir():
                with archive.open(entry) as stream:
                    yield name, stream


class Zip(zipfile.ZipFile):
    """A zip file opened for reading; a directory that is too large is refused before it is read."""

    def __init__(self, path: Path) -> None:
        self._source = _Bounded(path)
        try:
            super().__init__(self._source)
        except BaseException:
            self._source.close()
            raise

    def open(self, name: Any, *args: Any, **options: Any) -> IO[bytes]:
        """Open one member; raise BadZipFile for compressions whose decompressors can take any amount of memory."""
        if self.getinfo(getattr(name, "filename", name)).compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise zipfile.BadZipFile("an unusual compression")
        return super().open(name, *args, **options)

    def close(self) -> None:
        """Close the archive and its file."""
        super().close()
        self._source.close()


class _Bounded(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_READ:
            raise zipfile.BadZipFile(f"{size:,} bytes at once, {MAX_READ:,} are read")
        return super().read(size) or b""


class _Header(tarfile.TarInfo):
    """A tar header that bounds the extended headers, which the library reads whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if not header.isreg() and not 0 <= header.size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header declares {header.size:,} bytes, {MAX_HEADER:,} are read")
        return header


class _Limited(io.RawIOBase):
    """A stream of the decompressed bytes of a tar file of any compression; it refuses to read beyond MAX_BYTES."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = MAX_BYTES + MAX_MEMBERS * tarfile.BLOCKSIZE * 2
        self._source = _decompressed(path)

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise CheckpointError(
                f"{self._path} unpacks to more than {MAX_BYTES:,} bytes", "fetch the official archive"
            )
        return data

    def close(self) -> None:
        self._source.close()
        super().close()


def _decompressed(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _write(folder: Path, name: str, source: Member) -> None:
    """Create one file below ``folder``; refuse a name that already exists because it comes twice."""
    target = folder / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.resolve().is_relative_to(folder.resolve()):
            raise _refused(folder, name, "a path out of the folder")
        with target.open("xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
            sink.flush()
            os.fsync(sink.fileno())  # after a power cut, the marker must not exist without its files
    except (FileExistsError, NotADirectoryError):
        raise _refused(folder, name, "a name that comes twice") from None


def _remove_stale(root: Path) -> None:
    """Remove what killed extractions left behind."""
    for left in root.glob(f"{TEMPORARY}*"):
        process = left.name.removeprefix(TEMPORARY)
        if process.isdigit() and not runs_elsewhere(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _refused(path: Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: member {name[:200]!r} is refused ({reason})", "fetch the official archive")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file", "give an archive")
    try:
        yield
    except DAMAGE as fault:
        raise CheckpointError(f"{path} is damaged or no archive ({fault})", "fetch it again") from fault
