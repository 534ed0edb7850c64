"""Metrics of explanations, one concept a file."""

from xeval.metrics.metric import METRICS, Column, Metric, Values
from xeval.metrics.scene import Explained, Scene
from xeval.registry import import_modules

__all__ = ["METRICS", "Column", "Explained", "Metric", "Scene", "Values"]

import_modules(__name__)
