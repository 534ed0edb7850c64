"""Registries map names to things, such as metrics or data sets.

What is registered appears in the command line, the tables, the docs and the generic tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from inspect import getfile, unwrap
from pathlib import Path
from pkgutil import iter_modules
from typing import Generic, TypeVar

from xeval.errors import UsageError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to the things of one kind, such as metrics.

    The decorator of each kind registers its things; it stands beside the class of the thing. Third parties add theirs
    through the entry-point group ``xeval.<kind>s``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}
        self._files: dict[str, str] = {}
        self._plugins_loaded = False

    def add(self, name: str, thing: T, made_of: Callable[..., object]) -> None:
        """Register ``thing``, which a decorator has made of the function or class ``made_of``.

        Registering the same name again from the same file does nothing; from another file, it raises
        :class:`UsageError`.
        """
        origin = str(Path(getfile(unwrap(made_of))).resolve())
        if self._files.get(name, origin) != origin:
            raise UsageError(
                f"the {self.kind} {name!r} is defined twice, in {self._files[name]} and {origin}", "rename one of them"
            )
        self._files[name] = origin
        self._things.setdefault(name, thing)

    def __getitem__(self, name: str) -> T:
        self._load_plugins()
        if name not in self._things:
            raise unknown(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(self._things)

    def items(self) -> list[tuple[str, T]]:
        """Return all (name, thing) pairs in the order of registration."""
        self._load_plugins()
        return list(self._things.items())

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=f"xeval.{self.kind}s"):
            point.load()


def import_modules(package: str) -> None:
    """Import every module of a package in the order of their names, so that each registers what it defines."""
    for name in sorted(module.name for module in iter_modules(sys.modules[package].__path__)):
        import_module(f"{package}.{name}")
