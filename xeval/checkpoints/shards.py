"""Weights in several safetensors files, which an index beside them names: how transformers saves large networks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from xeval.errors import CheckpointError
from xeval.runtime.files import digest, file_hash, parse_json

INDEX = ".safetensors.index.json"
MAX_INDEX = 16 << 20
RESTORE = "restore the folder from its source"


def is_index(path: Path) -> bool:
    """Return whether a file is the index of others, by its name."""
    return path.name.endswith(INDEX)


def shards(path: Path) -> dict[Path, set[str]]:
    """Return the files beside an index, and which tensors it says that each holds.

    Raises:
        CheckpointError: it is damaged, or names anything but safetensors files beside it.
    """
    if path.stat().st_size > MAX_INDEX:
        raise CheckpointError(f"{path} has more than {MAX_INDEX:,} bytes", RESTORE)
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is no index of weight files ({error})", RESTORE) from None
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or not all(map(_is_beside, listed.values())):
        raise CheckpointError(f"{path} does not name the safetensors files beside it", RESTORE)
    found: dict[Path, set[str]] = defaultdict(set)
    for name, file in listed.items():
        found[path.parent / file].add(name)
    absent = next((file for file in found if not file.is_file()), None)
    if absent is not None:
        raise CheckpointError(f"{path} names {absent.name}, which is no file beside it", RESTORE)
    return found


def _is_beside(file: object) -> bool:
    return isinstance(file, str) and file.isprintable() and Path(file).name == file and file.endswith(".safetensors")


def weights_hash(path: Path) -> str:
    """Return the SHA-256 of a weight file; of an index, what tells it and all of its files from others."""
    if not is_index(path):
        return file_hash(path)
    return digest([file_hash(file) for file in (path, *sorted(shards(path)))])
