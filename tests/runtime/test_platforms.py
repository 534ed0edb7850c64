"""What only POSIX systems have is called in ``xeval/runtime`` alone. Which names these are is read from typeshed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mypy
import pytest

from tests.commands import ROOT

STUBS = Path(mypy.__file__).parent / "typeshed" / "stdlib"
SOURCES = sorted(path for room in ("xeval", "training", "reports") for path in (ROOT / room).rglob("*.py"))
OUTSIDE = [path for path in SOURCES if ROOT / "xeval" / "runtime" not in path.parents]
OTHER_MEANING = {"os.kill"}
"""On Windows it ends a process whatever the signal, also signal 0, which only asks elsewhere."""


@cache
def stub(module: str) -> ast.Module | None:
    places = (STUBS / f"{module.replace('.', '/')}.pyi", STUBS / module.replace(".", "/") / "__init__.pyi")
    found = next((path for path in places if path.is_file()), None)
    return None if found is None else ast.parse(found.read_text(encoding="utf-8"))


def defined(body: list[ast.stmt], platform: str, *, imported: bool = True) -> Iterator[str]:
    """The names that a stub defines on a platform, with or without those that it imports."""
    system = {"sys": SimpleNamespace(platform=platform, version_info=sys.version_info)}
    for node in body:
        if isinstance(node, ast.If):
            taken = eval(ast.unparse(node.test), {**system, "TYPE_CHECKING": True})
            yield from defined(node.body if taken else node.orelse, platform, imported=imported)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            if isinstance(node, ast.ClassDef) and node.name == "Signals":
                yield from defined(node.body, platform)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign):
            yield from map(ast.unparse, node.targets)
        elif isinstance(node, ast.ImportFrom) and imported:
            yield from (alias.asname or alias.name for alias in node.names)


@cache
def only_posix(module: str) -> frozenset[str]:
    """The names of a module of the standard library that exist on Linux and not on Windows; ``*`` for all of them."""
    found = stub(module)
    if found is None:
        return frozenset()
    here, there = (set(defined(found.body, platform)) for platform in ("linux", "win32"))
    public = {name for name in here - there if not name.startswith("_")}
    empty = not list(defined(found.body, "win32", imported=False))
    return frozenset(public | ({"*"} if public and empty else set()))


def posix_calls(source: str) -> set[str]:
    """Every import and attribute that only POSIX systems have, lazy ones and other names of modules included."""
    found, modules = set(), {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                found |= {alias.name} if "*" in only_posix(alias.name) else set()
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found |= {whole} if alias.name in only_posix(node.module) or whole in OTHER_MEANING else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = modules.get(ast.unparse(node.value), "")
            whole = f"{module}.{node.attr}"
            found |= {whole} if node.attr in only_posix(module) or whole in OTHER_MEANING else set()
        elif isinstance(node, ast.keyword) and node.arg in ("preexec_fn", "pass_fds", "start_new_session"):
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc"):
            found.add(node.value)
    return found


def test_no_file_outside_the_runtime_calls_what_only_posix_has() -> None:
    found = {str(path.relative_to(ROOT)): posix_calls(path.read_text(encoding="utf-8")) for path in OUTSIDE}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import fcntl", "fcntl"),
        ("def f():\n    import resource", "resource"),
        ("from pwd import getpwuid", "pwd.getpwuid"),
        ("import os as system\nsystem.getuid()", "os.getuid"),
        ("import os\nos.fork()", "os.fork"),
        ("import os\nos.kill(3, 0)", "os.kill"),
        ("from os import sched_getaffinity", "os.sched_getaffinity"),
        ("import signal\nsignal.alarm(3)", "signal.alarm"),
        ("import signal\nsignal.SIGKILL", "signal.SIGKILL"),
        ("import time\ntime.tzset()", "time.tzset"),
        ("import subprocess\nsubprocess.run([], preexec_fn=f)", "preexec_fn"),
        ("open('/proc/self/statm')", "/proc/self/statm"),
    ],
)
def test_what_only_posix_has_is_found(source: str, name: str) -> None:
    assert name in posix_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.getpid(), os.replace, os.fsync, os.environ, os.path",
        "import signal\nsignal.SIGTERM, signal.SIGINT, signal.signal",
        "import socket, time, subprocess, shutil, multiprocessing, tempfile\ntime.monotonic(), subprocess.run([])",
    ],
)
def test_what_every_system_has_is_not(source: str) -> None:
    assert posix_calls(source) == set()
