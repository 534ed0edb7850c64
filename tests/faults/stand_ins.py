"""What stands in where a command is run many times: jobs of a sweep in the same process, a report of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from xeval.reports import compare


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
    tables = compare.tables
    with (
        patch("submitit.LocalExecutor", Inline),
        patch("submitit.JobEnvironment", lambda: environment),
        patch("xeval.reports.compare.tables", lambda *given: tables(*given)[:1]),
        patch("xeval.reports.compare.paper_tables", lambda *_: []),
        patch("xeval.reports.compare.figures", lambda *_: []),
    ):
        yield
