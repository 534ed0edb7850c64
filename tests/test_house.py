"""The order of the rooms: every import runs to the left, nothing lies on the shelf, no module has two names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT

ORDER = (
    ("errors", "_version"),
    ("registry",),
    ("runtime",),
    ("statistics", "perturb", "data", "models"),
    ("explainers",),
    ("engine",),
    ("checkpoints",),
    ("metrics",),
    ("quantus_bridge",),
    ("scoring",),
    ("verify", "training", "reports"),
    ("robustness",),
    ("sweep", "api"),
    ("cli",),
    ("docs", "benchmarks"),
)
"""A room imports only from rooms in earlier rows, and never from a neighbour in its own."""

PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
SHELF = {"__init__", "__main__", "_version", "errors", "registry"}
FACE = {"__init__", "__main__"}
"""The public face of the package looks to the right."""

NAMED = re.compile(r"xeval(\.[a-z_]+)+(:\w+)?")
IMPORTERS = {"import_module", "__import__", "run_module", "resolve_name", "spec_from_file_location"}
COMPUTED = {
    "xeval",
    "xeval.registry",
    "xeval.cli.options",
    "xeval.cli.completion",
    "xeval.models.of_code",
    "benchmarks.__main__",
}
"""The modules that import by a name: the face, the doors of rooms, the options and completions of a command, and a
network that the user's own code builds."""

OUTER = {"robustness", "cli", "sweep", "api", "docs", "benchmarks"}
"""Only these rooms name training or reports."""


def sources() -> dict[str, Path]:
    """Module → file, under the names that are installed."""
    found: dict[str, Path] = {}
    for folder, package in (("xeval", "xeval"), ("training", "xeval.training"), ("reports", "xeval.reports")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[module(package, path.relative_to(ROOT / folder))] = path
    for folder in ("docs/generate", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[module(folder.replace("/", "."), path.relative_to(ROOT / folder))] = path
    return found


def module(package: str, path: Path) -> str:
    parts = [package, *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = sources()


def room(name: str) -> str:
    """``xeval.scoring.run`` → ``scoring``; the package itself is ``__init__``."""
    first, *rest = name.split(".")
    return first if first != "xeval" else rest[0] if rest else "__init__"


def imports(path: Path) -> Iterator[str]:
    """Every module of the project that a file imports: at the top, lazily, for types only, or by ``import_module``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAMED.fullmatch(node.value):
            yield node.value.partition(":")[0]  # for import_module, ``-m``, or a place to look a class up


def dynamic(path: Path) -> Iterator[str]:
    """Every way of importing a module whose name is computed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] in IMPORTERS:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} & IMPORTERS:
            yield node.module or ""


def ours(names: Iterator[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in ("xeval", "docs", "benchmarks", "training", "reports")}


ARROWS = {name: ours(imports(path)) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", MODULES)
def test_every_import_runs_to_the_left(name: str) -> None:
    here = room(name)
    if here in FACE:
        return
    for other in ARROWS[name]:
        there = room(other)
        assert there != "__init__" or PLACE[here] > PLACE["api"], f"{name} imports the face of the package"
        if there not in (here, "__init__"):
            assert PLACE[there] < PLACE[here], f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(set(MODULES) - COMPUTED))
def test_no_import_is_hidden_behind_a_computed_name(name: str) -> None:
    assert list(dynamic(MODULES[name])) == []


@pytest.mark.parametrize("name", MODULES)
def test_only_the_outer_rooms_know_training_and_reports(name: str) -> None:
    named = {room(other) for other in ARROWS[name]} & {"training", "reports"}
    assert named <= {room(name)} or room(name) in OUTER, name


def test_the_shelf_holds_nothing_but_its_files() -> None:
    rooms = set(PLACE) - {"errors", "_version", "registry", "docs", "benchmarks", "robustness", "training", "reports"}
    there = {path.name for path in (ROOT / "xeval").iterdir() if path.name != "__pycache__"}
    assert there == {f"{name}.py" for name in SHELF} | rooms | {"py.typed"}
    assert all((ROOT / "xeval" / room / "__init__.py").is_file() for room in rooms)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Lazy imports count: a circle through them is a circle all the same. A door imports its own room."""
    doors = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    left = {
        name: {other for other in ARROWS[name] if other in MODULES} - doors - {name} for name in set(MODULES) - doors
    }
    while True:
        ends = {name for name, others in left.items() if not others}
        if not ends:
            break
        left = {name: others - ends for name, others in left.items() if name not in ends}
    assert not left


@pytest.mark.parametrize(
    "text",
    [
        "from xeval.cli import main",
        "import xeval.cli.main as m",
        "import_module('xeval.cli')",
        "__import__(name='xeval.cli')",
        "run([executable, '-m', 'xeval.cli.main'])",
        "look_up('xeval.cli.main:cli')",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"def f():\n    {text}\n")
    assert {room(name) for name in ours(imports(path))} == {"cli"}


EVERYTHING = """
import sys
import xeval.cli.main, xeval.sweep.work, xeval.training.loop, xeval.reports.explain, xeval.verify.run
import benchmarks.suite, docs.generate.pages, tests.metrics.test_metrics
print(*(f"{name}\t{getattr(module, '__file__', None)}" for name, module in list(sys.modules.items())), sep="\\n")
"""


def test_no_module_of_a_process_has_two_names() -> None:
    """One file is one module: a second copy would have registries and classes of its own."""
    run = subprocess.run([sys.executable, "-c", EVERYTHING], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = dict(line.split("\t") for line in run.stdout.splitlines())
    installed = {str(path): name for name, path in MODULES.items()}
    assert {name: installed[path] for name, path in loaded.items() if path in installed} == {
        name: name for name in loaded if name in MODULES
    }
    assert len(loaded.keys() & MODULES.keys()) > 100


def test_no_test_or_benchmark_takes_a_second_copy_of_a_module() -> None:
    """``training`` and ``reports`` lie beside ``tests`` and could be imported under a name that nobody installs."""
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"training", "reports"}, path


@pytest.mark.parametrize(
    "text",
    [
        "import_module(name)",
        "from importlib import import_module as load",
        "runpy.run_module(x)",
        "importlib.import_module(f'{a}.b')",
    ],
)
def test_a_computed_name_is_found(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"{text}\n")
    assert list(dynamic(path))


PATHS = re.compile(r"(?<![\w./-])(?:xeval|training|reports|tests|benchmarks|docs)/[\w./<>*-]+")


def test_every_path_and_module_that_the_documents_name_exists() -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for path in PATHS.findall(text):
            assert set(path) & set("<>*") or (ROOT / path.rstrip(".")).exists(), f"{page.name} names {path}"
        for name in re.findall(r"(?:from|import) (xeval(?:\.\w+)+)", text):
            assert name in MODULES, f"{page.name} imports {name}"
