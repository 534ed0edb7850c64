"""Runs a sweep on a cluster with SLURM: array jobs through submitit, each phase after the one before it."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmInfoWatcher

from xeval.errors import ResourceError, UsageError, unknown
from xeval.runtime.endings import first_line
from xeval.runtime.files import read_json, write_json
from xeval.sweep.jobs import CompareJob, Resumable, RunJob
from xeval.sweep.plan import CONTROL, Run, SweepPlan

DEFAULTS: dict[str, Any] = {"time": 24 * 60, "gpus_per_node": 1, "cpus_per_task": 8, "mem": "32GB"}
LISTS = ("setup", "teardown", "srun_args")
OURS = {"dependency", "stderr_to_stdout", "num_gpus", "wckey"}
COMPARING = {"time": 60, "gpus_per_node": None, "gpus_per_task": None, "gres": None}
INSTEAD = {"gpus_per_node": ("gres", "gpus_per_task"), "mem": ("mem_per_gpu", "mem_per_cpu")}
SUBMITTED = "submitted.json"


class Cluster(submitit.SlurmExecutor):
    """A SLURM executor of submitit that can also write its scripts where there is no cluster."""

    @classmethod
    def affinity(cls) -> int:
        """Return at least 1, so that scripts can be made anywhere; :func:`require_slurm` checks for SLURM itself."""
        return max(1, super().affinity())

    def script(self, jobs: int) -> str:
        """Return the text that sbatch would be given for this number of jobs."""
        parameters = self.parameters
        try:
            self.parameters = parameters if jobs == 1 else {**parameters, "map_count": jobs}
            return self._make_submission_file_text(self._submitit_command_str, "")
        finally:
            self.parameters = parameters


@dataclass(frozen=True)
class Phase:
    """A group of jobs that may run at the same time; the next phase starts after them."""

    name: str
    jobs: tuple[Resumable, ...]
    after: frozenset[str] = frozenset()  # ids of queued jobs that it waits for, in addition to the phase before it
    changes: Mapping[str, Any] = field(default_factory=dict)


def options_of(pairs: Iterable[str], table: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of submitit's SLURM executor: defaults, a matrix's table, then ``KEY=VALUE`` pairs.

    Later ones replace earlier ones. Raises :class:`UsageError` for an unknown key or a value that is no time.
    """
    given = {**table, **dict(_pair(text) for text in pairs)}
    defaults = {key: value for key, value in DEFAULTS.items() if not given.keys() & set(INSTEAD.get(key, ()))}
    options, known = {**defaults, **given}, set(Cluster._valid_parameters()) - OURS
    for key in options:
        if key not in known:
            raise unknown("SLURM option", key, known)
    for key in LISTS:
        if isinstance(options.get(key), str):
            options[key] = [options[key]]
    return {**options, "time": minutes(options["time"])}


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--slurm {text!r} is not of the form KEY=VALUE", "write for example --slurm partition=gpu")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def minutes(value: Any) -> int:
    """Parse minutes from a number, ``HH:MM:SS``, ``D-HH:MM:SS`` or ``D-HH``; raise :class:`UsageError` otherwise."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(value))
    if found is None:
        raise UsageError(f"the time {str(value)[:40]!r} is no time limit", "give minutes, HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    hours = days is not None or third is not None  # otherwise sbatch reads MM or MM:SS
    total = (days or 0) * 24 * 60 + (first or 0) * 60 + (second or 0) if hours else first
    if not total:
        raise UsageError(f"the time {str(value)[:40]!r} is less than a minute", "give more")
    return total


def phases(
    out: Path, plan: SweepPlan, todo: Sequence[Run], queued: Mapping[str, str] = MappingProxyType({})
) -> list[Phase]:
    """Return what is to be submitted, in order: the runs ``todo`` of a plan, then the comparison.

    ``queued`` are runs that were submitted before, with the ids of their jobs: phases that need them wait for them too.
    """
    found, after = [], frozenset[str]()
    for name, members in (("tuning", plan.tuning), ("training and scoring", plan.runs)):
        jobs = tuple(RunJob(str(out), run.path) for run in members if run in todo)
        if jobs:
            found.append(Phase(name, jobs, after))
        after |= {queued[run.path].partition("_")[0] for run in members if run.path in queued}
    return [*found, Phase("comparing", (CompareJob(str(out), plan.folders),), after, COMPARING)]


def executor(
    out: Path, plan: SweepPlan, phase: Phase, before: str | None, options: Mapping[str, Any], retries: int
) -> Cluster:
    """Return an executor for a phase that begins once the job ``before`` and those in ``phase.after`` have ended."""
    made = Cluster(out / CONTROL / "logs", max_num_timeout=retries)
    ids = sorted(phase.after | ({before} if before else set()))
    ours = {"dependency": f"afterany:{':'.join(ids)}"} if ids else {}
    parameters = {"job_name": f"xeval-{plan.name}", "stderr_to_stdout": True, **options, **phase.changes, **ours}
    try:
        made.update_parameters(**parameters)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the SLURM options are refused ({first_line(error)})", "correct --slurm") from None
    return made


def scripts(out: Path, plan: SweepPlan, todo: Sequence[Phase], options: Mapping[str, Any], retries: int) -> list[str]:
    """Return the text of every script; the name of a phase stands for the job number that sbatch will give it."""
    texts: list[str] = []
    before = None
    for phase in todo:
        count = len(phase.jobs)
        text = executor(out, plan, phase, before, options, retries).script(count)
        texts.append(f"# {phase.name}: {count} job{'s' if count > 1 else ''}\n{text}")
        before = f"<{phase.name.replace(' ', '-')}>"
    return texts


def require_slurm() -> None:
    """Raise :class:`ResourceError` where SLURM is not installed."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ResourceError(
            "there is no SLURM here: sbatch and srun are not found", "use --executor local or --dry-run"
        )


def submit(
    out: Path, plan: SweepPlan, todo: Sequence[Phase], options: Mapping[str, Any], retries: int
) -> dict[str, str]:
    """Submit all phases to SLURM; return path of the run, or name of the phase → id of its job."""
    submitted: dict[str, str] = {}
    before = None
    for phase in todo:
        for job, handle in zip(phase.jobs, _handed_over(out, plan, phase, before, options, retries), strict=True):
            submitted[job.path if isinstance(job, RunJob) else phase.name] = handle.job_id
            before = handle.job_id.partition("_")[0]
        write_json(out / CONTROL / SUBMITTED, {**job_ids(out), **submitted})
    return submitted


def _handed_over(
    out: Path, plan: SweepPlan, phase: Phase, before: str | None, options: Mapping[str, Any], retries: int
) -> Sequence[submitit.Job[Any]]:
    try:
        return executor(out, plan, phase, before, options, retries).submit_array(list(phase.jobs))
    except (FailedJobError, FailedSubmissionError) as error:
        raise ResourceError(
            f"SLURM refused the jobs of {phase.name} ({' '.join(str(error).split())[:200]})", "correct --slurm"
        ) from None


def job_ids(out: Path) -> dict[str, str]:
    """Return run or phase → the id of the job that was last submitted for it."""
    file = out / CONTROL / SUBMITTED
    return dict(read_json(file)) if file.is_file() else {}


WAITING = ("PENDING", "REQUEUED", "PREEMPTED", "SUSPENDED", "RESIZING")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING")


@dataclass(frozen=True)
class Queued:
    """The job of a run and its state; None where the scheduler cannot be asked or does not know the job."""

    job: str
    state: Literal["waiting", "running", "ended"] | None


def queue(out: Path) -> dict[str, Queued]:
    """Return the state of every submitted run of a sweep, from a single query to the scheduler."""
    jobs, watcher = job_ids(out), SlurmInfoWatcher()
    if jobs and shutil.which("sacct") is not None:
        for job in jobs.values():
            watcher.register_job(job)
        watcher.update()
    return {path: Queued(job, _simple(watcher.get_state(job, mode="cache"))) for path, job in jobs.items()}


def _simple(state: str) -> Literal["waiting", "running", "ended"] | None:
    word = state.partition(" ")[0].rstrip("+")  # states such as "CANCELLED by 1000" and "RUNNING+"
    if word == "UNKNOWN":
        return None
    return "waiting" if word in WAITING else "running" if word in RUNNING else "ended"
