"""The Python interface: it does what the commands do, with tensors and data frames instead of files and text."""

from xeval.api.comparison import compare, table
from xeval.api.explanations import explain, load
from xeval.api.scores import results, score
from xeval.scoring.precomputed import PrecomputedMaps

__all__ = ["PrecomputedMaps", "compare", "explain", "load", "results", "score", "table"]
