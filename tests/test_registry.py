"""How things get into a registry: by the decorator of their kind, under a name that is theirs alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT
from xeval.errors import UsageError
from xeval.registry import Origin, Registry, import_modules

DEFINED = {
    "METRICS": "xeval/metrics/metric.py",
    "EXPLAINERS": "xeval/explainers/base.py",
    "CONTROLS": "xeval/explainers/base.py",
    "FILLS": "xeval/perturb/fills.py",
    "READERS": "xeval/data/sources.py",
    "MODELS": "xeval/models/architectures.py",
    "METHODS": "training/methods.py",
    "PROTOCOLS": "xeval/scoring/protocols.py",
}


def function_of(path: Path, source: str = "def thing(): pass") -> object:
    """What a file defines as ``thing``."""
    path.write_text(source)
    names: dict[str, object] = {"torch": torch}
    exec(compile(source, str(path), "exec"), names)
    return names["thing"]


def test_the_same_name_from_the_same_file_is_registered_once(tmp_path):
    registry: Registry[str] = Registry("thing")
    first, again = function_of(tmp_path / "a.py"), function_of(tmp_path / "a.py")
    registry.add("x", "first", first)
    registry.add("x", "again", again)
    assert registry.items() == [("x", "first")]


@pytest.mark.parametrize("source", ["def thing(): pass", "@torch.no_grad()\ndef thing(): pass"])
def test_the_same_name_from_another_file_is_refused_with_both(source, tmp_path):
    """Also where the function is wrapped: its file is its own, not that of the wrapper."""
    registry: Registry[str] = Registry("thing")
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    registry.add("x", "first", function_of(a, source))
    with pytest.raises(UsageError, match=re.escape(f"defined twice, in {a} and {b}")):
        registry.add("x", "second", function_of(b, source))
    assert registry["x"] == "first"


def test_a_package_is_imported_whole_and_in_the_order_of_names(tmp_path, monkeypatch):
    package = tmp_path / "a_room_of_three"
    package.mkdir()
    (package / "__init__.py").write_text("ORDER = []\n")
    for name in ("b", "a_b", "a"):
        (package / f"{name}.py").write_text("import a_room_of_three\na_room_of_three.ORDER.append(__name__)\n")
    monkeypatch.syspath_prepend(tmp_path)
    room = import_module("a_room_of_three")
    import_modules("a_room_of_three")
    assert room.ORDER == ["a_room_of_three.a", "a_room_of_three.a_b", "a_room_of_three.b"]


@pytest.mark.parametrize("room", ["data", "explainers", "metrics"])
def test_a_door_imports_its_room(room):
    """And data sets can be listed without torch."""
    code = f"import sys, xeval.{room}; print('torch' in sys.modules, *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    torch_loaded, *loaded = run.stdout.split()
    files = {f"xeval.{room}.{path.stem}" for path in (ROOT / "xeval" / room).glob("*.py")} - {f"xeval.{room}.__init__"}
    assert files <= set(loaded)
    assert room != "data" or torch_loaded == "False"


def test_only_the_decorator_beside_a_registry_adds_to_it():
    """Everybody else stands under the decorator: one idiom."""
    seen: set[str] = set()
    for path in [path for room in ("xeval", "training", "reports") for path in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"{name}.add" for name in DEFINED}:
                name = ast.unparse(node.func).partition(".")[0]
                assert path == ROOT / DEFINED[name], f"{path} adds to {name}"
                seen.add(name)
    assert seen == set(DEFINED)


def test_the_code_of_a_thing_from_outside_is_that_which_was_registered(tmp_path):
    registry: Registry[str] = Registry("thing")
    path = tmp_path / "a.py"
    registry.add("x", "first", function_of(path))
    before = registry.code("x")
    path.write_text("something else")
    assert registry.code("x") == before == {"x": sha256(b"def thing(): pass").hexdigest()}
    path.unlink()
    registry.add("y", "of a notebook", function_of_no_file("<cell>"))
    assert registry.code("y")["y"] != before["x"]
    registry.add("z", "ours", import_modules)
    assert registry.code("z", "unknown") == {}


def test_registries_beside_each_other_share_their_names(tmp_path):
    """Names of both are written in one list, so that one of a name would never be asked for."""
    things: Registry[str] = Registry("thing")
    others: Registry[str] = Registry("other", beside=things)
    things.add("x", "first", function_of(tmp_path / "a.py"))
    with pytest.raises(UsageError, match=r"the other 'x' is defined twice, in .*a\.py and .*b\.py"):
        others.add("x", "second", function_of(tmp_path / "b.py"))
    others.add("y", "second", function_of(tmp_path / "b.py"))
    with pytest.raises(UsageError, match="the other 'y' exists already"), things.lent("y", "third", Origin("c", "d")):
        pass
    assert (list(things), list(others)) == (["x"], ["y"])


def function_of_no_file(name: str) -> object:
    names: dict[str, object] = {}
    exec(compile("def thing(): pass", name, "exec"), names)
    return names["thing"]
