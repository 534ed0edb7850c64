"""Name run directories and the files in them; this needs no network."""

from __future__ import annotations

from typing import Literal, TypeAlias

from xeval.runtime.files import digest, slug

MANIFEST = "run.json"
LONGEST = 40  # characters of a label in the name of a directory
Weights: TypeAlias = Literal["best", "last"]
"""The choice between the weights of a run: those of the best epoch or those of the last."""


def run_name(dataset: str, method: str, seed: int, label: str = "") -> str:
    """Return the name of a run's directory, ``<dataset>-<method>-<label>-s<seed>``; a long label becomes a hash."""
    short = f"{label[:LONGEST]}-{digest(label)[:6]}" if len(label) > LONGEST else label
    return slug("-".join(filter(None, [dataset, method, short, f"s{seed}"])))
