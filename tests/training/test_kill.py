"""Runs killed by the operating system at arbitrary moments end with the weights of a run that was left in peace."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from xeval.checkpoints.weightfiles import read_tensors

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from xeval.training.loop import train
from xeval.training.recipe import load_recipe
recipe = load_recipe("digits", "exconb", ["image_size=8", "epochs=8", "batch_size=16", "excon.explain_from_epoch=1"])
train(recipe, seed=0, out=Path(sys.argv[1]), limit=200)
"""


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)], cwd=ROOT)


def epoch_of(directory: Path) -> int:
    try:
        return int(json.loads((directory / "state" / "state.json").read_text())["epoch"])
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


@pytest.mark.slow
@pytest.mark.fault("T1", "T2")
def test_three_kills_at_random_moments(tmp_path: Path) -> None:
    draw = random.Random(0)
    assert start(tmp_path / "whole").wait() == 0
    directory = tmp_path / "killed" / "digits-exconb-s0"
    for reached in sorted(draw.sample(range(1, 7), 3)):
        process = start(tmp_path / "killed")
        while epoch_of(directory) < reached and process.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (directory / "run.json").exists()
    assert start(tmp_path / "killed").wait() == 0
    for name in ("best.safetensors", "last.safetensors"):
        whole, killed = (read_tensors(tmp_path / run / directory.name / name) for run in ("whole", "killed"))
        assert all(torch.equal(whole[key], killed[key]) for key in whole)
    assert {path.name for path in directory.iterdir()} == {
        path.name for path in (tmp_path / "whole" / directory.name).iterdir()
    }
