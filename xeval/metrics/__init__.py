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
from xeval.metrics.metric import METRICS, Column, Metric, Values
from xeval.metrics.scene import Explained, Scene

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
