"""The metrics of explanations, one concept per file. Importing this package registers all of them."""

from xeval.metrics.metric import (
    CONSTANT_MAP,
    EMPTY_MAP,
    EMPTY_OTHER,
    LONE_IMAGE,
    METRICS,
    NO_CHANGE,
    NO_MASK,
    NOT_POSITIVE,
    PREDICTION_CHANGED,
    Column,
    Metric,
    Scores,
    Settings,
    Values,
    metric,
)
from xeval.metrics.scene import Explained, Scene
from xeval.registry import import_modules

__all__ = [
    "CONSTANT_MAP",
    "EMPTY_MAP",
    "EMPTY_OTHER",
    "LONE_IMAGE",
    "METRICS",
    "NOT_POSITIVE",
    "NO_CHANGE",
    "NO_MASK",
    "PREDICTION_CHANGED",
    "Column",
    "Explained",
    "Metric",
    "Scene",
    "Scores",
    "Settings",
    "Values",
    "metric",
]

import_modules(__name__)
