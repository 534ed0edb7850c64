"""The metrics of explanations, one concept per file. Importing this package registers all of them."""

from xeval.metrics.metric import METRICS, Column, Metric, Values
from xeval.metrics.scene import Explained, Scene
from xeval.registry import import_modules

__all__ = ["METRICS", "Column", "Explained", "Metric", "Scene", "Values"]

import_modules(__name__)
