"""Download official archives from their published places and check them against the published checksums."""

from __future__ import annotations

import http.client
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from xeval.data.archive import CHUNK
from xeval.errors import CheckpointError, ResourceError
from xeval.runtime.files import file_hash

TIMEOUT = 60  # seconds


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
        _fetch(archive, part)
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


def _fetch(archive: Archive, part: Path) -> None:
    """Fetch what ``part`` lacks, or all of it where the server does not go on at its end.

    Raises:
        OSError: there is no connection, or the file is not complete afterwards.
    """
    done = part.stat().st_size if part.exists() else 0
    if done and _continued(archive, part, done):
        return
    with urllib.request.urlopen(archive.url, timeout=TIMEOUT) as response:
        start, total = _span(response)
        if start != 0:
            raise OSError("the server answers with a part of the file, although all of it was asked for")
        _save(response, part, "wb", total, archive)


def _continued(archive: Archive, part: Path, done: int) -> bool:
    """Append the bytes from ``done`` on; return False where the server answers with others."""
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start, total = _span(response)
            fits = start == done and (total is None or total >= done)
            if fits:
                _save(response, part, "ab", total, archive)
            return fits
    except urllib.error.HTTPError as fault:
        if fault.code != 416:
            raise
        return _range(fault.headers)[1] in (done, None)  # the whole file is already there; the checksum decides


def _span(response: Any) -> tuple[int | None, int | None]:
    """Return the position of an answer's first byte and the length of the whole file; None for what it does not say."""
    if getattr(response, "status", None) == 206:
        return _range(response.headers)
    length = response.headers.get("Content-Length") or ""
    return 0, int(length) if length.isdecimal() else None


def _range(headers: Message) -> tuple[int | None, int | None]:
    """Return first byte and length of the whole file from ``Content-Range: bytes 70-99/100`` or ``bytes */100``."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", headers.get("Content-Range", "").strip())
    start, total = found.groups() if found else (None, None)
    return int(start) if start else None, int(total) if total else None


def _save(response: Any, part: Path, mode: str, total: int | None, archive: Archive) -> None:
    """Write an answer to ``part``; raise OSError if that is not all of the file then.

    Where the server does not say how long the file is, its end shows in chunks, else in the checksum alone.
    """
    with part.open(mode) as sink:
        shutil.copyfileobj(response, sink, CHUNK)
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the connection was cut after {size:,} of {total:,} bytes")
    if total is None and not getattr(response, "chunked", False) and md5_of(part) != archive.md5:
        raise OSError(f"the server did not say how long the file is, and {size:,} bytes are not all of it")
