"""Runs one epoch of the encoder, of the head or of the validation, without waiting for the device before its end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from xeval.errors import DataError
from xeval.runtime.progress import Progress
from xeval.training.batches import Batch, Pool
from xeval.training.learner import Learner, mode
from xeval.training.methods import Method
from xeval.training.precision import products
from xeval.training.schedule import learning_rate, set_rate

EVALUATION_BATCH = 512


@dataclass
class Tally:
    """The reports of an epoch's steps, kept on the device until :meth:`require_finite` and the averages read them."""

    sizes: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    gaps: list[Tensor] = field(default_factory=list)
    accepted: list[Tensor] = field(default_factory=list)

    def mean(self, values: list[Tensor]) -> float | None:
        """Average per-step averages over images; None where the steps reported none."""
        if not values:
            return None
        weights = torch.tensor(self.sizes, dtype=torch.float64)
        return float((torch.stack(values).cpu().double() * weights).sum() / weights.sum())

    def accuracy(self) -> float | None:
        """Return the share of correct predictions; None where the steps made none."""
        return int(torch.stack(self.correct).sum()) / sum(self.sizes) if self.correct else None

    def require_finite(self, what: str, epoch: int, rows: Tensor, ids: tuple[str, ...]) -> None:
        """Raise :class:`DataError` naming the first step whose loss is not finite."""
        bad = (~torch.isfinite(torch.stack(self.losses))).nonzero()
        if not len(bad):
            return
        step = int(bad[0])
        first = sum(self.sizes[:step])
        names = [ids[int(row)] for row in rows[first : first + self.sizes[step]]]
        raise DataError(
            f"the {what} loss is not finite at epoch {epoch}, step {step + 1}, learning rate {self.rates[step]:g} "
            f"(images {', '.join(names[:4])}, …)",
            "lower the learning rate; the state of the epoch before is kept",
        )


def encoder_epoch(
    learner: Learner, method: Method, pool: Pool, optimizer: torch.optim.Optimizer, *, epoch: int, progress: Progress
) -> Tally:
    """Train the encoder (with the head where the method is joint) once over ``pool``."""
    recipe, tally = learner.recipe, Tally()
    order = pool.shuffled(learner.seed, f"encoder-order:{epoch}")
    steps = pool.steps(recipe.batch_size)
    with mode(learner, training=True):
        batches = progress.track(pool.batches(recipe.batch_size, order), steps, f"epoch {epoch}")
        for number, batch in enumerate(batches):
            rate = learning_rate(recipe.optimizer, epoch, recipe.epochs, number, steps)
            report = method.step(learner, batch, epoch)
            descend(learner, optimizer, report.loss, rate)
            learner.processes.copy_from_main(learner.buffers())  # keeps BatchNorm's statistics equal on all ranks
            record(tally, batch, report.loss, rate)
            if report.correct is not None:
                tally.correct.append(report.correct)
            if report.collapsed is not None:
                tally.gaps.append(report.collapsed - report.loss.detach())
            if report.accepted is not None:
                tally.accepted.append(report.accepted)
    with learner.processes.together():
        tally.require_finite("encoder", epoch, torch.from_numpy(pool.rows)[order], pool.split.ids)
    return tally


def head_epoch(learner: Learner, pool: Pool, optimizer: torch.optim.Optimizer, *, epoch: int, epochs: int) -> Tally:
    """Train the head once over ``pool`` while the encoder is frozen in evaluation mode."""
    recipe, tally = learner.recipe, Tally()
    settings = recipe.head.optimizer
    order = pool.shuffled(learner.seed, f"head-order:{epoch}")
    steps = pool.steps(recipe.batch_size)
    with mode(learner, training=False):
        for number, batch in enumerate(pool.batches(recipe.batch_size, order)):
            with torch.no_grad():
                features = learner.features(learner.view(batch, f"head:{epoch}", recipe.head.views))
            logits = learner.everyone(learner.logits(features), batch)
            loss, rate = F.cross_entropy(logits, batch.whole), learning_rate(settings, epoch, epochs, number, steps)
            descend(learner, optimizer, loss, rate)
            record(tally, batch, loss, rate)
            tally.correct.append((logits.argmax(1) == batch.whole).sum())
    with learner.processes.together():
        tally.require_finite("head", epoch, torch.from_numpy(pool.rows)[order], pool.split.ids)
    return tally


def descend(learner: Learner, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """Make one step of the optimiser along the sum of all ranks' gradients, each taken over the rank's own rows."""
    set_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    with products(learner.recipe.precision):
        loss.backward()  # type: ignore[no-untyped-call]
    learner.processes.add_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
    optimizer.step()


def record(tally: Tally, batch: Batch, loss: Tensor, rate: float) -> None:
    """Add a step to the tally."""
    tally.sizes.append(len(batch.whole))
    tally.losses.append(loss.detach())
    tally.rates.append(rate)


def require_finite(learner: Learner, epoch: int) -> None:
    """Raise :class:`DataError` for weights that are not finite.

    The last step of an epoch needs this check, because no later loss would show the damage.
    """
    for name, tensor in learner.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(
                f"{name} is not finite after epoch {epoch}",
                "lower the learning rate; the state of the epoch before is kept",
            )


@torch.no_grad()
def evaluate(learner: Learner, pool: Pool) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy on the standard views of ``pool``."""
    correct, loss = [], []
    with mode(learner, training=False):
        for batch in pool.batches(EVALUATION_BATCH):
            logits = learner.everyone(learner.model(learner.standard(batch)), batch)
            correct.append((logits.argmax(1) == batch.whole).sum())
            loss.append(F.cross_entropy(logits, batch.whole, reduction="sum"))
    value = float(torch.stack(loss).sum()) / len(pool)
    with learner.processes.together():
        if not math.isfinite(value):
            raise DataError(
                "the validation loss is not finite", "lower the learning rate; the state of the epoch before is kept"
            )
    return int(torch.stack(correct).sum()) / len(pool), value


@torch.no_grad()
def stored_features(learner: Learner, pool: Pool) -> Tensor:
    """Return features N×K of the standard views, of unit length where the head normalises them."""
    with mode(learner, training=False):
        parts = [
            learner.everyone(learner.parts.features(learner.standard(batch)), batch)
            for batch in pool.batches(EVALUATION_BATCH)
        ]
    features = torch.cat(parts)
    return F.normalize(features) if learner.parts.normalize_features else features
