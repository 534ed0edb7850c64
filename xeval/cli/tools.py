"""Defines the commands verify, data, list and doctor, which look at things and check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from xeval.cli.completion import complete
from xeval.cli.options import ARCH, NORMALIZATION, PATH, PLUGIN


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=PATH)
@click.option("--n", default=64, show_default=True, type=click.IntRange(min=1), help="images to compare on")
@click.option("--dataset", shell_complete=complete, help="data set of a file that does not describe itself")
@click.option("--data", type=PATH, help="folder of the data")
@NORMALIZATION
@ARCH
@click.option("--layer", help="explained layer [default: the last one whose positions the score reads]")
@click.option("--device", default="auto", show_default=True, help="torch device")
@click.option("--json", "as_json", is_flag=True, help="print the rows as JSON instead of the table")
def verify(checkpoint: Path, n: int, as_json: bool, **options: Any) -> None:
    """Compare xeval with Quantus, captum, pytorch-grad-cam and torch-cam on your own checkpoint.

    Both sides get the same images, maps and random draws. Exit code 3 where a difference exceeds its tolerance.

    Example: xeval verify ckpt.pt --n 64
    """
    from xeval.runtime.progress import for_terminal
    from xeval.verify import run as parity

    rows = parity.verify(checkpoint, for_terminal(), n=n, **options)
    shown = [json.dumps(parity.as_json(rows), indent=1)] if as_json else [*parity.table(rows), "", parity.versions()]
    click.echo("\n".join(shown))
    parity.require_agreement(rows)


@click.group(name="data")
def data_group() -> None:
    """Data sets: list them, fetch the official archives, check what is there."""


_ROOT = click.option("--data", "root", type=PATH, help="folder of the data")


@data_group.command(name="list")
@_ROOT
def data_list(root: Path | None) -> None:
    """Every data set and where it was found.

    Example: xeval data list
    """
    from xeval.data.manage import listing

    for row in listing(root):
        click.echo(f"{row['name']:<14} {row['description']} [{row['state']}]")


@data_group.command(name="get")
@click.argument("dataset", metavar="NAME", shell_complete=complete)
@_ROOT
def data_get(dataset: str, root: Path | None) -> None:
    """Download an official archive and verify its checksum before anything is unpacked.

    Example: xeval data get cifar100
    """
    from xeval.data.manage import get

    click.echo(str(get(dataset, root)))


@data_group.command(name="check")
@click.argument("dataset", metavar="NAME", shell_complete=complete)
@_ROOT
def data_check(dataset: str, root: Path | None) -> None:
    """Read every image of a data set and print what was found. Exit code 3 where an image cannot be read.

    Example: xeval data check tiny-imagenet
    """
    from xeval.data.manage import check, require_sound

    report = check(dataset, root)
    click.echo(json.dumps(report, indent=1, default=str))
    require_sound(report)


KINDS = ("explainers", "metrics", "quantus", "protocols", "methods", "recipes", "matrices", "models", "datasets")


@click.command(name="list")
@click.argument("kind", type=click.Choice(KINDS))
@PLUGIN
def list_things(kind: str) -> None:
    """What can be named on the command line.

    Example: xeval list metrics
    """
    if kind in ("methods", "recipes"):
        from xeval.training.catalogue import lines as catalogue_of

        lines = catalogue_of(kind)
    elif kind == "matrices":
        from xeval.sweep.matrix import lines_about

        lines = lines_about()
    else:
        from xeval.cli.catalogue import catalogue

        lines = catalogue(kind)
    click.echo("\n".join(lines))


@click.command()
@click.option("--data", "root", type=PATH, help="folder of the data")
@click.option("--json", "as_json", is_flag=True, help="print the findings as JSON instead of lines")
def doctor(root: Path | None, as_json: bool) -> None:
    """Check the installation: versions, devices, disk, OpenCV, data sets.

    Example: xeval doctor
    """
    from xeval.cli import doctor as ward

    findings = ward.examine(root)
    click.echo(json.dumps(ward.as_json(findings), indent=1) if as_json else "\n".join(ward.lines(findings)))
    ward.require_sound(findings)
