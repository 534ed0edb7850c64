"""Makes command-line options from the models that validate them, so that every default is written only once."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def options_of(model: str) -> Callable[[F], F]:
    """Return a decorator that adds a click option for each field of a pydantic model, named ``module:Class``."""
    module, name = model.split(":")
    fields = getattr(import_module(module), name).model_fields

    def decorate(function: F) -> F:
        for field, about in reversed(fields.items()):
            flag = f"--{field.replace('_', '-')}"
            if about.annotation is bool:
                function = click.option(flag, is_flag=True, help=about.description)(function)
            else:
                shown = about.default is not None
                function = click.option(
                    flag, default=about.default, show_default=shown, type=_kind(about), help=about.description
                )(function)
        return function

    return decorate


def _kind(about: Any) -> Any:
    """Return the click type of a field: paths and integers as such, all else as text that the model validates."""
    text = str(about.annotation)
    if "Path" in text:
        return click.Path(path_type=Path)
    if "int" in text and "tuple" not in text and "Literal" not in text:
        return int
    return str
