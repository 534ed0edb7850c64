"""A network that a function of yours builds, as ``pkg.module:function``.

The function is called by keyword with those of ``num_classes``, ``in_channels`` and ``image_size`` that it takes, and
returns a module that maps images N×C×H×W to logits N×classes, freshly initialised.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn

from xeval.errors import UsageError, XevalError
from xeval.models.answers import with_logits
from xeval.models.classifier import ModelSpec
from xeval.registry import in_one_line
from xeval.runtime.endings import first_line

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
GIVEN = ("num_classes", "in_channels", "image_size")
HOW = "write pkg.module:function, where the function takes num_classes, in_channels and image_size, or some of them"


def is_code(arch: str) -> bool:
    """Return whether a name has the form ``pkg.module:function``."""
    return NAME.fullmatch(arch) is not None


def build(arch: str, spec: ModelSpec, others: tuple[str, ...] = ()) -> nn.Module:
    """Import the module and call the function; ``others`` are the sources that a misspelt name may mean.

    The working directory is searched last. Raises :class:`UsageError` where that fails or gives no module.
    """
    with _told(arch):
        function = _function(arch, others)
        model = function(**_arguments(arch, function, spec))
    if not isinstance(model, nn.Module):
        raise UsageError(f"{arch} returns a {type(model).__name__}, no torch module", HOW)
    return with_logits(model)


@contextmanager
def _told(arch: str) -> Iterator[None]:
    """Name the user's code in whatever it raises; leaving the process from it would look like success."""
    try:
        yield
    except (XevalError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{arch} fails ({in_one_line(error)})", "mend it") from error


def _function(arch: str, others: tuple[str, ...]) -> Callable[..., Any]:
    module, _, name = arch.partition(":")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        near = get_close_matches(module, others, n=1)
        hint = f"did you mean {near[0]}:{name}? " if near else ""
        raise UsageError(f"{arch} cannot be imported ({first_line(error)})", f"{hint}{HOW}") from None
    if not callable(found):
        raise UsageError(f"the module {module} has no function {name}", HOW)
    return found  # type: ignore[no-any-return]


def _arguments(arch: str, function: Callable[..., Any], spec: ModelSpec) -> dict[str, int]:
    """Return what a function is called with; raise UsageError where it asks for more, before it is called."""
    try:
        takes = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UsageError(f"{arch} does not say which arguments it takes", HOW) from None
    open_ended = any(one.kind is one.VAR_KEYWORD for one in takes)
    keyword = [one for one in takes if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    positional = [one for one in takes if one.kind is one.POSITIONAL_ONLY]
    needed = [one.name for one in (*positional, *keyword) if one.default is one.empty]
    unmet = [name for name in needed if name not in GIVEN or name in [one.name for one in positional]]
    if unmet:
        raise UsageError(f"{arch} needs the argument {unmet[0]}", HOW)
    return {name: getattr(spec, name) for name in GIVEN if open_ended or name in [one.name for one in keyword]}
