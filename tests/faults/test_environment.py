"""Surroundings that differ from the developer's: no git, no HOME, few files, closed pipes, stripped asserts, no GPU."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT, here
from tests.runs import make_run
from xeval.cli import doctor
from xeval.cli import leave as exits
from xeval.cli import main as cli
from xeval.errors import BusyError, CheckpointError, DataError, PartialError, ResourceError, UsageError
from xeval.runtime import files, provenance
from xeval.runtime.signals import Kill
from xeval.scoring.run import score
from xeval.scoring.store import Store

MODULE = Path(provenance.__file__).relative_to(ROOT)
OPTIONS = ("--metrics", "drop,complexity", "--limit", "40", "--batch-size", "64")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


def table(out):
    with Store(out / "scores.sqlite", read_only=True) as store:
        return {(cell.explainer, cell.name): store.read(number).values for number, cell in store.cells()}


@pytest.mark.fault("E2", "E3", "E4", "E5", "S19")
def test_a_hostile_environment_gives_the_same_numbers(run, tmp_path):
    """No HOME, temporary files elsewhere, comma locale, another time zone, 64 open files, no GPU, ``python -O``."""
    elsewhere = "/dev/shm" if os.path.isdir("/dev/shm") else str(tmp_path)  # noqa: PTH112 - another file system
    command = ("-m", "xeval", "score", str(run), "--out", str(tmp_path / "out"), *OPTIONS)
    child = subprocess.run(
        [sys.executable, "-O", "-W", "error::DeprecationWarning:xeval", *command],
        env={
            **{name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": elsewhere,
            "LC_ALL": "de_DE.UTF-8",
            "LC_NUMERIC": "de_DE.UTF-8",
            "TZ": "Pacific/Kiritimati",
            "CUDA_VISIBLE_DEVICES": "",
        },
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert "Traceback" not in child.stderr
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert summary["status"] == "complete"
    here_out = score(run, out=tmp_path / "here", metrics=("drop", "complexity"), limit=40, batch_size=64)
    expected, found = table(here_out), table(tmp_path / "out")
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert np.allclose(found[key], values, rtol=0, atol=1e-5, equal_nan=True), key
    assert not re.search(r"\d,\d{3}\b.*[|↓↑]", child.stdout)  # no decimal commas in the table


@pytest.mark.fault("E2")
def test_temporary_files_stand_beside_their_target(tmp_path, monkeypatch):
    """A rename across file systems (EXDEV) cannot happen, wherever TMPDIR is."""
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    seen, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: seen.append((self, target)) or replace(self, target))
    files.atomic_write(tmp_path / "a.json", b"{}")
    ((source, target),) = seen
    assert source.parent == target.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.fault("E1")
@pytest.mark.parametrize("how", ["no git", "refused", "hangs"])
def test_a_commit_that_cannot_be_told_is_unknown(monkeypatch, how):
    def git(*_, **__):
        if how == "no git":
            raise FileNotFoundError("git")
        if how == "hangs":
            raise subprocess.TimeoutExpired("git", 10)
        return subprocess.CompletedProcess("git", 128, "", "fatal: detected dubious ownership in repository")

    monkeypatch.setattr(provenance.subprocess, "run", git)
    monkeypatch.setattr(provenance.Path, "exists", lambda _: True)
    assert provenance._commit() == "unknown"


@pytest.mark.fault("E1")
def test_dirty_detached_and_shallow_trees_have_a_name(tmp_path, monkeypatch):
    def git(*arguments, cwd):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
        return subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True)

    tree = tmp_path / "tree"
    (tree / MODULE).parent.mkdir(parents=True)
    (tree / MODULE).write_text("")
    git("init", cwd=tree)
    monkeypatch.setattr(provenance, "__file__", str(tree / MODULE))
    assert provenance._commit() == "unknown"  # no commit yet
    for number in range(2):
        (tree / "file").write_text(str(number))
        git("add", ".", cwd=tree)
        git("commit", "-m", "one", cwd=tree)
    commit = provenance._commit()
    assert re.fullmatch(r"[0-9a-f]{12}", commit)
    git("checkout", "--detach", cwd=tree)
    assert provenance._commit() == commit
    (tree / "file").write_text("changed")
    assert provenance._commit() == f"{commit}+dirty"
    git("clone", "--depth", "1", f"file://{tree}", str(tmp_path / "shallow"), cwd=tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "shallow" / MODULE))
    assert provenance._commit() == commit


@pytest.mark.fault("E4")
@pytest.mark.parametrize("command", [("score",), ("train", "digits"), ("verify",)])
def test_a_device_that_is_not_there(run, capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    where = () if command[0] == "train" else (str(run),)
    left, _, last = here(capsys, *command, *where, "--device", "cuda:31")
    assert left == 2
    assert "the device 'cuda:31' cannot be used" in last
    assert not list(tmp_path.rglob("scores.json"))


@pytest.mark.fault("S22")
def test_a_reader_that_leaves(run, tmp_path):
    """``xeval … | head -1``: stdout is closed long before the last line."""
    code = (
        "import os, sys\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)\n"
        "from xeval.cli.main import main\nsys.argv = ['xeval', *sys.argv[1:]]\nmain()"
    )
    for arguments in (("list", "metrics"), ("--help",), ("--version",)):
        child = subprocess.run(
            [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT
        )
        assert (child.returncode, child.stderr) == (0, ""), arguments


# ---- the exit codes and the last line


ENDINGS = [
    (UsageError("p", "r"), 2, "E200"),
    (DataError("p", "r"), 3, "E300"),
    (CheckpointError("p", "r"), 4, "E400"),
    (ResourceError("p", "r"), 5, "E500"),
    (BusyError("p", "r"), 6, "E600"),
    (PartialError("p", "r"), 7, "E700"),
    (KeyboardInterrupt(), 130, "E130"),
    (Kill(), 143, "E143"),
    (MemoryError(), 5, "E500"),
    (PermissionError(13, "Permission denied", "x"), 2, "E200"),
    (OSError(errno.ENOSPC, "No space left on device"), 5, "E500"),
    (OSError(errno.EMFILE, "Too many open files"), 5, "E500"),
    (OSError(errno.EIO, "Input/output error", "x"), 5, "E500"),
    (OSError(errno.EROFS, "Read-only file system", "x"), 2, "E200"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), 2, "E200"),
    (ZeroDivisionError("bug"), 1, "E100"),
]


@pytest.mark.parametrize(("error", "status", "code"), ENDINGS, ids=lambda value: type(value).__name__)
def test_every_kind_of_end(capsys, tmp_path, monkeypatch, error, status, code):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(cli.cli.commands["list"], "callback", broken)
    left, out, last = here(capsys, "list", "metrics")
    assert (left, out) == (status, "")
    assert last.startswith(f"xeval: error[{code}]: ")
    assert " — " in last
    for arguments in (("--json-errors", "list", "metrics"), ("list", "metrics", "--json-errors")):
        left, _, last = here(capsys, *arguments)
        found = json.loads(last)["error"]
        assert (left, found["exit"], found["code"]) == (status, status, code)
        assert set(found) == {"code", "exit", "problem", "remedy"}
    assert len(list(tmp_path.glob("xeval-traceback-*"))) == (3 if status == 1 else 0)


def test_no_command_is_the_help_and_a_last_line(capsys):
    left, _, last = here(capsys)
    assert left == 2
    assert last.startswith("xeval: error[E200]: ")
    assert last.partition(" — ")[2].endswith("xeval --help")
    assert "data" in json.loads(here(capsys, "data", "--json-errors")[2])["error"]["remedy"]


def test_json_errors_of_wrong_usage(capsys):
    left, _, last = here(capsys, "score", "--no-such-option", "--json-errors")
    assert left == 2
    assert "No such option" in json.loads(last)["error"]["problem"]
    assert exits.split_flag(["score", "--", "--json-errors"]) == (["score", "--", "--json-errors"], False)


# ---- xeval doctor


def test_doctor_on_this_machine(capsys):
    left, out, _ = here(capsys, "doctor", "--json")
    found = {one["about"]: one for one in json.loads(out)}
    assert {"xeval", "python", "torch", "torchvision", "captum", "quantus", "device", "threads", "opencv"} <= set(found)
    assert {"disk of the data", "disk of this folder", "data digits", "weight files"} <= set(found)
    failed = [one for one in found.values() if one["state"] == "failed"]
    assert left == (failed[0]["status"] if failed else 0)
    assert "quantus" not in sys.modules or left == 0


def test_doctor_finds_a_vulnerable_torch(capsys, monkeypatch):
    assert [doctor.safe_torch(v).state for v in ("2.10.0", "2.15.0+cu132", "2.9.1", "1.13")] == [
        "ok",
        "ok",
        "failed",
        "failed",
    ]
    monkeypatch.setattr(doctor, "package_version", lambda name: "2.9.1" if name == "torch" else "1")
    left, _, last = here(capsys, "doctor")
    assert left == 2
    assert "CVE-2026-24747" in last
    assert "torch>=2.10" in last


def test_doctor_tells_what_opencv_lacks(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.opencv(["opencv-python"])
    assert (found.state, found.status) == ("failed", 2)
    assert "libGL.so.1" in found.text
    assert "libgl1" in found.remedy
    (tmp_path / "cv2.py").write_text("__version__ = '5'")
    assert doctor.opencv(["opencv-python"]).state == "ok"
    both = doctor.opencv(["opencv-python", "opencv-python-headless"])
    assert both.state == "warning"
    assert "opencv-python and opencv-python-headless" in both.text
    assert doctor.opencv([]).state == "warning"


def test_doctor_measures_the_disk(tmp_path, monkeypatch):
    usage = type(doctor.shutil.disk_usage("/"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 5))
    found = doctor.disk("disk", tmp_path / "not" / "there")
    assert (found.state, found.status) == ("failed", 5)
    with pytest.raises(ResourceError):
        doctor.require_sound([found])
