"""Implement the commands for data sets: list them, fetch the official archives, check what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xeval.data.archive import MARKER, extract
from xeval.data.base import Split, unreadable
from xeval.data.download import download, require_checksum
from xeval.data.sources import READERS, data_root, open_dataset, require_official
from xeval.errors import DataError, ResourceError, UsageError


def listing(root: Path | None = None) -> list[dict[str, str]]:
    """Return one row per data set: its name, its description, and where it was found or how to get it."""
    return [
        {"name": name, "description": source.description, "state": _state(name, data_root(root))}
        for name, source in READERS.items()
    ]


def get(name: str, root: Path | None = None) -> Path:
    """Fetch, verify and (CIFAR) unpack the official archive below ``root``; keep what is already there.

    Raises:
        UsageError: the data set has no archive.
        CheckpointError: the checksum is wrong, or a member is refused.
        ResourceError: connection, space or permission is missing; running it again continues.
    """
    source = READERS[name]
    if not source.archives:
        raise UsageError(f"{name} has nothing to download", source.remedy or "use it as it is")
    archive, folder = source.archives[0], data_root(root)
    unpacked = folder / archive.folder if archive.folder else None
    if unpacked and (unpacked / MARKER).is_file():
        return unpacked
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / archive.file
        if path.exists():
            require_checksum(path, archive)
        else:
            download(archive, folder)
        return extract(path, folder, unpacked.name) if unpacked and not unpacked.exists() else unpacked or path
    except OSError as fault:
        raise ResourceError(f"{folder} cannot be written ({fault})", "check permissions and free space") from fault


def check(name: str, root: Path | None = None) -> dict[str, Any]:
    """Verify a data set: the checksum of an archive under its official name, then every image and label.

    Returns:
        A report with name, place, checksum ("official", "none to compare"), classes, and for every split its number of
        images, its manifest, the images that cannot be read and its notes.

    Raises:
        CheckpointError: an archive under an official name has another checksum.
        DataError: the data set is missing or its lists are wrong.
    """
    kind, _, path = name.partition(":")
    source, where = READERS[kind], data_root(root)
    places = (where, *(where / archive.file for archive in source.archives))
    official = [place for place in places if require_official(place, source.archives)]
    dataset = open_dataset(name, root)
    return {
        "name": name,
        "place": path or str(source.locate(where) or "built in"),
        "checksum": "official" if official else "none to compare",
        "classes": len(dataset.info.classes),
        "splits": {split: _audit(dataset.split(split)) for split in dataset.splits},
    }


def require_sound(report: dict[str, Any]) -> None:
    """Raise a DataError if :func:`check` has found images that cannot be read."""
    damaged = [problem for split in report["splits"].values() for problem in split["damaged"]]
    if damaged:
        count = sum(split["images"] for split in report["splits"].values())
        raise DataError(
            f"{len(damaged)} of {count} images of {report['name']} cannot be read, first: {damaged[0]}",
            "replace or remove them",
        )


def _audit(split: Split) -> dict[str, Any]:
    damaged = unreadable(split, range(len(split)))
    problems = [damaged[position] for position in sorted(damaged)]
    return {
        "images": len(split),
        "manifest": None if damaged else split.manifest(rehash=True),
        "damaged": problems,
        "notes": list(split.notes),
    }


def _state(name: str, root: Path) -> str:
    source = READERS[name]
    if not source.archives and not source.remedy:
        return "your own images" if name == "folder" else "built in"
    try:
        place = source.locate(root)
    except DataError as fault:
        return fault.problem
    return str(place) if place else f"not here: {source.remedy or f'xeval data get {name}'}"
