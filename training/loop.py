"""Trains every method in one loop and writes a run directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from xeval.checkpoints.card import RunCard, read_card
from xeval.checkpoints.folder import MANIFEST, run_name
from xeval.checkpoints.own import open_as_known, with_constants
from xeval.data import Dataset
from xeval.engine import pick_device
from xeval.errors import DataError, UsageError, XevalError
from xeval.models.sources import configuration
from xeval.runtime.distributed import ALONE, Processes
from xeval.runtime.files import digest, writable_directory
from xeval.runtime.loggers import logged, numbers
from xeval.runtime.progress import Progress, Silent, told_if_slow
from xeval.runtime.validation import require_seed
from xeval.training.recipe import IDENTITY, Recipe, identity, label
from xeval.training.state import clear_state, differences, load_state, require_same
from xeval.training.trainer import Trainer, make_trainer


def train(
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    data_root: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    limit: int | None = None,
    rehash: bool = False,
    processes: Processes = ALONE,
    name: str | None = None,
    log: Sequence[str] = (),
) -> Path:
    """Train one run and return its directory ``out/name``, by default ``<dataset>-<method>-<recipe>-s<seed>``.

    The recipe is left out of the name where it is called as the data set.
    An interrupted run continues after its last finished epoch, with the same result as if it had never stopped; a
    finished one is left alone. ``limit`` trains on that many images of a stratified sample, ``rehash`` hashes every
    image again, whatever earlier commands have kept of them. The ``processes`` share the
    work of every batch; the first of them writes. ``log`` names loggers of :mod:`xeval.runtime.loggers` that get the
    numbers of every epoch, those of an interrupted run included.

    Raises :class:`UsageError` where the directory belongs to other settings, :class:`DataError` where the data are
    missing or the loss is no longer finite, :class:`ResourceError` where the directory cannot be written,
    :class:`BusyError` while another process trains there.
    """
    reporter: Progress = progress or Silent()
    directory = out / (name or run_name(recipe.dataset, recipe.method, seed, label(recipe)))
    with processes.together():
        require_seed(seed)
        where = pick_device(device)
        if processes.main:
            writable_directory(directory)
    with processes.locked(directory):
        if processes.from_main((directory / MANIFEST).is_file()):
            with processes.together():
                if processes.main:
                    _require_same_run(directory, recipe, seed, limit)
                    clear_state(directory)  # a kill just after the manifest leaves a state
            reporter.say(f"{directory.name} is complete: nothing to do")
            return directory
        with processes.together():
            dataset = opened(recipe, data_root)
            trainer = make_trainer(
                recipe, dataset, directory, seed=seed, limit=limit, device=where, processes=processes
            )
            for note in trainer.train_split.notes:
                reporter.say(f"note: {note}")
            with told_if_slow(reporter, "hashing the images"):
                trainer.train_split.manifest(rehash=rehash)
            trainer.resume(reporter.say)
        _require_one_start(trainer)
        _to_the_end(trainer, reporter, log if processes.main else ())
    return directory


def opened(recipe: Recipe, data_root: Path | None) -> Dataset:
    """Open the data set of a recipe; with ``normalization = "network"`` as the network's configuration says.

    Raises :class:`UsageError` for a network that has none.
    """
    own = configuration(recipe.arch) if recipe.normalization == "network" else None
    if recipe.normalization == "network" and own is None:
        raise UsageError(f"{recipe.arch} has no configuration of its own", "leave out normalization")
    dataset = open_as_known(recipe.dataset, data_root, recipe.image_size, own)
    return dataset if own is None else replace(dataset, info=with_constants(dataset.info, own))


def folder_name(out: Path, recipe: Recipe, seed: int, limit: int | None, overrides: Iterable[str]) -> str:
    """Return the name of the run's directory below ``out``.

    Directories were once called without the recipe: one that was begun with these settings goes on.
    """
    full = run_name(recipe.dataset, recipe.method, seed, label(recipe, overrides))
    short = run_name(recipe.dataset, recipe.method, seed)
    if short == full or (out / full).exists():
        return full
    return short if begun_otherwise(out / short, identity(recipe, seed, limit)) == [] else full


def begun_otherwise(directory: Path, wanted: dict[str, Any]) -> list[str] | None:
    """Return how the run in a directory differs from the identity ``wanted``; None where there is no run to read."""
    with suppress(XevalError, OSError):
        if (directory / MANIFEST).is_file():
            return differences(_identity_of(read_card(directory), wanted), wanted)
        state = load_state(directory, lambda _: None)
        if state is not None and isinstance(state.identity.get("recipe"), dict):
            return differences({key: state.identity.get(key) for key in IDENTITY}, wanted)
    return None


def _identity_of(card: RunCard, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of a finished run, as far as it is stored; of its crops it says nothing."""
    own = {"recipe": card.recipe, "seed": card.seed, "explained_from": card.explained_from}
    return {**own, "limit": card.provenance.get("limit"), "crops": wanted["crops"]}


def _require_one_start(trainer: Trainer) -> None:
    """Raise :class:`DataError` where the ranks do not see the same data and the same saved state."""
    processes = trainer.processes
    starts = processes.exchange([trainer.epoch, digest(trainer.identity)])
    with processes.together():
        if starts != starts[:1] * processes.world:
            raise DataError(
                f"the ranks see other data or another state of {trainer.directory}",
                "put data and --out where all machines see the same files",
            )


def _require_same_run(directory: Path, recipe: Recipe, seed: int, limit: int | None) -> None:
    wanted = identity(recipe, seed, limit)
    require_same(directory, _identity_of(read_card(directory), wanted), wanted)


def _to_the_end(trainer: Trainer, reporter: Progress, log: Sequence[str]) -> None:
    """Train all epochs that are left, and log them and those before."""
    remaining = range(trainer.epoch + 1, trainer.epochs + 1)
    if trainer.epoch:
        reporter.say(f"{trainer.directory.name}: going on after epoch {trainer.epoch} of {trainer.epochs}")
    with logged(log, trainer.directory, "train", reporter) as loggers:
        for row in trainer.rows:
            loggers.put(numbers(row), row["epoch"])
        for epoch in reporter.track(remaining, len(remaining), trainer.directory.name):
            reporter.say(trainer.advance(reporter))
            loggers.put(numbers(trainer.rows[-1]), epoch)
    with trainer.processes.together():
        trainer.finish()
