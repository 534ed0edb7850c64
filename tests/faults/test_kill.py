"""Scoring that is killed or interrupted at any moment ends with the rows of a run that was left in peace."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import torch

from tests.commands import ROOT, here
from tests.runs import make_run
from xeval.scoring.run import score
from xeval.scoring.store import Store

OPTIONS = ("--limit", "192", "--metrics", "drop,infidelity,sensitivity", "--batch-size", "128", "--device", "cpu")
CHUNKS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the child processes: sums over several threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Rows of the uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    return rows(score(run, out=out, limit=192, metrics=("drop", "infidelity", "sensitivity"), batch_size=128))


def start(run, out, options=OPTIONS):
    return subprocess.Popen(
        [sys.executable, "-m", "xeval", "score", str(run), "--out", str(out), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(out):
    """Every row of every chunk under the names of its cell, with the meaning of its status codes."""
    with sqlite3.connect(out / "scores.sqlite") as db:
        meaning = dict(db.execute("SELECT code, kind || text FROM reason"))
        found = db.execute(
            "SELECT checkpoint, cell.data, explainer, metric, name, definition, first, n, chunk.data, status, failed "
            "FROM chunk JOIN cell ON cell.id = chunk.cell ORDER BY 1, 2, 3, 4, 5, 6, 7"
        ).fetchall()
    return [(*row[:9], [meaning.get(code, "ok") for code in row[9]], row[10]) for row in found]


def committed(out):
    """How many chunks are in the store of a running process."""
    try:
        with Store(out / "scores.sqlite", read_only=True) as store:
            cells = [number for number, cell in store.cells() if cell.name == "p0"]
            return len(store.done(cells)[cells[0]]) if cells else 0
    except Exception:
        return 0  # not there yet, or locked just now


@pytest.mark.slow
@pytest.mark.fault("S1")
def test_sigkill_three_times_at_random(run, whole, tmp_path):
    """Killed while it starts, after the first images and after the next ones; each start tells what it has found."""
    draw, found, told = random.Random(7), [], []
    for reached in range(CHUNKS):
        found.append(committed(tmp_path))
        child = start(run, tmp_path)
        while committed(tmp_path) < reached and child.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        child.kill()
        assert child.wait() in (-signal.SIGKILL, 0)  # 0 where it was faster than the kill
        told += told_by(child, found[-1])
    found.append(committed(tmp_path))
    child = start(run, tmp_path)
    assert child.wait(timeout=600) == 0
    told += told_by(child, found[-1], ended=True)
    assert rows(tmp_path) == whole
    assert found == sorted(found)
    assert told
    assert json.loads((tmp_path / "scores.json").read_text())["status"] == "complete"
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "run.lock").exists()


def told_by(child, done, *, ended=False):
    """After how many images a start went on: all that were there; where it was killed, it may not have said so yet."""
    text = child.stderr.read()
    assert "Traceback" not in text
    told = re.findall(r"resuming: (\d+) of 192 images done", text)
    assert told == [str(64 * done)] if told else (not ended or done in (0, CHUNKS))
    return told


def signalled(monkeypatch, signals, at):
    """Send signals to this process when chunk number ``at`` is being committed."""
    original, calls = Store.put, []

    def put(self, first, blocks):
        calls.append(first)
        if len(calls) == at:
            for number in signals:
                os.kill(os.getpid(), number)
        original(self, first, blocks)

    monkeypatch.setattr(Store, "put", put)


@pytest.mark.fault("S2")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_finishes_the_images_in_hand(run, whole, tmp_path, capsys, monkeypatch, number, code):
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        signalled(patch, [number], at=2)
        left, out, last = here(capsys, "score", str(run), "--out", str(tmp_path), *OPTIONS)
    assert (left, out) == (code, "")
    assert last.startswith(f"xeval: error[E{code}]: ")
    problem, _, remedy = last.partition(" — ")
    assert "128 of 192 images" in problem
    assert "same command" in remedy
    assert committed(tmp_path) == 2
    assert not (tmp_path / "scores.json").exists()
    assert not (tmp_path / "run.lock").exists()
    assert here(capsys, "score", str(run), "--out", str(tmp_path), *OPTIONS)[0] == 0
    assert rows(tmp_path) == whole
    assert handlers == {each: signal.getsignal(each) for each in handlers}


@pytest.mark.fault("S2")
def test_a_second_interrupt_is_immediate(run, whole, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        signalled(patch, [signal.SIGINT, signal.SIGINT], at=2)
        left, _, last = here(capsys, "score", str(run), "--out", str(tmp_path), *OPTIONS)
    assert left == 130
    assert last.startswith("xeval: error[E130]: interrupted")
    assert committed(tmp_path) == 1  # the chunk in hand is lost, nothing else
    assert here(capsys, "score", str(run), "--out", str(tmp_path), *OPTIONS)[0] == 0
    assert rows(tmp_path) == whole


def test_training_terminated_is_143(tmp_path, capsys, monkeypatch):
    """No safe point inside an epoch: what is saved stays, and the exit code tells."""
    from xeval.training.trainer import Trainer

    original = Trainer.advance

    def advance(self, progress):
        if self.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, progress)

    monkeypatch.setattr(Trainer, "advance", advance)
    few = ("--set", "epochs=3", "--set", "arch=cnn-tiny", "--set", "image_size=8", "--method", "ce")
    left, _, last = here(capsys, "train", "digits", "--out", str(tmp_path), *few)
    assert left == 143
    assert last.startswith("xeval: error[E143]: terminated — run the same command again")
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "state" / "state.json").read_text())["epoch"] == 1
    assert not (run / "run.lock").exists()


@pytest.mark.slow
@pytest.mark.fault("S1")
def test_sigkill_with_every_metric(run, tmp_path):
    """The whole protocol on the whole split, killed at random three times."""
    draw, options = random.Random(11), ("--batch-size", "128", "--device", "cpu")
    assert start(run, tmp_path / "whole", options).wait(timeout=1200) == 0
    for reached in (1, 2, 4):
        child = start(run, tmp_path / "killed", options)
        while committed(tmp_path / "killed") < reached and child.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert start(run, tmp_path / "killed", options).wait(timeout=1200) == 0
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
