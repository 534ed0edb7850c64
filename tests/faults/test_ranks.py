"""Jobs of several ranks: the rows of one process, one voice, one exit code, and an end when a rank dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import here, xeval
from tests.faults.test_kill import committed, rows
from tests.jobs import finished, pid_of, processes, torchrun
from tests.runs import make_run
from xeval.data import open_dataset
from xeval.errors import DataError
from xeval.runtime.distributed import Processes
from xeval.scoring.exchange import collected, packed, shared_work, unpacked
from xeval.scoring.run import score
from xeval.scoring.scorer import Failure, News, Scorer, failure_of
from xeval.scoring.store import Block

METRICS = ("drop", "infidelity", "sensitivity")
OPTIONS = ("--limit", "320", "--metrics", ",".join(METRICS), "--batch-size", "128", "--device", "cpu")
CHUNKS = 5
FEW = ("--method", "excon", "--limit", "200", "--device", "cpu", "--set", "image_size=8", "--set", "batch_size=16")
EPOCHS = 12
SCRIPT = """
import sys, time
from datetime import timedelta
from xeval.runtime.distributed import joined
from xeval.errors import DataError
from xeval.cli.leave import leave
try:
    with joined("cpu") as job:
{work}
except BaseException as error:
    leave(error, as_json=False)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


def assert_killing_ends(job: subprocess.Popen[str], victim: int) -> None:
    """SIGKILL for one rank ends the whole job, with an error, within a minute."""
    os.kill(victim, signal.SIGKILL)
    started = time.monotonic()
    job.communicate(timeout=60)
    assert job.returncode
    assert time.monotonic() - started < 60


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the child processes: sums over several threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of one process."""
    return score(run, out=tmp_path_factory.mktemp("whole"), limit=320, metrics=METRICS, batch_size=128, device="cpu")


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if "xeval: error[" in line]


def script(work: str) -> list[tuple[int, str]]:
    """Exit code and own lines of both ranks of a script."""
    program = SCRIPT.format(work="\n".join(f"        {line}" for line in work.splitlines()))
    return ends(processes(2, "-c", program))


def ends(jobs: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and own lines of every rank; the others are ended as torchrun would, once the first is gone."""
    found = [closed(jobs[0])]
    for job in jobs[1:]:
        while job.poll() is None and not catches(job, signal.SIGTERM):
            time.sleep(0.01)  # it learns of the end at the same moment, but may not have had its turn yet
        job.terminate()
        found.append(closed(job))
    return found


def closed(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and own lines of a process that has come to its end."""
    text = job.communicate(timeout=600)[1]
    return job.returncode, own(text)


def own(text: str) -> str:
    """The lines that xeval has written to stderr: PyTorch adds warnings of its own about slow connections."""
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith("xeval:"))


def catches(job: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{job.pid}/status").read_text()
    except OSError:
        return False
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_rows_are_those_of_one_process(processes: int, run: Path, whole: Path, tmp_path: Path) -> None:
    """Five blocks of images, so that the last turn leaves a rank without one."""
    text = finished(processes, "score", str(run), "--out", str(tmp_path), *OPTIONS, cwd=tmp_path)
    assert rows(tmp_path) == rows(whole)
    assert text.count("scores in") == text.count("features and t-SNE") == 1
    ours, theirs = (json.loads((folder / "scores.json").read_text()) for folder in (tmp_path, whole))
    assert ours["scores"] == theirs["scores"]
    assert ours["cost"]["passes"] == theirs["cost"]["passes"]
    assert not (tmp_path / "run.lock").exists()
    if processes == 3:
        again = finished(processes, "score", str(run), "--out", str(tmp_path), *OPTIONS, cwd=tmp_path)
        assert again.count("nothing to do") == 1


@pytest.mark.slow
def test_maps_that_were_made_elsewhere_are_those_of_one_process(run: Path, tmp_path: Path) -> None:
    images = len(open_dataset("digits").split("test"))
    np.save(tmp_path / "maps.npy", np.random.default_rng(0).random((images, 4, 4)))
    few = ("--limit", "130", "--metrics", "complexity", "--batch-size", "64", "--device", "cpu")
    command = ("score", str(run), *few, "--maps", "mine=maps.npy", "--out")
    xeval(*command, "one", cwd=tmp_path)
    finished(2, *command, "two", cwd=tmp_path)
    assert any("mine" in part for part in rows(tmp_path / "one"))
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


@pytest.mark.parametrize(("code", "same"), [("a", True), ("b", False)])
def test_a_rank_with_another_file_of_maps_is_refused(code: str, same: bool) -> None:
    """The protocol is the same, as maps belong to a checkpoint; what the ranks have read is not."""

    class Pretended(Processes):
        from_main: Callable[..., Any] = lambda *_: {
            "identity": ["weights", "data", "protocol", "layer", {"mine": "a"}],
            "work": None,
        }
        exchange: Callable[..., list[Any]] = lambda _, said: [said]

    protocol = SimpleNamespace(hash=lambda: "protocol")
    about = {"loaded": SimpleNamespace(sha256="weights"), "data_key": "data", "layer": "layer", "code": {"mine": code}}
    plan: Any = SimpleNamespace(protocol=protocol, **about)
    with nullcontext() if same else pytest.raises(DataError, match="rank 1 finds another checkpoint"):
        assert shared_work(Pretended(1, 2), plan, None) is None


@pytest.mark.fault("S23")
@pytest.mark.parametrize(
    ("killed", "then"), [(1, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, 3), (1, 2)))]
)
def test_a_killed_rank_ends_scoring_and_any_number_of_ranks_goes_on(
    killed: int, then: int, run: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("score", str(run), "--out", str(tmp_path), *OPTIONS)
    job = torchrun(2, *arguments, cwd=tmp_path)
    victim = pid_of(job, killed)
    while not committed(tmp_path) and job.poll() is None:
        time.sleep(0.01)
    assert_killing_ends(job, victim)
    assert 0 < committed(tmp_path) < CHUNKS
    if then == 1:
        assert here(capsys, *arguments)[0] == 0
    else:
        assert "resuming: " in finished(then, *arguments, cwd=tmp_path)
    assert rows(tmp_path) == rows(whole)
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.fault("T13")
@pytest.mark.slow
@pytest.mark.parametrize(("killed", "then"), [(1, 1), (0, 3), (1, 2)])
def test_a_killed_rank_ends_training_and_any_number_of_ranks_goes_on(killed: int, then: int, tmp_path: Path) -> None:
    arguments = ("train", "digits", "--out", str(tmp_path), *FEW, "--set", f"epochs={EPOCHS}")
    job = torchrun(2, *arguments, cwd=tmp_path)
    victim = pid_of(job, killed)
    while not (found := list(tmp_path.glob("digits-excon-*/state/state.json"))) and job.poll() is None:
        time.sleep(0.01)
    (state,) = found
    assert_killing_ends(job, victim)
    assert not (state.parent.parent / "run.json").exists()
    text = xeval(*arguments, cwd=tmp_path).stderr if then == 1 else finished(then, *arguments, cwd=tmp_path)
    assert f"of {EPOCHS}" in next(line for line in text.splitlines() if "going on after epoch" in line)
    with (state.parent.parent / "history.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in table] == list(range(1, EPOCHS + 1))
    assert all(np.isfinite(float(row["loss"])) for row in table)
    assert {path.name for path in state.parent.parent.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "history.csv",
        "run.json",
    }


@pytest.mark.fault("S24")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("score", "nowhere.pt"), "E200]: nowhere.pt does not exist"),
        pytest.param(("score", "x.pt", "--thresholds", "15"), "E200]: the threshold 15", marks=pytest.mark.slow),
        pytest.param(("train", "digit"), "E200]: unknown recipe 'digit'", marks=pytest.mark.slow),
        pytest.param(("compare", "runs"), "E200]: compare runs in one process", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_is_told_once(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    text = finished(2, *arguments, cwd=tmp_path, check=1)  # the launcher's own code
    assert len(errors(text)) == 1
    assert told in errors(text)[0]


@pytest.mark.fault("S24")
def test_an_error_of_one_rank_is_raised_on_all_and_told_by_the_first() -> None:
    first, second = script("with job.together():\n    if job.rank == 1:\n        raise DataError('bad', 'mend it')")
    assert first == (3, "xeval: error[E300]: bad — mend it\n")
    assert second == (3, "")


def test_an_error_that_cannot_be_shared_is_told_by_its_own_rank() -> None:
    """In the middle of a step the others wait in another exchange: they only notice that a rank is gone."""
    first, second = script("if job.rank == 1:\n    raise DataError('bad image', 'mend it')\njob.exchange(0)")
    assert second == (3, "xeval: error[E300]: bad image — mend it\n")
    assert first[0] == 5
    assert len(errors(first[1])) == 1
    assert "another of the 2 ranks has ended" in first[1]


TAKES_LONG = """
from torch.distributed import distributed_c10d as c10d
c10d._set_pg_timeout(timedelta(seconds=1), c10d._get_default_group())  # not earlier: the ranks start one by one
with job.together():
    time.sleep(3 if job.main else 0)
print('xeval: done', file=sys.stderr)
"""


def test_what_the_first_rank_does_alone_may_take_long() -> None:
    """Longer than a training step may, here a second."""
    assert script(TAKES_LONG) == [(0, "xeval: done\n")] * 2


@pytest.mark.slow
@pytest.mark.fault("S2")
def test_a_signal_to_one_rank_stops_all_after_the_images_in_hand(run: Path, whole: Path, tmp_path: Path) -> None:
    arguments = ("-m", "xeval", "score", str(run), "--out", str(tmp_path), *OPTIONS)
    jobs = processes(2, *arguments)
    while not committed(tmp_path) and jobs[0].poll() is None:
        time.sleep(0.01)
    jobs[1].terminate()
    (code, text), second = ends(jobs)
    assert (code, second) == (143, (143, ""))
    saved = committed(tmp_path)
    (told,) = errors(text)
    problem, _, remedy = told.partition(" — ")
    assert problem.startswith("xeval: error[E143]: ")
    assert f"{64 * saved} of 320 images" in problem
    assert "same command" in remedy
    assert 0 < saved < CHUNKS
    assert finished(2, *arguments[2:], cwd=tmp_path)
    assert rows(tmp_path) == rows(whole)


def test_blocks_and_failures_travel_as_they_are() -> None:
    """Columns of the model and of explainers, curves, reasons, and a metric's failure with its traceback."""
    blocks = {
        "p0": Block(np.array([0.5, np.nan]), {("error", "not finite"): np.array([False, True])}),
        ("grad-cam", "deletion.curve"): Block(np.arange(6.0).reshape(2, 3), {}),
        ("random", "drop.mag@0.45"): Block(
            np.array([np.nan, 0.25]),
            {("undefined", "β=0"): np.array([True, False]), ("error", "x"): np.array([False, False])},
        ),
    }
    try:
        raise ValueError("of a metric\nin two lines")
    except ValueError as error:
        failure = failure_of("drop", "7.png", error)
    back, news = unpacked(packed(blocks, News([failure], 3)))
    assert list(back) == list(blocks)
    for key, block in blocks.items():
        np.testing.assert_array_equal(back[key].values, block.values)
        assert back[key].values.shape == block.values.shape
        assert list(back[key].reasons) == list(block.reasons)
        for reason, mask in block.reasons.items():
            np.testing.assert_array_equal(back[key].reasons[reason], mask)
    assert news == News([failure], 3)
    assert "test_blocks_and_failures_travel" in failure.trace


def test_the_first_rank_learns_what_failed_on_the_others() -> None:
    class Pretended(Processes):
        to_main: Callable[..., list[bytes]] = lambda self, data: [data, packed({"p0": block}, news)]

    work: Any = SimpleNamespace(failures=[], passes=5, overflows=1)
    work.add_news = lambda told: Scorer.add_news(work, told)
    block, failure = Block(np.zeros(1), {}), Failure("drop", "7.png", "ValueError", "no", "trace")
    news = News([failure], 3, 2)
    found = collected(Pretended(0, 2), work, {})
    assert [list(part) for part in found] == [[], ["p0"]]
    assert work.failures == [failure]
    assert work.passes == 8
    assert work.overflows == 3


def test_without_torchrun_nothing_is_told_and_nothing_waits() -> None:
    alone = Processes()
    assert alone.main
    assert alone.exchange({"a": 1}) == [{"a": 1}]
    with pytest.raises(KeyError), alone.together():
        raise KeyError("as it is")
    assert (
        "torch"
        not in subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, xeval.runtime.distributed; print([m for m in sys.modules if m == 'torch'])",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
