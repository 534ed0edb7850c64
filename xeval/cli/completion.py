"""Completes registered names in the shell; a registry is imported when a name is completed, not before."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

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

LISTS = {"explainers", "methods", "metrics"}
"""Options that take several names, separated by commas."""


def complete(_context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Return what the last name of a begun value may become; names that a list has already are left out."""
    option = parameter.name or ""
    before, comma, last = begun.rpartition(",") if option in LISTS else ("", "", begun)
    names = set(_names(REGISTRIES[option])) - set(before.split(","))
    return [f"{before}{comma}{name}" for name in sorted(names) if name.startswith(last)]


def registries() -> list[Registry[Any]]:
    """Return every registry that an option takes names from."""
    return [_registry(place) for place in dict.fromkeys(place for places in REGISTRIES.values() for place in places)]


def _names(places: Iterable[str]) -> list[str]:
    """Return the names in registries that are written ``module:NAME``."""
    return [name for place in places for name in _registry(place)]


def _registry(place: str) -> Registry[Any]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]
