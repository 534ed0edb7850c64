"""Run the command line: in a child process as a user does, or in this one where only the message matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xeval.cli import main as cli

ROOT = Path(__file__).resolve().parent.parent


def xeval(*arguments: str, cwd: Path, check: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """``xeval ARGUMENTS`` in a child process in ``cwd``; asserts the exit code and that no traceback is shown."""
    run = subprocess.run(
        [sys.executable, "-m", "xeval", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == check, run.stderr[-3000:]
    assert "Traceback" not in run.stderr
    return run


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same in this process: exit code, stdout, the last line of stderr."""
    old = sys.argv
    sys.argv = ["xeval", *arguments]
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = old
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return int(left.value.code or 0), shown.out, (shown.err.strip().splitlines() or [""])[-1]
