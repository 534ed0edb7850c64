"""The house rules that no linter knows."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT
from xeval.data.sources import READERS
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import METRICS
from xeval.quantus_bridge import bridge  # noqa: F401 - registers the metrics that run through Quantus
from xeval.training.methods import METHODS

LISTED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
TRACKED = [ROOT / name for name in LISTED.split("\0") if name and (ROOT / name).is_file()]


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


SOURCES = [path for path in TRACKED if path.suffix == ".py" and room(path) in ("xeval", "training", "reports")]
OPENERS = {
    "torch.load": {"xeval/checkpoints/weightfiles.py"},
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    "torch.package.PackageImporter": set(),
    "torch.serialization.add_safe_globals": set(),
    "torch.serialization.safe_globals": {"xeval/checkpoints/sandbox.py"},
    "pickle.Unpickler": {"xeval/data/unpickler.py"},
    "pickle.load": set(),
    "pickle.loads": set(),
    "joblib.load": set(),
    "np.load": set(),
    "numpy.load": set(),
    "pd.read_pickle": set(),
    "pandas.read_pickle": set(),
    "yaml.load": set(),
    "eval": set(),
    "exec": set(),
}
# Modules that open pickles, and the files that name one: for an exception's class, or with a restricted find_class.
UNPICKLERS = {
    "pickle": {"xeval/checkpoints/weightfiles.py", "xeval/data/unpickler.py"},
    "_pickle": set(),
    "cPickle": set(),
    "cloudpickle": set(),
    "dill": set(),
    "joblib": set(),
    "marshal": set(),
    "shelve": set(),
}


def calls(path: Path) -> set[str]:
    """Dotted names of everything that is called or subclassed, and whether pickles are allowed anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
            if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
                found.add("allow_pickle")
        elif isinstance(node, ast.ClassDef):
            found |= {ast.unparse(base) for base in node.bases}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_weights_and_pickles_are_opened_in_one_place(path):
    name, used = str(path.relative_to(ROOT)), calls(path)
    for opener, allowed in OPENERS.items():
        assert opener not in used or name in allowed, f"{name} calls {opener}"
    assert "allow_pickle" not in used


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_brings_an_unpickler_or_hides_one(path):
    """Neither the modules nor the functions of ``OPENERS`` under another name (``from torch import load``)."""
    name, functions = str(path.relative_to(ROOT)), {tuple(opener.rsplit(".", 1)) for opener in OPENERS}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {(node.module or "").split(".")[0]}
            assert not {(node.module, alias.name) for alias in node.names} & functions, f"{name} imports an opener"
        else:
            continue
        for module, allowed in UNPICKLERS.items():
            assert module not in modules or name in allowed, f"{name} imports {module}"


def test_weights_only_is_never_switched_off():
    """``weights_only`` is written once, as True, and nothing in a command line or an environment can change it."""
    written = [
        (str(path.relative_to(ROOT)), ast.unparse(word.value))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "weights_only"
    ]
    assert written == [("xeval/checkpoints/weightfiles.py", "True")]
    assert not [path for path in SOURCES if "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in path.read_text()]


def test_every_registered_thing_has_a_row_in_the_docs():
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    native = [metric for name, metric in METRICS.items() if not name.startswith("quantus:")]
    columns = {re.sub(r"@.*", "@q", column.name) for m in native for column in m.columns(m.settings())}
    readers = [name for name in READERS if name != "folder"]
    for name in [*EXPLAINERS, *CONTROLS, *METHODS, *readers, *METRICS, *columns]:
        assert f"`{name}`" in text, name


def test_the_gate_lists_tests_that_exist():
    known = {path.name for path in TRACKED}
    for line in (ROOT / ".ci" / "allowed-skips").read_text().splitlines():
        if line and not line.startswith("#"):
            assert line.split("::")[0].split(".")[-1] + ".py" in known, line


def test_no_picture_of_the_research_photographs_is_tracked():
    assert [path for path in TRACKED if path.suffix.lower() in (".jpeg", ".jpg", ".zip", ".npz", ".bin")] == []
