"""Name run directories and the files in them; this needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from xeval.errors import UsageError
from xeval.runtime.files import digest, slug

MANIFEST = "run.json"
STATES = ("state", "state.prev")  # folders of a training that is not finished
LONGEST = 40  # characters of a label in the name of a directory
Weights: TypeAlias = Literal["best", "last"]
"""The choice between the weights of a run: those of the best epoch or those of the last."""


def require_no_training(run: Path) -> None:
    """Raise :class:`UsageError` where a folder holds the state of a training that can still go on."""
    if any((run / name).exists() for name in STATES):
        raise UsageError(
            f"{run} holds a training that is not finished", "finish it, or choose another folder with --out"
        )


def run_name(dataset: str, method: str, seed: int, label: str = "") -> str:
    """Return the name of a run's directory, ``<dataset>-<method>-<label>-s<seed>``; a long label becomes a hash."""
    short = f"{label[:LONGEST]}-{digest(label)[:6]}" if len(label) > LONGEST else label
    return slug("-".join(filter(None, [dataset, method, short, f"s{seed}"])))
