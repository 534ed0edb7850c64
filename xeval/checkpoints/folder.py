"""What a run directory is called and which files it holds; nothing here needs a network."""

from __future__ import annotations

from typing import Literal, TypeAlias

from xeval.runtime.files import slug

MANIFEST = "run.json"
Weights: TypeAlias = Literal["best", "last"]
"""Which weights of a run: those of the best epoch or those of the last."""


def run_name(dataset: str, method: str, seed: int) -> str:
    """The name of a run's directory: ``<dataset>-<method>-s<seed>``."""
    return slug(f"{dataset}-{method}-s{seed}")
