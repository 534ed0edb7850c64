"""Metrics of explanations, one concept a file."""

from xeval.metrics import (
    complexity,
    continuity,
    contrastivity,
    deletion,
    drop,
    faithfulness,
    fgsm,
    infidelity,
    lipschitz,
    localisation,
    pixelflip,
    randomisation,
)
from xeval.metrics.base import METRICS, Column, Explained, Metric, Scene, Values

__all__ = [
    "METRICS",
    "Column",
    "Explained",
    "Metric",
    "Scene",
    "Values",
    "complexity",
    "continuity",
    "contrastivity",
    "deletion",
    "drop",
    "faithfulness",
    "fgsm",
    "infidelity",
    "lipschitz",
    "localisation",
    "pixelflip",
    "randomisation",
]
