"""Runs that are stopped where a test wants it, and what it means that two runs are the same."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from xeval.checkpoints.weightfiles import read_tensors
from xeval.runtime.progress import Silent
from xeval.training.loop import train
from xeval.training.recipe import Recipe

LIMIT = 60


class Stop(Exception):  # noqa: N818 - stands for a kill, not for an error
    """The run is interrupted."""


class Interrupt(Silent):
    """Stops a run after ``epochs`` finished epochs, or in the step ``step`` of the epoch after."""

    def __init__(self, epochs: int, step: int | None = None) -> None:
        self.left, self.step = epochs, step

    def say(self, text: str) -> None:
        if text.startswith("epoch"):
            self.left -= 1
            if self.left == 0 and self.step is None:
                raise Stop

    def track(self, items: Iterable[Any], total: int, label: str, *weigh: object) -> Iterator[Any]:
        for number, item in enumerate(items):
            if self.left == 0 and number == self.step and label.startswith("epoch"):
                raise Stop
            yield item


class Listen(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def run(recipe: Recipe, out: Path, seed: int = 0, **options: Any) -> Path:
    return train(recipe, seed=seed, out=out, limit=LIMIT, **options)


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(directory: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(directory)]


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("best", "last"):
        ours, theirs = (read_tensors(folder / f"{name}.safetensors") for folder in (first, second))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert without_seconds(first) == without_seconds(second)
