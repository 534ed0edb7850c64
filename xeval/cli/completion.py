"""Completes registered names in the shell; a registry is imported when a name is completed, not before."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import click

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


def _names(places: Iterable[str]) -> list[str]:
    """Return the names in registries that are written ``module:NAME``."""
    return [name for place in places for name in getattr(import_module(place.split(":")[0]), place.split(":")[1])]
