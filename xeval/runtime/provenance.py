"""Record where a number comes from: versions, platform and commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xeval._version import __version__


def provenance() -> dict[str, Any]:
    """Return versions, platform, commit and command, which every file that reports a number records."""
    import numpy
    import torch

    return {
        "xeval": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command": " ".join(["xeval", *sys.argv[1:]]),
    }


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution without importing it, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Return the commit of the running source tree (``+dirty`` if it has changes), ``unknown`` outside a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return "unknown"
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return run.stdout.strip() or "unknown"
