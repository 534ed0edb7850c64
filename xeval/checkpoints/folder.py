"""Name run directories and the files in them; this needs no network."""

from __future__ import annotations

from typing import Literal, TypeAlias

from xeval.runtime.files import slug

MANIFEST = "run.json"
Weights: TypeAlias = Literal["best", "last"]
"""The choice between the weights of a run: those of the best epoch or those of the last."""


def run_name(dataset: str, method: str, seed: int) -> str:
    """Return the name of a run's directory: ``<dataset>-<method>-s<seed>``."""
    return slug(f"{dataset}-{method}-s{seed}")
