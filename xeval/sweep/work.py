"""Does the work of a job, training and scoring, and the comparison at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from xeval.errors import DataError
from xeval.runtime.progress import Lines
from xeval.scoring.run import score
from xeval.sweep.records import read, read_all
from xeval.sweep.tuning import choose, held_out_accuracy
from xeval.training.loop import train
from xeval.training.recipe import Recipe

EVERY = 60.0  # seconds between two progress lines in a log


def work(out: Path, path: str, *, threads: int | None) -> dict[str, Any]:
    """Train and score one run as far as it is not done; return the fields that its record gets."""
    if threads is not None:
        torch.set_num_threads(threads)
    progress, run = Lines(EVERY), read(out, path).run
    choice, means = choose(run, held_out_accuracy(out))
    if means:
        progress.say(f"chosen on held-out images: {choice.label} ({told(means)})")
    directory = train(
        Recipe.model_validate(choice.recipe),
        seed=run.seed,
        out=(out / path).parent,
        data_root=_path(run.data),
        limit=run.limit,
        device=run.device,
        progress=progress,
        name=Path(path).name,
    )
    if run.score is not None:
        named = {"arch": choice.recipe["arch"]}  # the sweep has just trained it, so it may be built again
        score(directory, progress, data=_path(run.data), device=run.device, **{**named, **run.score})
    return {"chosen": choice.label if means else None, "held_out": means}


def told(means: dict[str, float]) -> str:
    """Put mean accuracies into words."""
    return ", ".join(f"{label}: {mean:.4f}" for label, mean in means.items())


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def compare_folders(out: Path, folders: Sequence[str]) -> list[Path]:
    """Write a report for each folder of a sweep; raise :class:`DataError` where a run of it is not complete."""
    records = [record for record in read_all(out) if record.run.score is not None]
    missing = [record.run.path for record in records if record.run.folder in folders and record.state != "complete"]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(records)} runs are not complete, first {missing[0]}",
            "start the sweep again: what is complete is kept",
        )
    return [_compared(out / folder) for folder in folders]


def _compared(runs: Path) -> Path:
    from xeval.reports.compare import compare

    return compare(runs, runs / "report").page
