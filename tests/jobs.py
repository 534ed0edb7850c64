"""Jobs of several processes: as torchrun starts them, or just the processes, without anything that watches them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.commands import ROOT


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def torchrun(ranks: int, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """``torchrun -m xeval ARGUMENTS``; everything that is printed goes to stdout."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "xeval", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(ranks: int, *arguments: str, cwd: Path, check: int = 0) -> str:
    """What a job that ran to its end has printed; asserts the exit code."""
    job = torchrun(ranks, *arguments, cwd=cwd)
    text, _ = job.communicate(timeout=550)
    assert job.returncode == check, text[-3000:]
    return text


def processes(ranks: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """``python ARGUMENTS`` on every rank of a job, in the order of ranks; the caller waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def pid_of(job: subprocess.Popen[str], rank: int, within: float = 240) -> int:
    """The process of one rank of a torchrun job, once it is there."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == job.pid and f"RANK={rank}" in (folder / "environ").read_text().split("\0"):
                    return int(folder.name)
            except (OSError, ValueError):
                continue  # it has just ended
        time.sleep(0.05)
    raise AssertionError(f"no process of rank {rank}")
