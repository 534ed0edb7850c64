"""The bounded pool, with jobs that are only pretended: how many at a time, on which GPU, how often."""

import itertools
from dataclasses import dataclass, field

import pytest

from xeval.runtime.progress import Silent
from xeval.sweep import local
from xeval.sweep.jobs import RunJob
from xeval.sweep.plan import Wish, make_plan
from xeval.sweep.records import change, read, register

RUNS = make_plan(Wish("digits", seeds="0-6", methods=("ce",))).runs


@dataclass
class Handle:
    """Ends after some looks at it; then its record says what the script says, or nothing where it was killed."""

    out: object
    job: RunJob
    outcome: str | None
    looks: int
    job_id: str = "1"

    def done(self) -> bool:
        self.looks -= 1
        if self.looks == 0 and self.outcome is not None:
            change(
                self.out, self.job.path, state=self.outcome, error="as planned" if self.outcome == "failed" else None
            )
        return self.looks <= 0


@dataclass
class Executor:
    """Hands out handles and remembers what ran at the same time."""

    out: object
    outcomes: dict = field(default_factory=dict)
    handles: list = field(default_factory=list)
    most: int = 0

    def submit(self, job: RunJob) -> Handle:
        outcome = next(self.outcomes[job.path]) if job.path in self.outcomes else "complete"
        self.handles.append(Handle(self.out, job, outcome, looks=1 + len(self.handles) % 3))
        running = [handle for handle in self.handles if handle.looks > 0]
        self.most = max(self.most, len(running))
        assert len({handle.job.gpu for handle in running}) == len(running) or running[0].job.gpu is None
        return self.handles[-1]


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """``pool(outcomes, **options)`` → the pool and its pretended executor."""
    monkeypatch.setattr(local, "POLL", 0)
    register(tmp_path, RUNS, "local")

    def make(outcomes=(), *, parallel=3, retries=2, gpus=()):
        made = local.Workers(tmp_path, Silent(), parallel=parallel, retries=retries, gpus=gpus)
        made.executor = Executor(tmp_path, dict(outcomes))
        return made, made.executor

    return make


@pytest.mark.parametrize("parallel", [1, 2, 3, 20])
def test_never_more_than_so_many_at_a_time(pool, parallel):
    made, executor = pool(parallel=parallel)
    assert made.run(RUNS) == []
    assert sorted(handle.job.path for handle in executor.handles) == sorted(run.path for run in RUNS)
    assert executor.most == min(parallel, len(RUNS))


def test_jobs_that_run_at_the_same_time_have_gpus_of_their_own(pool):
    made, executor = pool(gpus=["4", "7", "GPU-ab"])
    made.run(RUNS)
    assert {handle.job.gpu for handle in executor.handles} == {"4", "7", "GPU-ab"}
    assert {handle.job.threads for handle in executor.handles} == {None}


def test_without_gpus_the_cores_are_shared(pool, monkeypatch):
    monkeypatch.setattr(local.os, "cpu_count", lambda: 8)
    made, executor = pool(parallel=3)
    made.run(RUNS[:1])
    assert [(handle.job.gpu, handle.job.threads) for handle in executor.handles] == [(None, 2)]


def test_a_killed_job_is_started_again_so_often_and_no_more(pool, tmp_path):
    mortal, lucky = RUNS[0].path, RUNS[1].path
    made, executor = pool({mortal: itertools.repeat(None), lucky: iter([None, None, "complete"])}, retries=2)
    (failed,) = made.run(RUNS)
    starts = [handle.job.path for handle in executor.handles]
    assert (starts.count(mortal), starts.count(lucky)) == (3, 3)
    assert (failed.run.path, failed.error) == (mortal, "ended without a word, 3 times")
    assert read(tmp_path, lucky).state == "complete"


def test_an_error_is_final_and_the_others_go_on(pool):
    made, executor = pool({RUNS[2].path: iter(["failed"])})
    (failed,) = made.run(RUNS)
    assert (failed.run.path, failed.error) == (RUNS[2].path, "as planned")
    assert len(executor.handles) == len(RUNS)
