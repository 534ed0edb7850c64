"""``xeval sweep`` runs many jobs on this machine or on a cluster, and shows where they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xeval.cli.completion import complete, complete_file
from xeval.cli.options import PATH
from xeval.errors import BusyError, DataError, UsageError

if TYPE_CHECKING:
    from xeval.sweep.plan import Run, SweepPlan
    from xeval.sweep.slurm import Phase


class Shorthand(click.Group):
    """A group whose command ``run`` may be left out: ``xeval sweep digits`` means ``xeval sweep run digits``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` in front of the arguments unless they begin with a command or ask for help."""
        named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if named else ["run", *args])


@click.group(cls=Shorthand)
def sweep() -> None:
    """Train, score and compare many runs, on this machine or on a SLURM cluster.

    `xeval sweep RECIPE …` is short for `xeval sweep run RECIPE …`.

    Example: xeval sweep digits --seeds 0-5 --methods ce,supcon
    """


@sweep.command(name="run")
@click.argument("recipe", shell_complete=complete_file)
@click.option("--seeds", help="such as 0-5 or 0,2,7 [default: the matrix's, else 0-5]")
@click.option(
    "--methods",
    shell_complete=complete,
    help="methods, separated by commas [default: the matrix's, else the recipe's own]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="replace a key of the recipe; several values (KEY=0,50,100) are tried, and chosen by held-out accuracy",
)
@click.option(
    "--executor", type=click.Choice(["local", "slurm"]), default="local", show_default=True, help="where the jobs run"
)
@click.option("--parallel", type=click.IntRange(min=1), help="local: jobs at a time [default: one a GPU, else 1]")
@click.option(
    "--slurm", multiple=True, metavar="KEY=VALUE", help="parameter of sbatch, such as partition=gpu or time=12:00:00"
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="how often a job that was killed (local) or ran out of time (slurm) is started again",
)
@click.option("--data", type=PATH, help="folder of the data [default: $XEVAL_DATA, else the user cache]")
@click.option("--limit", type=int, help="train on a seeded stratified sample of so many images")
@click.option("--device", default="auto", show_default=True, help="torch device")
@click.option("--out", default=Path("runs"), show_default=True, type=PATH, help="folder of the runs")
@click.option("--dry-run", is_flag=True, help="print the runs, and for slurm the scripts; write nothing")
def run(recipe: str, methods: str | None, overrides: Sequence[str], out: Path, **options: Any) -> None:
    """Train and score every method with every seed, then compare; RECIPE is a recipe or a matrix (xeval list matrices).

    Each run is a job that goes on where it stopped: type the same command again. What is complete is skipped.

    Example: xeval sweep run digits --methods ce,supcon,excon --seeds 0-5 --parallel 2
    """
    from xeval.scoring.options import names

    _require_submitit()
    from xeval.sweep.plan import Wish, make_plan
    from xeval.sweep.records import under_their_names

    wish = Wish(
        recipe,
        methods=None if methods is None else names(methods),
        overrides=tuple(overrides),
        **{key: options.pop(key) for key in ("seeds", "data", "limit", "device")},
    )
    plan = under_their_names(out.absolute(), make_plan(wish))
    _start(out.absolute(), plan, wish.device, **options)


def _start(
    out: Path,
    plan: SweepPlan,
    device: str,
    *,
    executor: str,
    slurm: Sequence[str],
    parallel: int | None,
    retries: int,
    dry_run: bool,
) -> None:
    if executor == "slurm":
        if parallel is not None:
            raise UsageError("--parallel is for this machine", "write --slurm array_parallelism=N")
        _on_cluster(out, plan, slurm, retries, dry_run)
    elif slurm:
        raise UsageError("--slurm is for a cluster", "add --executor slurm")
    elif dry_run:
        click.echo(_listing(out, plan))
    else:
        _here(out, plan, device, parallel, retries)


@sweep.command()
@click.argument("out", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="print the rows as JSON instead of the table")
def status(out: Path, as_json: bool) -> None:
    """Where every run of the sweep in OUT stands. Exit code 3 where one failed, 6 while others go on.

    Example: xeval sweep status runs/
    """
    from xeval.sweep import status as standing

    rows = standing.standings(out.absolute())
    shown = [standing.table(rows), *standing.reports(out, rows)]
    click.echo(json.dumps(standing.as_json(rows), indent=1) if as_json else "\n".join(shown))
    standing.require_complete(out, rows)


def _require_submitit() -> None:
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "xeval sweep needs submitit, which is not installed", 'pip install "xeval-explanations[sweep]"'
        ) from None


def _listing(out: Path, plan: SweepPlan) -> str:
    """Return the runs of a plan, one per line, and whether each is complete."""
    lines = [f"{item.path}  {_standing(out, item)}" for item in plan.every]
    return "\n".join([*lines, f"{len(plan.every)} runs in {out}"])


def _standing(out: Path, item: Run) -> str:
    from xeval.sweep.records import is_complete, is_of_another

    if is_of_another(out, item):
        return "will fail: the directory belongs to a run with other settings"
    return "complete" if is_complete(out, item) else "to do"


def _here(out: Path, plan: SweepPlan, device: str, parallel: int | None, retries: int) -> None:
    """Run everything on this machine and compare it."""
    from xeval.runtime.files import writable_directory
    from xeval.runtime.locks import locked
    from xeval.runtime.progress import for_terminal
    from xeval.sweep.local import Workers, visible_gpus
    from xeval.sweep.plan import CONTROL, require_data
    from xeval.sweep.records import register

    require_data(plan)
    gpus = visible_gpus(device)
    writable_directory(out / CONTROL)
    with locked(out / CONTROL):
        _require_idle(out, plan)
        progress = for_terminal()
        left = register(out, plan.every, "local")
        progress.say(f"{len(plan.every) - len(left)} of {len(plan.every)} runs are complete")
        for phase in ([run for run in some if run in left] for some in (plan.tuning, plan.runs)):
            pool = Workers(out, progress, parallel=parallel or len(gpus) or 1, retries=retries, gpus=gpus)
            failed = pool.run(phase)
            if failed:
                first = failed[0]
                raise DataError(
                    f"{len(failed)} of {len(phase)} runs failed, first {first.run.path}: {first.error}",
                    f"see {first.log or 'xeval sweep status'}; the same command again goes on",
                )
    _compare(out, plan)


def _require_idle(out: Path, plan: SweepPlan) -> None:
    """Raise an error where a run of the plan belongs to another sweep, or where another process works on it."""
    from xeval.sweep.records import alive, read_all, require_same

    require_same(out, plan.every)
    paths = {item.path for item in plan.every}
    held = [one for one in read_all(out) if one.run.path in paths and one.state == "running" and alive(out, one)]
    if held:
        first = f"{held[0].run.path} (process {held[0].pid} on {held[0].host})"
        raise BusyError(f"{len(held)} runs of {out} are running, first {first}", "wait for them to end")


def _compare(out: Path, plan: SweepPlan) -> None:
    from xeval.sweep.work import compare_folders

    for page in compare_folders(out, plan.folders):
        click.echo(f"report: {page}")


def _on_cluster(out: Path, plan: SweepPlan, slurm: Sequence[str], retries: int, dry_run: bool) -> None:
    """Submit what is neither complete nor in the queue, and the comparison after it; or print the scripts."""
    from xeval.sweep.records import is_complete, require_same
    from xeval.sweep.slurm import options_of, phases, scripts

    require_same(out, plan.every)
    options, queued = options_of(slurm, plan.slurm), _queued(out, plan)
    todo = [item for item in plan.every if item.path not in queued and not is_complete(out, item)]
    waiting = phases(out, plan, todo, queued)
    if dry_run:
        click.echo("\n".join([*scripts(out, plan, waiting, options, retries), _listing(out, plan)]))
    elif queued and not todo:
        click.echo(f"nothing to submit: {len(queued)} runs are in the queue")
    else:
        _submit(out, plan, todo, waiting, options, retries)


def _submit(
    out: Path, plan: SweepPlan, todo: Sequence[Run], waiting: Sequence[Phase], options: Mapping[str, Any], retries: int
) -> None:
    from xeval.runtime.files import writable_directory
    from xeval.sweep.plan import CONTROL, require_data
    from xeval.sweep.records import register
    from xeval.sweep.slurm import require_slurm, submit

    require_slurm()
    require_data(plan)
    writable_directory(out / CONTROL)
    register(out, todo, "slurm")
    for name, job in submit(out, plan, waiting, options, retries).items():
        click.echo(f"{name}: job {job}")
    click.echo(f"look at them with: xeval sweep status {out}")


def _queued(out: Path, plan: SweepPlan) -> dict[str, str]:
    """Return the runs of a plan that a scheduler already has, with the ids of their jobs."""
    from xeval.sweep.records import read, record_file
    from xeval.sweep.status import in_queue

    return in_queue(out, [read(out, item.path) for item in plan.every if record_file(out, item.path).is_file()])
