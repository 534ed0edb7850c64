"""Runs jobs on this machine: a few at a time, one per GPU where there are any. Jobs that were killed start again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import submitit

from xeval.runtime.progress import Progress
from xeval.runtime.signals import terminate
from xeval.sweep.jobs import RunJob
from xeval.sweep.plan import CONTROL, Run
from xeval.sweep.records import Record, change, read

FOREVER = 60 * 24 * 365  # minutes
POLL = 0.2  # seconds
PATIENCE = 60.0  # seconds that jobs are given to stop


class Workers:
    """Runs jobs in ``parallel`` slots; slot k uses GPU k of ``gpus``, counted modulo their number."""

    def __init__(self, out: Path, progress: Progress, *, parallel: int, retries: int, gpus: Sequence[str] = ()) -> None:
        self.out, self.progress, self.retries, self.gpus = out, progress, retries, gpus
        self.threads = None if gpus else max(1, (os.cpu_count() or 1) // parallel)
        self.starts: Counter[str] = Counter()
        self.free = deque(range(parallel))
        self.running: dict[str, tuple[int, submitit.Job[str]]] = {}
        self.executor = submitit.LocalExecutor(out / CONTROL / "logs")
        self.executor.update_parameters(timeout_min=FOREVER, stderr_to_stdout=True)

    def run(self, runs: Sequence[Run]) -> list[Record]:
        """Do all runs and return the records of those that failed."""
        waiting, failed, total, ended = deque(run.path for run in runs), [], len(runs), 0
        try:
            while waiting or self.running:
                while waiting and self.free:
                    self._start(waiting.popleft())
                time.sleep(POLL)
                for path in self._ended():
                    record = self._judged(path)
                    if record.state == "waiting":
                        waiting.appendleft(path)
                        continue
                    ended += 1
                    failed += [record] if record.state == "failed" else []
                    self.progress.say(f"[{ended}/{total}] {path}: {record.error or 'complete'}")
        except BaseException:
            self._stop()
            raise
        return failed

    def _start(self, path: str) -> None:
        slot = self.free.popleft()
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        self.starts[path] += 1
        job = RunJob(str(self.out), path, gpu=gpu, threads=self.threads, local=True)
        with _uninterruptible_children():
            self.running[path] = (slot, self.executor.submit(job))

    def _ended(self) -> list[str]:
        """Return the jobs that have ended since the last call, and free their slots."""
        paths = [path for path, (_, job) in self.running.items() if job.done()]
        for path in paths:
            self.free.append(self.running.pop(path)[0])
        return paths

    def _judged(self, path: str) -> Record:
        """Return the record of a job that ended: complete, failed, or waiting if it was killed and may try again."""
        record, starts = read(self.out, path), self.starts[path]
        if record.state in ("complete", "failed"):
            return record
        if starts > self.retries:
            return change(self.out, path, state="failed", error=f"ended without a word, {starts} times")
        self.progress.say(f"{path}: killed, starting it again ({starts} of {self.retries})")
        return change(self.out, path, state="waiting")

    def _stop(self) -> None:
        """Ask the jobs to end and wait for up to ``PATIENCE`` seconds; the next sweep continues them."""
        for _, job in self.running.values():
            terminate(int(job.job_id))  # submitit's process passes it on to the job
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not all(job.done() for _, job in self.running.values()):
            time.sleep(POLL)


@contextmanager
def _uninterruptible_children() -> Iterator[None]:
    """Let processes that are started inside ignore Ctrl-C.

    Ctrl-C reaches every process of a terminal, but here the parent decides what to do with its children.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def visible_gpus(device: str) -> list[str]:
    """Return the GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not device.startswith(("auto", "cuda")) or ":" in device or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
