"""Makes command-line options from the models that validate them, so that every default is written only once."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from xeval.cli.completion import REGISTRIES, complete
from xeval.registry import load_file
from xeval.runtime.endings import UNFIT
from xeval.runtime.loggers import LOGGERS, require_loggers

F = TypeVar("F", bound=Callable[..., Any])


class UsablePath(click.Path):
    """A path that a file could have: of text, and not longer than the file system takes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; refuse what every later use of it would trip over."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            str(path).encode()
            path.stat()
        except UnicodeEncodeError:
            self.fail(f"{str(path)!a} is not UTF-8 text; rename it", param, ctx)
        except OSError as error:
            if error.errno in UNFIT:
                self.fail(f"{str(path)[:80]}… cannot be used ({error.strerror})", param, ctx)
        return path


def size_option(name: str) -> Callable[[F], F]:
    """Return the option ``--size`` of a command that calls what it takes ``name``: a side, or (height, width)."""
    told = "size of the images in pixels: a side, or HEIGHTxWIDTH [default: their own]"
    return click.option("--size", name, type=_size, help=told)


def _size(text: str) -> Any:
    from xeval.data.base import read_size

    return read_size(text)


PATH = UsablePath(path_type=Path)


def fields_of(model: str) -> dict[str, Any]:
    """Return the fields of a pydantic model, named ``module:Class``."""
    module, name = model.split(":")
    found: dict[str, Any] = getattr(import_module(module), name).model_fields
    return found


def options_of(model: str) -> Callable[[F], F]:
    """Return a decorator that adds a click option for each field of a pydantic model, named ``module:Class``."""

    def decorate(function: F) -> F:
        for field, about in reversed(fields_of(model).items()):
            flag = f"--{field.replace('_', '-')}"
            function = click.option(flag, help=about.description, **_taken(field, about))(function)
        return function

    return decorate


def typed(model: str) -> dict[str, Any]:
    """Return those of a model's options that were typed in this call, so that a file may say the others."""
    context = click.get_current_context()
    return {
        field: context.params[field]
        for field in fields_of(model)
        if context.get_parameter_source(field) is ParameterSource.COMMANDLINE
    }


def _taken(field: str, about: Any) -> dict[str, Any]:
    """Return how click takes the value of a field: a flag, names with a text each, or one value."""
    if about.annotation is bool:
        return {"is_flag": True}
    if get_origin(about.annotation) is dict:
        return {"multiple": True, "metavar": "NAME=TEXT"}
    return _valued(field, about)


def _valued(field: str, about: Any) -> dict[str, Any]:
    """Return how click takes the value of a field: its default, type and completion."""
    return {
        "default": about.default,
        "show_default": about.default not in (None, "", ()),
        "type": _kind(about),
        "shell_complete": complete if field in REGISTRIES else None,
    }


def _values(annotation: Any) -> tuple[str, ...]:
    """Return the values of a Literal, alone or in a union; none for every other type."""
    return next((get_args(part) for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal), ())


def _kind(about: Any) -> Any:
    """Return the click type of a field: choices, paths and integers as such, else text that the model validates."""
    text, values = str(about.annotation), _values(about.annotation)
    if values:
        return click.Choice(values)
    if "Path" in text:
        return PATH
    if "int" in text and "tuple" not in text:
        return int
    return str


NORMALIZATION = options_of("xeval.checkpoints.normalization:Wish")
"""The options of a command that opens weights which may not say how their images were normalised."""

ARCH = click.option(
    "--arch",
    shell_complete=complete,
    help="network, where the file does not say it or what it says opens files or runs code: a name of xeval list "
    "models, timm:NAME, torchvision:NAME, hf:FOLDER or pkg.module:function [default: the one whose shapes fit]",
)
"""The network of a command that opens weights; what opens files or runs code has to be named here."""


def _load_files(_context: click.Context, _parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    for path in paths:
        load_file(path)


PLUGIN = click.option(
    "--plugin",
    type=PATH,
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load_files,
    metavar="FILE.py",
    help="Python file that registers explainers, metrics or more; run in this call, never stored and followed",
)
"""The option of a command that takes registered names; it is eager, as other options are checked against them."""


def _named_files(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Return name and path of each NAME=FILE."""
    parts = [value.partition("=") for value in values]
    for value, (name, _, path) in zip(values, parts, strict=True):
        if not name or not path:
            raise click.BadParameter(f"{value!r} is not NAME=FILE", context, parameter)
    return [(name, PATH.convert(path, parameter, context)) for name, _, path in parts]


def _installed(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    require_loggers(names)
    return names


LOG = click.option(
    "--log",
    multiple=True,
    callback=_installed,
    type=click.Choice(list(LOGGERS)),
    help="also write the numbers below log/ of the run, for this logger; can be given several times",
)
"""The option of a command whose numbers loggers take."""

MAPS = click.option(
    "--maps",
    multiple=True,
    callback=_named_files,
    metavar="NAME=FILE",
    help="a row of maps that were made elsewhere, from a .npy or .safetensors file; can be given several times",
)
"""The option of a command that scores maps which were made elsewhere."""
