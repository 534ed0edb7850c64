"""Runs the whole chain on the embedded digits: trains and scores four methods, several seeds, in parallel processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from xeval.runtime.files import writable_directory
from xeval.runtime.progress import Lines, Progress
from xeval.scoring.run import SCORES, score

T = TypeVar("T")
METHODS = ("ce", "supcon", "excon", "exconb")
Train = Callable[[str, int, Path, Sequence[str], Progress], Path]
"""``(method, seed, folder, overrides, progress) -> run directory``; importable by name, as other processes call it."""


@dataclass(frozen=True)
class Job:
    """One checkpoint that has to be trained and scored."""

    method: str
    seed: int
    folder: Path
    overrides: tuple[str, ...]
    limit: int | None
    threads: int


class Named(Lines):
    """Progress lines that name the job they belong to, because several jobs print at once; each prints only a few."""

    def __init__(self, name: str) -> None:
        super().__init__(every=5)
        self.name = name
        self._last = time.monotonic()

    def say(self, text: str) -> None:
        """Print the line if the job has printed nothing for a while."""
        if time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            super().say(f"  {self.name}: {text}")


def train_and_score(out: Path, train: Train, progress: Progress, *, quick: bool = False) -> Path:
    """Train and score four methods with three seeds each (``quick``: one seed, six epochs, 100 images).

    One process per core runs one thread each, because networks this small gain nothing from more. Returns the folder of
    the runs.
    """
    runs = writable_directory(out / "runs")
    workers = min(os.cpu_count() or 1, 12)
    overrides = ("epochs=6",) if quick else ()
    jobs = [
        Job(method, seed, runs, overrides, 100 if quick else None, 1)
        for seed in range(1 if quick else 3)
        for method in METHODS
    ]
    progress.say(f"training and scoring {len(jobs)} checkpoints on real digits, {workers} at a time")
    started = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            futures = [pool.submit(run_job, job, train) for job in jobs]
            for number, future in enumerate(as_completed(futures), 1):
                progress.say(f"[{number}/{len(jobs)}] {future.result()} ({time.monotonic() - started:.0f} s)")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return runs


def run_job(job: Job, train: Train) -> str:
    """Train and score one checkpoint; return a line about it."""
    torch.set_num_threads(job.threads)
    progress = Named(f"{job.method}, seed {job.seed}")
    out = score(train(job.method, job.seed, job.folder, job.overrides, progress), progress, limit=job.limit)
    summary = json.loads((out / SCORES).read_text(encoding="utf-8"))
    drop = summary["scores"]["grad-cam"]["drop.mag@0.45"]["mean"]
    return f"{job.method}, seed {job.seed}: accuracy {summary['model']['accuracy']:.3f}, drop.mag@0.45 {drop:.3f}"
