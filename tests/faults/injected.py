"""The commands that :mod:`tests.faults.injector` disturbs, each as small as it can be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from safetensors.torch import save_file

from tests.faults.foreign import network
from tests.faults.injector import Command
from tests.reports.synthetic import write_study
from tests.runs import make_run
from xeval.training.loop import train
from xeval.training.recipe import load_recipe

TINY = ("arch=cnn-tiny", "image_size=8", "epochs=2", "batch_size=16")
TRAIN = ("train", "digits", "--method", "ce", "--limit", "60", *(word for one in TINY for word in ("--set", one)))
MATRIX = f"""
limit = 60
[score]
limit = 20
explainers = ["grad-cam", "random"]
metrics = ["complexity"]
[[parts]]
folder = "small"
recipes = ["digits"]
methods = ["ce"]
set = {list(TINY)}
"""


def _run(folder: Path) -> None:
    make_run(folder / "run")


def _study(folder: Path) -> None:
    write_study(folder / "runs", {"supcon": (0.3,), "excon": (0.2,)}, artifacts=False)


def _weights(folder: Path) -> None:
    save_file(network().state_dict(), folder / "foreign.safetensors")


def _trained(folder: Path) -> None:
    train(load_recipe("digits", "ce", list(TINY)), seed=0, out=folder / "runs", limit=60)


def _matrix(folder: Path) -> None:
    (folder / "small.toml").write_text(MATRIX)


def _nothing(_: Path) -> None:
    """The command starts in an empty folder."""


@cache
def commands() -> dict[str, Command]:
    """Every disturbed command by its name."""
    score = ("--limit", "70", "--metrics", "complexity", "--explainers", "grad-cam,random", "--batch-size", "64")
    probe = ("probe", "foreign.safetensors", "--dataset", "digits", "--head", "centroid", "--device", "cpu")
    probe = (*probe, "--arch", "resnet-small")
    every = (
        Command("train", (*TRAIN, "--device", "cpu"), _nothing),
        Command("train --export", (*TRAIN, "--device", "cpu", "--export", "ckpt.pt"), _trained),
        Command(
            "import",
            ("import", "foreign.safetensors", "--out", "run", "--dataset", "digits", "--arch", "resnet-small"),
            _weights,
        ),
        Command("probe", probe, _weights),
        Command("score", ("score", "run", *score, "--device", "cpu"), _run),
        Command("compare", ("compare", "runs"), _study),
        Command("sweep", ("sweep", "small.toml", "--seeds", "0", "--device", "cpu"), _matrix),
    )
    return {command.name: command for command in every}
