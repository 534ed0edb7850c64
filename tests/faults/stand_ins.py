"""What stands in where a command is run many times: jobs of a sweep in the same process, one figure for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch


class Inline:
    """An executor of submitit whose jobs have ended when they are submitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def update_parameters(self, **_: Any) -> None:
        """Do nothing: there are no processes."""

    def submit(self, job: Callable[[], Any]) -> SimpleNamespace:
        with suppress(Exception):  # the job has noted it in its record
            job()
        return SimpleNamespace(job_id="0", done=lambda: True)


@contextmanager
def in_place() -> Iterator[None]:
    """Put the stand-ins in their places."""
    environment = SimpleNamespace(job_id="0", paths=SimpleNamespace(stdout="log"))
    with (
        patch("submitit.LocalExecutor", Inline),
        patch("submitit.JobEnvironment", lambda: environment),
        patch("xeval.reports.compare.figures", lambda *_: []),
    ):
        yield
