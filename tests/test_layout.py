"""The house rules that no linter knows."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT
from training.methods import METHODS
from xeval import bridge  # noqa: F401 - registers the metrics that run through Quantus
from xeval.data import READERS
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import METRICS

LISTED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
TRACKED = [ROOT / name for name in LISTED.split("\0") if name and (ROOT / name).is_file()]


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


SOURCES = [path for path in TRACKED if path.suffix == ".py" and room(path) in ("xeval", "training", "reports")]
OPENERS = {
    "torch.load": {"xeval/checkpoints.py"},
    "pickle.Unpickler": {"xeval/data/unpickler.py"},
    "pickle.load": set(),
    "pickle.loads": set(),
    "joblib.load": set(),
    "eval": set(),
    "exec": set(),
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


@pytest.mark.parametrize("path", [path for path in SOURCES if room(path) == "xeval"], ids=lambda path: path.name)
def test_xeval_knows_neither_of_the_other_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.removeprefix("xeval.").split(".")[0] not in ("training", "reports"), name


def test_training_and_reports_import_their_siblings_relatively():
    for path in SOURCES:
        here, text = room(path), path.read_text()
        if here != "xeval":
            other = "reports" if here == "training" else "training"
            assert not re.search(rf"^\s*(from|import) {here}[. ]", text, re.MULTILINE), path
            assert not re.search(rf"^\s*(from|import) (xeval\.)?{other}[. ]", text, re.MULTILINE), path


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
