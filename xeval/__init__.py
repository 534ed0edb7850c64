"""xeval: how good are a vision model's explanations, and how sure may you be?

The functions below load nothing until they are called, so that ``import xeval`` stays cheap.
"""

from typing import TYPE_CHECKING, Any

from xeval._version import __version__
from xeval.errors import (
    BusyError,
    CheckpointError,
    DataError,
    InternalError,
    Interrupted,
    PartialError,
    ResourceError,
    Terminated,
    UsageError,
    XevalError,
)

__all__ = [
    "BusyError",
    "CheckpointError",
    "DataError",
    "InternalError",
    "Interrupted",
    "PartialError",
    "PrecomputedMaps",
    "ResourceError",
    "Terminated",
    "UsageError",
    "XevalError",
    "__version__",
    "compare",
    "explain",
    "load",
    "results",
    "score",
    "table",
]

if TYPE_CHECKING:
    from xeval.api import PrecomputedMaps, compare, explain, load, results, score, table


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("xeval.api"), name)
    raise AttributeError(f"module 'xeval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
