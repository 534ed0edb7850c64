"""Download official archives from their published places and check them against the published checksums."""

from __future__ import annotations

import http.client
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from xeval.data.archive import CHUNK
from xeval.errors import CheckpointError, ResourceError
from xeval.runtime.files import file_hash


@dataclass(frozen=True)
class Archive:
    """An official archive: its file name, its published address, its md5, and the folder it unpacks to (or None)."""

    file: str
    url: str
    md5: str
    folder: str | None = None


def md5_of(path: Path) -> str:
    """Return the md5 of a file as hex. It identifies the published file; it does not protect against tampering."""
    return file_hash(path, "md5")


def require_checksum(path: Path, archive: Archive) -> None:
    """Raise a CheckpointError with both checksums unless the file is the official one."""
    actual = md5_of(path)
    if actual != archive.md5:
        raise CheckpointError(
            f"{path} has the wrong checksum: md5 {actual}, expected {archive.md5}",
            f"delete it and fetch it again from {archive.url}, or rename it if it is your own",
        )


def download(archive: Archive, root: Path) -> Path:
    """Fetch an official archive into ``root`` and verify it before it gets its name.

    A download that was cut off is kept as ``<file>.part`` and continued next time; one with a wrong checksum is
    renamed to ``<file>.bad``.

    Raises:
        ResourceError: there is no connection, or it was cut off.
        CheckpointError: the checksum is not the published one.
    """
    target, part = root / archive.file, root / f"{archive.file}.part"
    try:
        _fetch(archive.url, part)
    except (OSError, http.client.HTTPException) as fault:
        raise ResourceError(
            f"{archive.url} could not be fetched ({fault})", f"run the command again, or put the file into {root}"
        ) from fault
    try:
        require_checksum(part, archive)
    except CheckpointError as fault:
        bad = root / f"{archive.file}.bad"
        part.replace(bad)
        raise CheckpointError(fault.problem.replace(str(part), str(bad)), "run the command again") from None
    part.replace(target)
    return target


def _fetch(url: str, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as fault:
        if fault.code == 416 and done:  # the whole file is already there; the checksum decides
            return
        raise
    with response:
        resumed = getattr(response, "status", None) == 206
        expected = int(response.headers.get("Content-Length") or 0) + (done if resumed else 0)
        with part.open("ab" if resumed else "wb") as sink:
            shutil.copyfileobj(response, sink, CHUNK)
    if part.stat().st_size < expected:
        raise OSError(f"the connection was cut after {part.stat().st_size:,} of {expected:,} bytes")
