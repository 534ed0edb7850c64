"""Registries map names to things, such as metrics or data sets.

What is registered appears in the command line, the tables, the docs and the generic tests.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_loader
from inspect import getfile, unwrap
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar
from uuid import uuid4

from xeval.errors import UsageError, unknown

T = TypeVar("T")


class PluginWarning(UserWarning):
    """A plug-in was left out because it could not be loaded."""


@dataclass(frozen=True)
class Broken:
    """A plug-in that could not be loaded: the name of its entry point, the package that has it, and the error."""

    name: str
    package: str
    error: str


@dataclass(frozen=True)
class Origin:
    """Where the code of a thing lies, and for a thing from outside this package the hash of that code."""

    file: str
    code: str | None


class Registry(Generic[T]):
    """A mapping from names to the things of one kind, such as metrics.

    The decorator of each kind registers its things; it stands beside the class of the thing. Third parties add theirs
    through the entry-point group ``xeval.<kind>s``. Two registries stand ``beside`` each other where names of both are
    written in one list: a name belongs to one of them.
    """

    def __init__(self, kind: str, *, beside: Registry[Any] | None = None) -> None:
        self.kind = kind
        self.beside = beside
        if beside is not None:
            beside.beside = self
        self._things: dict[str, T] = {}
        self._origins: dict[str, Origin] = {}
        self._plugins_loaded = False
        self.broken: dict[str, Broken] = {}

    def add(self, name: str, thing: T, made_of: Callable[..., object]) -> None:
        """Register ``thing``, which a decorator has made of the function or class ``made_of``.

        Registering the same name again from the same file does nothing; from another file, it raises
        :class:`UsageError`.
        """
        file = str(Path(getfile(unwrap(made_of))).resolve())
        own = _package(made_of) == _package(type(self))
        before = self._origin(name)
        if before is not None and before.file != file:
            raise UsageError(
                f"the {self.kind} {name!r} is defined twice, in {before.file} and {file}", "rename one of them"
            )
        self._origins.setdefault(name, Origin(file, None if own else _code_in(file)))
        self._things.setdefault(name, thing)

    def _origin(self, name: str) -> Origin | None:
        """Return where the thing of a name lies, in this registry or in the one beside it."""
        return self._origins.get(name) or (self.beside._origins.get(name) if self.beside is not None else None)

    def foreign(self, name: str) -> str | None:
        """Return the file that defines a thing from outside this package; None for a thing of its own."""
        origin = self._origins.get(name)
        return None if origin is None or origin.code is None else origin.file

    def code(self, *names: str) -> dict[str, str]:
        """Return the hash of the code of every named thing from outside: other code is another thing."""
        codes = {name: self._origins[name].code for name in names if name in self._origins}
        return {name: code for name, code in codes.items() if code is not None}

    @contextmanager
    def lent(self, name: str, thing: T, origin: Origin) -> Iterator[None]:
        """Register a thing for the length of the body; its name must not be taken."""
        taken = next((one.kind for one in (self, self.beside) if one is not None and name in one), None)
        if taken is not None:
            raise UsageError(f"the {taken} {name!r} exists already", "rename yours")
        self._things[name] = thing
        self._origins[name] = origin
        try:
            yield
        finally:
            del self._things[name], self._origins[name]

    def __getitem__(self, name: str) -> T:
        self._load_plugins()
        if name not in self._things:
            raise self.absent(name, self._things)
        return self._things[name]

    def absent(self, name: str, known: Iterable[str]) -> UsageError:
        """Return the error for a name that is not registered: a plug-in that did not load, or an unknown name."""
        return self._unloaded(self.broken[name]) if name in self.broken else unknown(self.kind, name, known)

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
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        """Load a plug-in; where that fails, leave out all of it with a warning, so that everything else goes on."""
        before = dict(self._things), dict(self._origins)
        try:
            point.load()
        except (Exception, SystemExit) as error:
            self._things, self._origins = before
            package = point.dist.name if point.dist is not None else "an unknown package"
            self.broken[point.name] = Broken(point.name, package, in_one_line(error))
            told = self._unloaded(self.broken[point.name])
            warnings.warn(f"{told.problem}, so it is left out: {told.remedy}", PluginWarning, stacklevel=2)

    def _unloaded(self, broken: Broken) -> UsageError:
        return UsageError(
            f"the {self.kind} {broken.name!r} of the package {broken.package} does not load ({broken.error})",
            f"mend or uninstall {broken.package}",
        )


def _package(made_of: Callable[..., object]) -> str:
    return str(getattr(made_of, "__module__", "")).partition(".")[0]


def _code_in(file: str) -> str:
    """Return the SHA-256 of a file; where there is none, as in a notebook, a code that no other session has."""
    try:
        return sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return uuid4().hex


def load_file(path: Path) -> None:
    """Run a Python file whose decorators register things, as ``--plugin`` names it.

    Raises :class:`UsageError` where there is no such file or it fails.
    """
    if not path.is_file():
        raise UsageError(f"the plug-in {path} is not a file", "name a Python file")
    loader = SourceFileLoader(f"xeval_plugin_{path.stem}", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None  # a loader was given
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # where dataclasses and pickles look for it
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"the plug-in {path} does not load ({in_one_line(error)})", "mend it") from error


def in_one_line(error: BaseException) -> str:
    """Return the kind and the first line of an error; ``sys.exit`` is told as such."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r:.60})"
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:160]}".rstrip(": ")


def import_modules(package: str) -> None:
    """Import every module of a package in the order of their names, so that each registers what it defines."""
    for name in sorted(module.name for module in iter_modules(sys.modules[package].__path__)):
        import_module(f"{package}.{name}")
