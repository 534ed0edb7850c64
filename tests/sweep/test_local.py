"""Sweeps on this machine, in processes of their own as users start them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT, here, xeval
from xeval.checkpoints.card import read_card

MATRIX = """
limit = 200
[score]
limit = 20
explainers = ["grad-cam", "random"]
metrics = ["drop"]
thresholds = [0.45]
[[parts]]
folder = "small"
recipes = ["digits"]
methods = ["ce", "supcon"]
set = ["image_size=8", "batch_size=16"]
"""
FIRST, SECOND = "small/digits-ce-s0", "small/digits-ce-s1"


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(MATRIX)
    return path


def setting(matrix: Path, *overrides: str) -> Path:
    """The same matrix with more settings; on the command line they would stand in the names of the runs."""
    more = "".join(f', "{one}"' for one in overrides)
    matrix.write_text(MATRIX.replace('"batch_size=16"', f'"batch_size=16"{more}'))
    return matrix


def start(matrix: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xeval", "sweep", matrix.name, "--seeds", "0-1", "--parallel", "2", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=matrix.parent, env=environment, stderr=subprocess.PIPE, text=True)


def record(folder: Path, path: str = FIRST) -> dict:
    try:
        return json.loads((folder / "runs" / ".sweep" / "jobs" / f"{path}.json").read_text())
    except FileNotFoundError:
        return {"state": "waiting", "pid": None}


def wait_for_an_epoch(folder: Path, process: subprocess.Popen[str], *paths: str) -> tuple[str, int]:
    """The first of these jobs that has finished an epoch and is still training, and its process."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        for path in paths:
            if (folder / "runs" / path / "state" / "state.json").is_file():
                return path, int(record(folder, path)["pid"])
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    raise AssertionError(f"no epoch of {paths}")


@pytest.mark.slow
@pytest.mark.fault("T10")
def test_two_methods_with_two_seeds_and_a_job_that_is_killed(matrix):
    """One job is killed, one preempted: both go on after their last epoch, and the comparison has all four runs."""
    folder = matrix.parent
    process = start(setting(matrix, "epochs=12"))
    ends = {FIRST: signal.SIGKILL, SECOND: signal.SIGUSR2}  # the second is how a cluster takes a job off its machine
    while ends:  # whichever is there first
        path, pid = wait_for_an_epoch(folder, process, *ends)
        os.kill(pid, ends.pop(path))
    told = process.communicate(timeout=900)[1]
    assert process.returncode == 0, told
    assert f"{FIRST}: killed, starting it again (1 of 3)" in told
    assert f"{SECOND}: killed" not in told  # submitit itself has put it back into the queue
    assert "Calling checkpoint method" in Path(record(folder, SECOND)["log"]).read_text()
    for path in (FIRST, SECOND):
        assert record(folder, path)["attempts"] == 2
        assert f"{Path(path).name}: going on after epoch" in Path(record(folder, path)["log"]).read_text()
    shown = xeval("sweep", "status", "runs", "--json", cwd=folder)
    rows = json.loads(shown.stdout)
    assert [(row["state"], row["done"], row["scored"]) for row in rows] == [("complete", 12, True)] * 4
    results = json.loads((folder / "runs" / "small" / "report" / "results.json").read_text())
    assert results["schema"]
    for method in ("ce", "supcon"):
        for seed in (0, 1):
            assert read_card(folder / "runs" / "small" / f"digits-{method}-s{seed}").seed == seed
    # again: nothing is trained, nothing is scored, no job is started
    logs = sorted((folder / "runs" / ".sweep" / "logs").iterdir())
    told = xeval("sweep", "small.toml", "--seeds", "0-1", cwd=folder).stderr
    assert "4 of 4 runs are complete" in told
    assert sorted((folder / "runs" / ".sweep" / "logs").iterdir()) == logs


@pytest.mark.fault("T11")
def test_an_interrupted_sweep_stops_its_jobs(matrix):
    folder = matrix.parent
    process = start(setting(matrix, "epochs=5000"))  # more than it can do before the signal
    _, pid = wait_for_an_epoch(folder, process, FIRST)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=600)[1]
    assert process.returncode == 130
    problem, _, remedy = told.splitlines()[-1].partition(" — ")
    assert problem.startswith("xeval: error[E130]: ")
    assert "same command" in remedy
    assert "Traceback" not in told
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert record(folder)["state"] == "waiting"
    assert not list((folder / "runs").rglob("*.lock"))


@pytest.mark.slow
def test_jobs_that_outlive_their_sweep_are_left_in_peace(matrix):
    """Killed without a chance to stop its jobs: they go on, and until they have ended nothing starts them again."""
    folder = matrix.parent
    process = start(setting(matrix, "epochs=300"))
    _, pid = wait_for_an_epoch(folder, process, FIRST)
    process.kill()
    process.wait()
    again = xeval("sweep", matrix.name, "--seeds", "0-1", cwd=folder, check=6)
    assert f"are running, first {FIRST} (process {pid} on " in again.stderr.splitlines()[-1]
    xeval("sweep", "status", "runs", cwd=folder, check=6)
    for path in (FIRST, SECOND):
        os.kill(int(record(folder, path)["pid"]), signal.SIGTERM)
    assert process.stderr is not None
    process.stderr.close()
    until = time.monotonic() + 600
    while {record(folder, path)["state"] for path in (FIRST, SECOND)} != {"waiting"}:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_failed_run_is_told_in_one_sentence_and_not_tried_again(matrix):
    """Diverging on purpose: the error of the job is the error of the sweep; no comparison is made of the rest."""
    setting(matrix, "epochs=2", "optimizer.lr=1e30")
    failed = xeval("sweep", matrix.name, "--seeds", "0", "--methods", "ce", cwd=matrix.parent, check=3)
    last = failed.stderr.splitlines()[-1]
    assert f"1 of 1 runs failed, first {FIRST}: " in last
    assert record(matrix.parent)["attempts"] == 1
    assert record(matrix.parent)["state"] == "failed"
    assert not (matrix.parent / "runs" / "small" / "report").exists()


def test_dry_run_lists_the_runs_and_writes_nothing(matrix, capsys, monkeypatch):
    monkeypatch.chdir(matrix.parent)
    before = sorted(matrix.parent.iterdir())
    code, out, _ = here(capsys, "sweep", matrix.name, "--seeds", "0-1", "--dry-run")
    assert code == 0
    assert out.splitlines()[0] == f"{FIRST}  to do"
    assert f"4 runs in {matrix.parent / 'runs'}" in out
    assert sorted(matrix.parent.iterdir()) == before


# ---- mistakes


def test_without_submitit_it_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, last = here(capsys, "sweep", "digits")
    assert code == 2
    problem, _, remedy = last.partition(" — ")
    assert "submitit" in problem
    assert '"xeval-explanations[sweep]"' in remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm", "partition=gpu"], "--slurm is for a cluster — add --executor slurm"),
        (["--executor", "slurm", "--parallel", "2"], "--parallel is for this machine"),
        (["--set", "momentum=0.1,0.2"], "the key 'momentum' stands in several tables"),
        (["--seeds", "5-0"], "the seeds '5-0' are no range"),
    ],
)
def test_wrong_options(capsys, tmp_path, options, message):
    code, _, last = here(capsys, "sweep", "digits", "--out", str(tmp_path / "runs"), *options)
    assert code == 2
    assert message in last
    assert not (tmp_path / "runs").exists()


def test_run_may_be_left_out(capsys, tmp_path):
    shown = [
        here(capsys, "sweep", *words, "digits", "--seeds", "0", "--dry-run", "--out", str(tmp_path))[1]
        for words in ([], ["run"])
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith("digits-excon-s0  to do")
    assert here(capsys, "sweep", "--dry-run", "--seeds", "0", "digits", "--out", str(tmp_path))[1] == shown[0]
