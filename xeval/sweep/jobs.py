"""Defines the jobs of a sweep: one trains and scores a run and notes how it went, the other compares the runs.

The callables stand at the top level and carry plain text, so that another machine can start them; everything else is
read from the run's record. Starting a job again continues where the last one stopped.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from xeval.errors import XevalError
from xeval.runtime.signals import terminable


class Resumable(ABC):
    """A callable job that a scheduler may stop and start again."""

    @abstractmethod
    def __call__(self) -> Any:
        """Do the work, or what is left of it."""

    def checkpoint(self, *_: Any) -> submitit.helpers.DelayedSubmission:
        """Return the same job, to be queued again; submitit calls this before a job is taken off its machine."""
        return submitit.helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class RunJob(Resumable):
    """A job that trains and scores the run at ``path`` of the sweep in ``out``, on the device ``gpu`` if given."""

    out: str
    path: str
    gpu: str | None = None
    threads: int | None = None
    local: bool = False

    def __call__(self) -> str:
        """Do the run and return its path; an error is noted in its record, then raised."""
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu  # before torch initialises CUDA
        from xeval.sweep.records import holding
        from xeval.sweep.work import work

        out = Path(self.out)
        # submitit ignores SIGTERM, which a cluster sends ahead of its own signal; on one machine it must stop the job
        with holding(out, self.path), terminable() if self.local else nullcontext():
            self._note_start(out)
            return self._noted(out, lambda: work(out, self.path, threads=self.threads))

    def _note_start(self, out: Path) -> None:
        from xeval.sweep import records

        environment = submitit.JobEnvironment()
        records.change(
            out,
            self.path,
            state="running",
            attempts=records.read(out, self.path).attempts + 1,
            job=environment.job_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            log=str(environment.paths.stdout),
            error=None,
        )

    def _noted(self, out: Path, run: Callable[[], dict[str, Any]]) -> str:
        from xeval.sweep import records

        try:
            fields = run()
        except Exception as error:
            records.change(out, self.path, state="failed", error=_sentence(error))
            raise
        except BaseException:  # stopped from outside, or about to be queued again
            records.change(out, self.path, state="waiting")
            raise
        records.change(out, self.path, state="complete", **fields)
        return self.path


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, XevalError) else f"internal error, {type(error).__name__}: {error}"[:500]


@dataclass(frozen=True)
class CompareJob(Resumable):
    """A job that compares the runs of every folder of a sweep."""

    out: str
    folders: tuple[str, ...]

    def __call__(self) -> list[str]:
        """Compare the runs and return the paths of the pages."""
        from xeval.sweep.work import compare_folders

        return [str(page) for page in compare_folders(Path(self.out), self.folders)]
