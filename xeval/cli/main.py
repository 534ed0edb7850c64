"""Defines the commands: each parses, calls and prints. Heavy packages are imported by the commands that need them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import click

from xeval._version import __version__
from xeval.checkpoints.folder import Weights
from xeval.cli import sweep as cli_sweep
from xeval.cli import tools as cli_tools
from xeval.cli.completion import VARIABLE, complete, complete_file, script
from xeval.cli.leave import JSON_ERRORS, leave, split_flag
from xeval.cli.options import ARCH, LOG, MAPS, NORMALIZATION, PATH, PLUGIN, fields_of, options_of, size_option, typed
from xeval.errors import UsageError
from xeval.registry import PluginWarning
from xeval.runtime.distributed import ALONE, Processes, end, joined, require_one
from xeval.runtime.signals import graceful, terminable
from xeval.runtime.streams import lasting_streams

STYLE = "xeval.reports.style:Style"


def main() -> NoReturn:
    """Run a command; every error ends in one line on stderr and the exit code of its kind."""
    if VARIABLE in os.environ:
        cli.main(prog_name="xeval")
    with lasting_streams():
        _run(*split_flag(sys.argv[1:]))


def _run(arguments: list[str], as_json: bool) -> NoReturn:
    try:
        # click's own main would hide closed pipes
        with terminable(), _plain_warnings(), cli.make_context("xeval", arguments) as context:
            cli.invoke(context)
            sys.stdout.flush()
    except BaseException as error:
        leave(error, as_json=as_json)
    end(0)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print a warning of a plug-in as a line for people, and every other as Python does."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, PluginWarning):
                sys.stderr.write(f"xeval: warning: {message}\n")
            else:
                before(message, category, *where, **more)

        warnings.showwarning = show
        yield


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="xeval")
@click.option(JSON_ERRORS, is_flag=True, expose_value=False, help="write an error as one JSON object")
@click.pass_context
def cli(context: click.Context) -> None:
    """How good are a vision model's explanations, and how sure may you be?

    \b
    xeval demo                          the whole chain on real digits, a few minutes
    xeval train digits --method excon   train a checkpoint from a recipe
    xeval score runs/* --limit 500      score checkpoints
    xeval compare runs/                 tables, figures and one HTML page
    xeval sweep digits --seeds 0-5      all of this for many runs, here or on a cluster
    """
    require_one(context.invoked_subcommand)


@cli.command()
@click.argument("recipe", shell_complete=complete_file)
@click.option(
    "--method",
    help="ce, triplet, simclr, supcon-ori, supcon, excon or exconb [default: the recipe's]",
    shell_complete=complete,
)
@click.option("--seed", default=0, show_default=True, help="seed of everything random")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="replace a key of the recipe, such as epochs=5"
)
@click.option("--data", type=PATH, help="folder of the data [default: $XEVAL_DATA, else the user cache]")
@click.option("--out", default=Path("runs"), show_default=True, type=PATH, help="folder of the runs")
@click.option("--limit", type=int, help="train on a seeded stratified sample of so many images")
@click.option("--export", type=PATH, help="also write the best weights as one file")
@click.option("--rehash", is_flag=True, help="hash every image again, whatever earlier commands have kept of them")
@click.option("--device", default="auto", show_default=True, help="torch device")
@LOG
@click.option(
    "--allow-unexplained",
    is_flag=True,
    help="train excon and exconb even where explanations would begin after the last epoch; the run and reports say so",
)
def train(
    recipe: str,
    out: Path,
    export: Path | None,
    device: str,
    overrides: tuple[str, ...],
    allow_unexplained: bool,
    **options: Any,
) -> None:
    """Train a checkpoint from RECIPE, a name (xeval list recipes) or a TOML file.

    An interrupted run goes on where its last epoch ended: type the same command again.

    Example: xeval train digits --method excon --seed 0 --export ckpt.pt
    """
    from xeval.runtime.files import require_target
    from xeval.runtime.progress import for_terminal

    if allow_unexplained:
        overrides = (*overrides, "excon.allow_unexplained=true")
    with joined(device) as processes:
        with processes.together():
            if export is not None and processes.main:
                require_target(export)
        progress = processes.progress(for_terminal())
        run = train_recipe(
            recipe,
            overrides=overrides,
            out=out,
            device=processes.device,
            progress=progress,
            processes=processes,
            **options,
        )
        with processes.together():
            if processes.main:
                _show_run(run, export)


def _show_run(run: Path, export: Path | None) -> None:
    """Print where a run is, and where its weights were exported to."""
    if export is not None:
        from xeval.checkpoints import load as checkpoints

        checkpoints.export(run, export)
        click.echo(str(export))
    click.echo(str(run))


def train_recipe(
    recipe: str,
    *,
    method: str | None,
    seed: int,
    overrides: Sequence[str],
    out: Path,
    progress: Any,
    data: Path | None = None,
    limit: int | None = None,
    rehash: bool = False,
    device: str = "auto",
    processes: Processes = ALONE,
    log: Sequence[str] = (),
) -> Path:
    """Train one run of a recipe below ``out`` and return its directory."""
    from xeval.runtime.files import writable_directory
    from xeval.training.loop import folder_name
    from xeval.training.loop import train as run_training
    from xeval.training.recipe import load_recipe

    with processes.together():
        wanted = load_recipe(recipe, method, overrides)
        name = folder_name(out, wanted, seed, limit, overrides)
        if processes.main:
            writable_directory(out)
    return run_training(
        wanted,
        seed=seed,
        out=out,
        data_root=data,
        limit=limit,
        rehash=rehash,
        device=device,
        progress=progress,
        processes=processes,
        name=name,
        log=log,
    )


def train_digits(method: str, seed: int, out: Path, overrides: Sequence[str], progress: Any) -> Path:
    """Train one run of the demo. The function stands at the top level, so that other processes can import it."""
    return train_recipe("digits", method=method, seed=seed, overrides=overrides, out=out, progress=progress)


@cli.command()
@click.argument("encoder", type=PATH)
@click.option(
    "--dataset", required=True, shell_complete=complete, help="data set whose training split the head is fitted on"
)
@click.option("--data", "data_root", type=PATH, help="folder of the data")
@click.option("--head", type=click.Choice(["linear", "centroid", "knn"]), default="linear", show_default=True)
@NORMALIZATION
@click.option("--normalize-features", is_flag=True, help="the head sees features of unit length")
@click.option("--weight-decay", default=1e-4, show_default=True, help="of the linear head")
@ARCH
@size_option("image_size")
@click.option("--method", help="name in the tables [default: the file's]")
@click.option("--seed", default=0, show_default=True, help="seed of the held-out images")
@click.option("--rehash", is_flag=True, help="hash every image again, whatever earlier commands have kept of them")
@click.option("--out", default=Path("runs"), show_default=True, type=PATH, help="folder of the runs")
@click.option("--device", default="auto", show_default=True, help="torch device")
def probe(encoder: Path, dataset: str, **options: Any) -> None:
    """Fit a head on an encoder without one and write a run that can be scored.

    Example: xeval probe encoder.safetensors --dataset cifar100 --method moco
    """
    from xeval.runtime.progress import for_terminal
    from xeval.training.encoder import probe_encoder

    click.echo(str(probe_encoder(encoder, dataset, progress=for_terminal(), **options)))


@cli.command(name="import")
@click.argument("foreign", type=PATH)
@click.option("--out", required=True, type=PATH, help="run directory to write")
@click.option(
    "--dataset",
    required=True,
    shell_complete=complete,
    help="data set of the classifier: its class order, and published normalisation",
)
@click.option("--data", type=PATH, help="folder of the data")
@NORMALIZATION
@click.option("--classifier", type=PATH, help="file with the linear head, where it is kept apart")
@ARCH
@size_option("size")
@click.option("--key", help="which network of the file, by its keys joined with dots [default: the only one]")
@click.option("--ema", is_flag=True, help="take the averaged weights of a file that holds both")
@click.option("--name", help="name of the run [default: that of its folder]")
@click.option("--method", help="name in the tables [default: the file's]")
@click.option("--seed", type=int, help="seed of the training [default: the file's, if it says one]")
def import_(foreign: Path, out: Path, dataset: str, **options: Any) -> None:
    """Turn a checkpoint of another project into a run that can be scored: your own, Lightning's, timm's, …

    The network is found whatever its key is called. Nothing of the other project is imported or run: objects in the
    file are ignored, tensors kept bit for bit.

    Example: xeval import excon.pth --out runs/excon-s0 --dataset cifar100
    """
    from xeval.checkpoints.convert import import_checkpoint
    from xeval.runtime.progress import for_terminal

    click.echo(str(import_checkpoint(foreign, out, dataset, for_terminal(), **options)))


@cli.command()
@click.argument("checkpoints", metavar="CKPT...", nargs=-1, required=True, type=PATH)
@PLUGIN
@MAPS
@options_of("xeval.scoring.options:ScoreOptions")
@LOG
@click.option("--markdown", is_flag=True, help="print a Markdown table with a spread")
@click.option(
    "--spread",
    type=click.Choice(["interval", "std"]),
    default="interval",
    show_default=True,
    help="what --markdown puts behind ±: a 95 % interval over images, or their standard deviation",
)
@click.option("--json", "as_json", is_flag=True, help="print scores.json instead of the table")
def score(
    checkpoints: Sequence[Path],
    maps: Sequence[tuple[str, Path]],
    log: Sequence[str],
    as_json: bool,
    markdown: bool,
    spread: str,
    **given: Any,
) -> None:
    """Score checkpoints: run directories, exported files or plain state dicts.

    What is already scored is not scored again. Scores go beside each checkpoint, or to --out.

    Example: xeval score ckpt.pt --dataset cifar100 --thresholds 0.15,0.3,0.45
    """
    from xeval.perturb.thresholds import parse_thresholds
    from xeval.scoring.options import names, validated

    if given["thresholds"] is not None:
        given["thresholds"] = parse_thresholds(given["thresholds"])
    for key in ("explainers", "metrics"):
        if given[key] is not None:
            given[key] = names(given[key])
    options = validated(**given)
    if options.out is not None and len(checkpoints) > 1:
        raise UsageError("--out holds the scores of one checkpoint", "leave it out: scores go beside each checkpoint")
    if options.name is not None and len(checkpoints) > 1:
        raise UsageError("--name is the name of one checkpoint", "leave it out: each has its own")
    if maps and len(checkpoints) > 1:
        raise UsageError("--maps are maps of one checkpoint", "score the checkpoints one by one")
    if options.training_seed is not None and len(checkpoints) > 1:
        raise UsageError("--training-seed is that of one checkpoint", "score the checkpoints one by one")
    from xeval.runtime.loggers import logged
    from xeval.runtime.progress import for_terminal
    from xeval.scoring.lent import beside, explainers_lent
    from xeval.scoring.precomputed import PrecomputedMaps
    from xeval.scoring.run import SCORES, run
    from xeval.scoring.summary import headline

    made, amiss = [PrecomputedMaps(name, path) for name, path in maps], []
    with ExitStack() as lent, joined(options.device) as processes, graceful(tell=processes.main) as stop:
        with processes.together():
            rows = lent.enter_context(explainers_lent(beside(options.explainers, made, options.protocol)))
        options = options.model_copy(update={"device": processes.device, "explainers": rows})
        for checkpoint in checkpoints:
            scored = run(checkpoint, options, processes.progress(for_terminal()), stop, processes)
            amiss += [scored.shortfall] if scored.shortfall else []
            if processes.main:
                text = (scored.folder / SCORES).read_text(encoding="utf-8")
                summary = json.loads(text)
                shown = text.rstrip() if as_json else _score_table(summary, scored.folder, markdown and spread)
                click.echo(shown)
                with logged(log, scored.folder, "score", for_terminal()) as loggers:
                    loggers.put(headline(summary))
        with processes.together():
            if amiss:
                raise amiss[0]


def _score_table(summary: dict[str, Any], out: Path, spread: str | Literal[False]) -> str:
    from xeval.cli.tables import markdown_table, score_table

    return markdown_table(summary, spread) if spread else f"{score_table(summary)}\n\nscores in {out}"


@cli.command()
@click.argument("runs", metavar="RUNS...", nargs=-1, required=True, type=PATH)
@click.option(
    "--reference",
    help="method, or with --rows explainers the explainer, that the others are compared with [default: supcon, else "
    "the first; the first explainer]",
)
@click.option("--primary", help="columns of the verdict [default: the protocol's]")
@click.option("--rows", type=click.Choice(["methods", "explainers"]), default="methods", show_default=True)
@click.option(
    "--gallery",
    type=click.Choice(["random", "median", "best", "worst", "failures", "none"]),
    help="which images the gallery shows; none for data whose pictures must not be passed on [default: random, by the "
    "protocol's seed]",
)
@click.option(
    "--gallery-ids", help="ids of the images to show, separated by commas; the page says they are hand-picked"
)
@click.option("--against", type=PATH, help="an earlier results.json: mark what has changed")
@options_of(STYLE)
@click.option(
    "--out",
    type=PATH,
    help="folder of the report [default: report in RUNS, the first of several]",
)
@click.option("--json", "as_json", is_flag=True, help="print results.json instead of the table")
def compare(runs: Sequence[Path], out: Path | None, as_json: bool, **options: Any) -> None:
    """Compare all scored runs below the folders RUNS: tables (tex, md, csv), figures and one HTML page.

    Links are followed. What was left out, and every folder that could not be read, is named. How tables are printed
    may also stand below [table] in comparison.toml.

    Example: xeval compare runs/ --reference supcon
    """
    style = typed(STYLE)
    own = {key: value for key, value in options.items() if key not in fields_of(STYLE)}
    _compare(runs, out or runs[0] / "report", as_json, style=style, **own)


@cli.command(name="table")
@click.argument("runs", metavar="RUNS...", nargs=-1, required=True, type=PATH)
@click.option("--to", type=click.Choice(["tex", "md", "csv"]), default="tex", show_default=True, help="format")
@click.option("--reference", help="method that the others are compared with [default: supcon, else the first]")
@click.option("--primary", help="columns that are tested as declared [default: the protocol's]")
@options_of(STYLE)
def table_(runs: Sequence[Path], to: str, reference: str | None, primary: str | None, **_: Any) -> None:
    """Write one table over all scored runs below the folders RUNS to the terminal; no file is written.

    Batch sizes and data sets, which are never compared with each other, are blocks of rows. Marks and bold mean what
    they mean in xeval compare.

    Example: xeval table runs/ --columns model.accuracy,drop.mag@0.45 --percent --to tex
    """
    from xeval.reports.single import table
    from xeval.scoring.options import names

    columns = names(primary) if primary is not None else None
    click.echo(table(runs, to, reference=reference, primary=columns, style=typed(STYLE)), nl=False)


def _compare(runs: Sequence[Path], out: Path, as_json: bool = False, **options: Any) -> None:
    from xeval.scoring.options import names

    lists = {key: names(options[key]) for key in ("primary", "gallery_ids") if options.get(key) is not None}
    from xeval.reports import compare as reports

    found = reports.compare(runs, out, **{**options, **lists})
    if as_json:
        click.echo((out / "results.json").read_text(encoding="utf-8"))
        return
    click.echo("\n".join([found.terminal_table, found.verdict, "", *found.left_out, f"report: {out / 'report.html'}"]))


@cli.command()
@click.argument("checkpoint", metavar="CKPT", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    default=Path("strip.png"),
    show_default=True,
    type=PATH,
    help="file (.png, .svg, .pdf), or a folder for one file a picture",
)
@click.option(
    "--explainer", shell_complete=complete, help="attribution method (xeval list explainers)  [default: grad-cam]"
)
@click.option(
    "--explainers",
    shell_complete=complete,
    help="several explainers or controls, separated by commas: their maps side by side in place of the masked picture",
)
@PLUGIN
@click.option("--layer", help="explained layer [default: the last one whose positions the score reads]")
@click.option("--keep", default=0.45, show_default=True, help="fraction of pixels that the mask keeps")
@click.option("--dataset", shell_complete=complete, help="data set of a file that does not describe itself")
@click.option("--data", type=PATH, help="folder of the data")
@NORMALIZATION
@ARCH
@click.option(
    "--weights",
    type=click.Choice(get_args(Weights)),
    default="best",
    show_default=True,
    help="which weights of a run directory",
)
@click.option("--device", default="auto", show_default=True, help="torch device")
def explain(checkpoint: Path, images: Sequence[Path], out: Path, **options: Any) -> None:
    """Explain your own pictures: map, masked picture, and the softmax of the predicted class before and after.

    Pictures are resized and cut to the size of the training images.

    Example: xeval explain runs/digits-excon-s0 three.png --out strip.pdf
    """
    from xeval.reports import explain as strips
    from xeval.scoring.options import names

    several = options.pop("explainers")
    found = strips.explain(checkpoint, images, out, explainers=several and names(several), **options)
    click.echo("\n".join([*found.lines, *map(str, found.files)]))


@cli.command()
@click.option("--quick", is_flag=True, help="one seed, six epochs, 100 images: under 90 s")
@click.option("--out", default=Path("xeval-demo"), show_default=True, type=PATH, help="folder")
@click.option("--open", "show", is_flag=True, help="open the report in the browser")
def demo(quick: bool, out: Path, show: bool) -> None:
    """Train ce, supcon, excon and exconb on real digits, score, compare and write a report.

    Example: xeval demo --quick
    """
    from xeval.cli.demo import train_and_score
    from xeval.runtime.progress import for_terminal

    runs = train_and_score(out, train_digits, for_terminal(), quick=quick)
    _compare([runs], out)
    if show:
        click.launch(str(out / "report.html"))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell has to run so that it completes commands, options, and the names that they take.

    For bash, `eval "$(xeval completion bash)"` belongs into ~/.bashrc; for zsh, `eval "$(xeval completion zsh)"` into
    ~/.zshrc, after compinit; for fish, `xeval completion fish | source` into ~/.config/fish/config.fish.

    Example: xeval completion bash
    """
    click.echo(script(cli, shell))


for _command in (cli_sweep.sweep, cli_tools.verify, cli_tools.data_group, cli_tools.list_things, cli_tools.doctor):
    cli.add_command(_command)
