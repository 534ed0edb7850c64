"""Completes names in the shell; what knows them is imported when a name is completed, not before."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from xeval.registry import Registry

REGISTRIES = {
    "arch": ("xeval.models:MODELS",),
    "dataset": ("xeval.data:READERS",),
    "explainer": ("xeval.explainers:EXPLAINERS",),
    "explainers": ("xeval.explainers:EXPLAINERS", "xeval.explainers:CONTROLS"),
    "fill": ("xeval.perturb.fills:FILLS",),
    "method": ("xeval.training.methods:METHODS",),
    "methods": ("xeval.training.methods:METHODS",),
    "metrics": ("xeval.metrics:METRICS",),
    "protocol": ("xeval.scoring.protocols:PROTOCOLS",),
}
"""Where the names stand that an option takes, as ``module:NAME``."""

RECIPES, MATRICES = "xeval.training.recipe:recipe_names", "xeval.sweep.matrix:matrix_names"
FILES = {"train": (RECIPES,), "run": (RECIPES, MATRICES)}
"""Commands whose argument is a name of the package or a file of the user, and the functions that return the names."""

VARIABLE = "_XEVAL_COMPLETE"
"""The variable that the shell sets when it asks; click reads it."""

LISTS = {"explainers", "methods", "metrics"}
"""Options that take several names, separated by commas."""


def complete(_context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Return what the last name of a begun value may become; names that a list has already are left out."""
    option = parameter.name or ""
    before, comma, last = begun.rpartition(",") if option in LISTS else ("", "", begun)
    names = set(_names(REGISTRIES[option])) - set(before.split(","))
    return [f"{before}{comma}{name}" for name in sorted(names) if name.startswith(last)]


def complete_file(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return the names of the package that begin so, or a request for files where there are none."""
    names = [name for place in FILES[context.command.name or ""] for name in _found(place)()]
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(begun)]
    return found or [CompletionItem(begun, type="file")]


def script(command: click.Command, shell: str) -> str:
    """Return what a shell has to run so that it completes ``xeval``; click writes it."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    return kind(command, {}, "xeval", VARIABLE).source()


def registries() -> list[Registry[Any]]:
    """Return every registry that an option takes names from."""
    return [_registry(place) for place in dict.fromkeys(place for places in REGISTRIES.values() for place in places)]


def _names(places: Iterable[str]) -> list[str]:
    """Return the names in registries that are written ``module:NAME``."""
    return [name for place in places for name in _registry(place)]


def _registry(place: str) -> Registry[Any]:
    return _found(place)  # type: ignore[no-any-return]


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
