"""Hands the numbers of a job to the logger that a user keeps: a CSV file, TensorBoard or Weights & Biases.

Whatever becomes of a logger, the job goes on: one that fails is left out from there on, and told once.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from xeval.errors import UsageError
from xeval.runtime.endings import first_line
from xeval.runtime.progress import Progress
from xeval.runtime.provenance import package_version

FOLDER = "log"


class Logger(Protocol):
    """What takes the numbers of a job, step by step."""

    def put(self, numbers: Mapping[str, float], step: int) -> None:
        """Keep the numbers of a step so that a kill loses none of them."""

    def close(self) -> None:
        """Complete what was begun."""


class Csv:
    """One line a number, ``step,name,value``, in ``log/<job>.csv``."""

    def __init__(self, run: Path, job: str) -> None:
        self.file = (run / FOLDER / f"{job}.csv").open("w", newline="", encoding="utf-8")
        self.lines = csv.writer(self.file, lineterminator="\n")
        self.lines.writerow(("step", "name", "value"))

    def put(self, numbers: Mapping[str, float], step: int) -> None:
        """Write a line for each number."""
        self.lines.writerows((step, name, value) for name, value in numbers.items())
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class TensorBoard:
    """Scalars in an event file below ``log/tensorboard/<job>``; they replace those of an earlier call."""

    def __init__(self, run: Path, job: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run / FOLDER / "tensorboard" / job), purge_step=0)

    def put(self, numbers: Mapping[str, float], step: int) -> None:
        """Write the numbers as scalars."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class WandB:
    """A run of the project that WANDB_PROJECT names, else ``xeval``, in ``log/wandb``; WANDB_MODE=offline works."""

    def __init__(self, run: Path, job: str) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "xeval"),
            name=run.name,
            job_type=job,
            dir=str(run / FOLDER),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def put(self, numbers: Mapping[str, float], step: int) -> None:
        """Send the numbers."""
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Wait until everything is sent."""
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, str], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB, "csv": Csv}
"""What ``--log`` takes: the name, which is that of the package too, and what opens the logger of a run and a job."""

PACKAGES = ("tensorboard", "wandb")
"""Those of them that are packages of their own, and extras of this one."""


class Loggers:
    """Several loggers of one job, which are opened with the first numbers, once the folder of the run is its own."""

    def __init__(self, names: Sequence[str], run: Path, job: str, progress: Progress) -> None:
        self.names, self.run, self.job, self.progress = tuple(dict.fromkeys(names)), run, job, progress
        self.opened: dict[str, Logger] | None = None

    def put(self, numbers: Mapping[str, float], step: int = 0) -> None:
        """Give the numbers of a step to every logger that has not failed."""
        for name in list(self._all()):
            self._try(name, lambda logger: logger.put(numbers, step))

    def close(self) -> None:
        """Close every logger that has not failed."""
        for name in list(self.opened or ()):
            self._try(name, lambda logger: logger.close())

    def _all(self) -> dict[str, Logger]:
        if self.opened is None:
            self.opened = {}
            for name in self.names:
                self._open(name, self.opened)
        return self.opened

    def _open(self, name: str, opened: dict[str, Logger]) -> None:
        try:
            (self.run / FOLDER).mkdir(parents=True, exist_ok=True)
            opened[name] = LOGGERS[name](self.run, self.job)
        except Exception as error:
            self._tell(name, error)

    def _try(self, name: str, act: Callable[[Logger], None]) -> None:
        """Let a logger act, and leave it out from here on if it fails."""
        assert self.opened is not None
        try:
            act(self.opened[name])
        except Exception as error:
            del self.opened[name]
            self._tell(name, error)

    def _tell(self, name: str, error: Exception) -> None:
        self.progress.say(f"warning: --log {name} fails ({first_line(error)}); the job goes on without it")


@contextmanager
def logged(names: Sequence[str], run: Path, job: str, progress: Progress) -> Iterator[Loggers]:
    """Yield the loggers of a job, and close them whatever happens."""
    loggers = Loggers(names, run, job, progress)
    try:
        yield loggers
    finally:
        loggers.close()


def require_loggers(names: Sequence[str]) -> None:
    """Raise :class:`UsageError` before the work where the package of a logger is not installed."""
    for name in names:
        if name in PACKAGES and package_version(name) is None:
            raise UsageError(
                f"--log {name} needs {name}, which is not installed", f'pip install "xeval-explanations[{name}]"'
            )


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a row is a number; gaps and words are left out."""
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
