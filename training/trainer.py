"""Carries out a run: epochs, the choice of the best one, saving, resuming, and the manifest at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xeval.checkpoints.card import RunCard, Selection, write_card
from xeval.checkpoints.weightfiles import read_tensors, write_tensors
from xeval.data import Dataset, Split, holdout, stratified
from xeval.errors import CheckpointError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import find_layer
from xeval.models.layers import EXCON_LAYER
from xeval.runtime.distributed import ALONE, Processes
from xeval.runtime.files import atomic_write
from xeval.runtime.progress import Progress
from xeval.runtime.provenance import provenance
from xeval.training import probe
from xeval.training.batches import Pool, make_pool
from xeval.training.epochs import encoder_epoch, evaluate, head_epoch, require_finite, stored_features
from xeval.training.history import COLUMNS, EpochRow, history, merit, summary
from xeval.training.learner import Learner, make_learner, model_spec
from xeval.training.methods import METHODS, Method, head_epochs
from xeval.training.precision import exact, require_precision
from xeval.training.recipe import Recipe, explained_from, identity, recipe_hash
from xeval.training.schedule import make_optimizer
from xeval.training.state import (
    State,
    clear_state,
    load_state,
    pack_optimizer,
    require_same,
    save_state,
    saving,
    unpack_optimizer,
)


@dataclass
class Trainer:
    """A run in progress, built by :func:`make_trainer`: what is trained, on which images, how far, and the best so far.

    ``fit`` are the images that are trained on, ``held`` those that judge the epochs (None where there are none).
    """

    recipe: Recipe
    dataset: Dataset
    directory: Path
    seed: int
    limit: int | None
    processes: Processes
    method: Method
    learner: Learner
    train_split: Split
    fit: Pool
    held: Pool | None
    encoder_optimizer: torch.optim.Optimizer
    head_optimizer: torch.optim.Optimizer
    started: str
    epoch: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def head_epochs(self) -> int:
        """Number of epochs of the head after those of the encoder."""
        return head_epochs(self.recipe)

    @property
    def epochs(self) -> int:
        """Number of all epochs of the run."""
        return self.recipe.epochs + self.head_epochs

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that must be equal for a run to be continued."""
        return {**identity(self.recipe, self.seed, self.limit), "train_manifest": self.train_split.manifest()}

    def advance(self, progress: Progress) -> str:
        """Train the next epoch, judge it and save the state; return the line about it."""
        started, epoch = time.perf_counter(), self.epoch + 1
        row: EpochRow = dict.fromkeys(COLUMNS)
        row["epoch"] = epoch
        with exact(self.recipe.precision):
            row.update(self._encoder(epoch, progress) if epoch <= self.recipe.epochs else self._head_after(epoch))
            if self.held is not None and (self.method.head != "after" or epoch > self.recipe.epochs):
                row["val_accuracy"], row["val_loss"] = evaluate(self.learner, self.held)
        row["seconds"] = round(time.perf_counter() - started, 3)
        with self.processes.together():
            require_finite(self.learner, epoch)
            self.epoch = epoch
            self.rows.append(row)
            self._keep_best(row)
            self._save()
        return summary(row, self.epochs)

    def _encoder(self, epoch: int, progress: Progress) -> EpochRow:
        tally = encoder_epoch(
            self.learner, self.method, self.fit, self.encoder_optimizer, epoch=epoch, progress=progress
        )
        row: EpochRow = {
            "loss": tally.mean(tally.losses),
            "lr": tally.rates[-1],
            "masked_share": tally.mean(tally.accepted),
            "collapse_gap": tally.mean(tally.gaps),
            "train_accuracy": tally.accuracy(),
        }
        if self.method.head == "every epoch":
            head = head_epoch(self.learner, self.fit, self.head_optimizer, epoch=epoch, epochs=self.recipe.epochs)
            row.update(head_loss=head.mean(head.losses), train_accuracy=head.accuracy())
        return row

    def _head_after(self, epoch: int) -> EpochRow:
        """Train one epoch of the head after the encoder's, or make the whole fit on stored features."""
        number = epoch - self.recipe.epochs
        if self.recipe.head.fit == "epochs":
            tally = head_epoch(self.learner, self.fit, self.head_optimizer, epoch=number, epochs=self.head_epochs)
            return {"head_loss": tally.mean(tally.losses), "train_accuracy": tally.accuracy(), "lr": tally.rates[-1]}
        if self.recipe.select_on == "loss":
            self._probe_best()
        self._fit_probe()
        accuracy, loss = evaluate(self.learner, self.fit)
        return {"head_loss": loss, "train_accuracy": accuracy}

    def _fit_probe(self) -> None:
        """Replace the head by one that is fitted on stored features."""
        head, settings = self.learner.parts.linear, self.recipe.head.optimizer
        features = stored_features(self.learner, self.fit)
        if self.recipe.head.fit == "lbfgs":
            fitted = probe.lbfgs(
                features,
                self.fit.labels,
                head.out_features,
                weight_decay=settings.weight_decay,
                biased=head.bias is not None,
            )
        else:
            fitted = probe.full_batch(
                features,
                self.fit.labels,
                probe.Probe(head.weight, head.bias),
                steps=self.recipe.head.steps,
                lr=settings.lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            )
        with torch.no_grad():
            head.weight.copy_(fitted.weight)
            if fitted.bias is not None:
                head.bias.copy_(fitted.bias)
        self.processes.copy_from_main(head.parameters())  # a fit on a GPU may end on other bits on each rank

    def _probe_best(self) -> None:
        """Fit a probe on the encoder of the lowest loss, then restore the last encoder."""
        model = self.learner.model
        last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with self.processes.together():
            if self.processes.main:
                best = read_tensors(self.directory / "best.safetensors")
                model.load_state_dict({**best, **_head_of(last, self.learner.parts.head_name)})
        self.processes.copy_from_main(model.state_dict().values())
        self._fit_probe()
        if self.held is not None:
            self.record["accuracy"] = evaluate(self.learner, self.held)[0]
        with self.processes.together():
            self._write_weights("best")
        model.load_state_dict(last)

    def _keep_best(self, row: EpochRow) -> None:
        """Keep the weights of the best epoch; equal accuracies are decided by the lower validation loss."""
        score = merit(self.recipe.select_on, row)
        if score is None or (self.record and score <= self.record["merit"]):
            return
        self.record = {"epoch": row["epoch"], "merit": score, "accuracy": row["val_accuracy"]}
        self._write_weights("best")

    def _write_weights(self, name: str) -> None:
        if not self.processes.main:
            return
        with saving(self.directory):
            write_tensors(self.directory / f"{name}.safetensors", self.learner.model.state_dict())

    def _write_history(self) -> None:
        with saving(self.directory):
            atomic_write(self.directory / "history.csv", history(self.rows))

    def _save(self) -> None:
        if not self.processes.main:
            return
        tensors = {
            **{f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()},
            **pack_optimizer(self.encoder_optimizer, "encoder-optimizer"),
            **pack_optimizer(self.head_optimizer, "head-optimizer"),
        }
        save_state(self.directory, State(self.identity, self.epoch, self.record, self.rows, tensors))
        self._write_history()

    def resume(self, say: Callable[[str], None]) -> None:
        """Continue from the last saved epoch, if there is one; ``say`` is told of a damaged state that is skipped."""
        state = load_state(self.directory, say)
        if state is None:
            return
        require_same(self.directory, state.identity, self.identity)
        weights = {k.removeprefix("learner."): v for k, v in state.tensors.items() if k.startswith("learner.")}
        try:
            self.learner.load_state_dict(weights)
            unpack_optimizer(self.encoder_optimizer, "encoder-optimizer", state.tensors)
            unpack_optimizer(self.head_optimizer, "head-optimizer", state.tensors)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the state of {self.directory} does not fit its recipe ({str(error)[:200]})",
                "delete the directory to start again",
            ) from None
        self.epoch, self.record, self.rows = state.epoch, state.record, state.rows

    def finish(self) -> None:
        """Write the last weights and, as the final file, the manifest; then remove the states, no longer needed."""
        if not self.processes.main:
            return
        self._write_weights("last")
        self._write_history()  # a kill between the last state and its line may have left the file one line short
        selection = Selection(
            select_on=self.recipe.select_on,
            best_epoch=self.record["epoch"],
            best_accuracy=self.record["accuracy"],
            last_accuracy=self.rows[-1]["val_accuracy"],
        )
        seconds = round(sum(row["seconds"] for row in self.rows), 3)
        card = RunCard(
            name=self.directory.name,
            method=self.recipe.method,
            seed=self.seed,
            recipe_name=self.recipe.name,
            recipe=self.recipe.model_dump(mode="json"),
            recipe_hash=recipe_hash(self.recipe),
            dataset=self.dataset.info,
            train_manifest=self.train_split.manifest(),
            model=model_spec(self.recipe, self.dataset.info),
            layer=_layer(self.method, self.learner),
            explained_from=explained_from(self.recipe),
            selection=selection,
            provenance={
                **provenance(),
                "started": self.started,
                "seconds": seconds,
                "limit": self.limit,
                "ranks": self.processes.world,
                **({"init_sha256": self.learner.begun_with} if self.learner.begun_with else {}),
            },
        )
        with saving(self.directory):
            write_card(self.directory, card, ["best.safetensors", "last.safetensors", "history.csv"])
        clear_state(self.directory)


def make_trainer(
    recipe: Recipe,
    dataset: Dataset,
    directory: Path,
    *,
    seed: int,
    limit: int | None,
    device: torch.device,
    processes: Processes = ALONE,
) -> Trainer:
    """Return a run before its first epoch; raise :class:`UsageError` for what would fail late."""
    method = METHODS[recipe.method]
    require_precision(recipe.precision, device)
    learner = make_learner(recipe, dataset.info, seed, device, processes)
    _require_possible(recipe, learner)
    split = dataset.split("train")
    rows = stratified(split.labels, len(split) if limit is None else limit, seed)
    fit, held = _parts(recipe, dataset, (split, rows), seed)
    if len(fit[1]) < 2:
        raise UsageError(f"{len(fit[1])} image is too few to train on", "train on at least two images")
    return Trainer(
        recipe=recipe,
        dataset=dataset,
        directory=directory,
        seed=seed,
        limit=limit,
        processes=processes,
        method=method,
        learner=learner,
        train_split=split,
        fit=make_pool(*fit, device, processes),
        held=None if held is None else make_pool(*held, device, processes),
        encoder_optimizer=make_optimizer(_encoder_parameters(method, learner), recipe.optimizer),
        head_optimizer=make_optimizer(learner.parts.head.parameters(), recipe.head.optimizer),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _require_possible(recipe: Recipe, learner: Learner) -> None:
    """Raise an error before the first epoch for settings that would only fail late."""
    if recipe.select_on == "loss" and head_epochs(recipe) > 1:
        raise UsageError(
            "select_on = 'loss' cannot choose among head epochs after the encoder",
            "set head.fit to lbfgs or full-batch",
        )
    EXPLAINERS[recipe.excon.explainer]
    if METHODS[recipe.method].explains or recipe.excon.layer not in (None, EXCON_LAYER):
        find_layer(learner.model, learner.explained_layer)


Part = tuple[Split, NDArray[np.int64]]
"""A split and the positions of some of its images."""


def _parts(recipe: Recipe, dataset: Dataset, rows: Part, seed: int) -> tuple[Part, Part | None]:
    """Return which of the given images are trained on, and the images that judge the epochs."""
    split, chosen = rows
    if recipe.select_on == "test":
        test = dataset.split("test")
        return rows, (test, stratified(test.labels, len(test), 0))
    if not recipe.heldout:
        return rows, None
    fit, held = holdout(split.labels[chosen], recipe.heldout, seed)
    if not len(held):
        raise UsageError(
            f"none of {len(chosen)} images can be held out: no class has two of them", "train on more images"
        )
    return (split, chosen[fit]), (split, chosen[held])


def _encoder_parameters(method: Method, learner: Learner) -> list[torch.nn.Parameter]:
    if method.head == "joint":
        return list(learner.model.parameters())
    return [*learner.parts.encoder, *learner.projection.parameters()]


def _head_of(tensors: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{head}.")}


def _layer(method: Method, learner: Learner) -> str | None:
    """Return the layer that a run's card shows; None where the method explains nothing and the network has no map."""
    if method.explains:
        return learner.explained_layer
    try:
        return learner.default_layer
    except UsageError:
        return None
