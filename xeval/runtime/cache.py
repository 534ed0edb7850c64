"""Where the user's cache is, and JSON that is kept there as long as nothing goes wrong."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from xeval.errors import DataError, ResourceError
from xeval.runtime.files import read_json, write_json


def user_cache() -> Path:
    """Return xeval's folder in the user's cache: $XDG_CACHE_HOME, else ~/.cache, else the folder of temporary files."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():
        return Path(cache) / "xeval"
    try:
        return Path.home() / ".cache" / "xeval"
    except RuntimeError:  # no HOME and no such user
        return Path(tempfile.gettempdir()) / "xeval"


def recalled(name: str, schema: str) -> dict[str, Any]:
    """Return what was kept under a name; empty where nothing was, or nothing that can be read."""
    try:
        found: dict[str, Any] = read_json(user_cache() / name, schema)  # an object, as it has a schema
    except (DataError, OSError):
        return {}
    return found


def remember(name: str, content: dict[str, Any]) -> None:
    """Keep JSON under a name; where it cannot be written, the next command works it out again."""
    path = user_cache() / name
    with suppress(OSError, ResourceError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
