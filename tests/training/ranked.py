"""What the tests of several ranks compute: ``python -m tests.training.ranked OUT`` on each, the same call on one.

The network has GroupNorm, whose outputs do not depend on the other images of a batch, so that any difference between
numbers of ranks is a mistake; with BatchNorm the ranks have statistics of their own.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.training.interrupting import Interrupt, Stop
from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import open_dataset
from xeval.runtime.distributed import Processes, end, joined
from xeval.runtime.progress import Silent
from xeval.training import methods
from xeval.training.batches import make_pool
from xeval.training.epochs import encoder_epoch, evaluate, head_epoch
from xeval.training.learner import Learner, fresh_learner, make_learner
from xeval.training.loop import train
from xeval.training.methods import METHODS
from xeval.training.recipe import Recipe, load_recipe
from xeval.training.schedule import make_optimizer

CPU = torch.device("cpu")
SMALL = ("image_size=8", "epochs=2", "batch_size=16", "excon.explain_from_epoch=0", "head.epochs=2")
SGD = ("optimizer.name=sgd", "optimizer.lr=0.02", "head.optimizer.name=sgd", "head.optimizer.lr=0.02")
COUNTS = (13, 5)  # 5 images leave the third of three ranks without any
RUNS = {
    "ce": (),
    "triplet": ("head.fit=lbfgs", "select_on=loss", "head.optimizer.weight_decay=0.1"),
    "simclr": ("head.fit=full-batch",),
    "exconb": (),
}
RESUMED = ("epochs=4", "optimizer.lr=0.005")  # small steps: rounding grows with every one


def recipe(method: str, *overrides: str) -> Recipe:
    return load_recipe("digits", method, [*SMALL, *SGD, *overrides])


class Same(nn.Module):
    """A network whose features and logits are what it is given."""

    features = logits = forward = lambda self, rows: rows.flatten(1)


def accepted_masks(count: int) -> dict[str, Tensor]:
    """Which masked images are accepted: all but some of the first ranks' images, all but two of the last, all, none."""
    place = torch.arange(count)
    return {
        "first": (place != 0) & (place != 2),
        "last": place < count - 2,
        "all": place >= 0,
        "none": place < 0,
    }


def cases() -> list[tuple[str, int, str]]:
    """(method, images, accepted): every method, and those with masked images in each of the patterns."""
    patterns = tuple(accepted_masks(1))
    return [
        (method, count, pattern)
        for method in METHODS
        for count in COUNTS
        for pattern in (patterns if METHODS[method].explains else patterns[:1])
    ]


def loss_of_given_rows(processes: Processes, method: str, count: int, pattern: str) -> dict[str, Tensor]:
    """The loss of one step on given embeddings, and its gradient in the rows of this rank."""
    split = open_dataset("digits", None, 8).split("train")
    learner = fresh_learner(recipe(method), split.info, 0, processes)
    chosen = np.flatnonzero(split.labels < 3)[:count]
    batch = make_pool(split, chosen, CPU, processes).take(torch.arange(count))
    here = torch.from_numpy(np.searchsorted(chosen, batch.rows))
    draw = torch.Generator().manual_seed(count)
    given = [F.normalize(torch.randn(count, 10, 1, 1, generator=draw)) for _ in range(3)]
    own = [rows[here].requires_grad_() for rows in given]
    accepted = accepted_masks(count)[pattern][here]
    learner.model = Same()  # type: ignore[assignment]
    with (
        patch.object(learner, "embed", lambda images: images.flatten(1)),
        patch.object(learner, "view", lambda batch, stream, views: own[int(stream[-1])]),
        patch.object(methods, "explained_views", lambda *_: (own[2], accepted)),
    ):
        step = METHODS[method].step(learner, batch, 1)
    step.loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss": step.loss.detach(), "rows": here}
    found["share"] = torch.tensor(batch.shares[processes.rank])
    found["collapsed"] = torch.tensor(step.collapsed or 0.0)
    found |= {f"gradient{n}": torch.zeros_like(rows) if rows.grad is None else rows.grad for n, rows in enumerate(own)}
    return found


def without_batch_norm(*arguments: Any) -> Learner:
    """The learner with GroupNorm in place of BatchNorm."""
    learner = make_learner(*arguments)
    for module in list(learner.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(2, child.num_features))
    return learner.to(memory_format=torch.channels_last)


def trained(processes: Processes, make: Any, method: str) -> dict[str, Tensor]:
    """Weights and buffers after two epochs, and what was measured."""
    settings, split = recipe(method), open_dataset("digits", None, 8).split("train")
    learner, pool = make(settings, split.info, 0, CPU, processes), make_pool(split, np.arange(35), CPU, processes)
    encoder = list(learner.model.parameters()) if method == "ce" else list(learner.model.backbone.parameters())
    optimizers = (
        make_optimizer([*encoder, *learner.projection.parameters()], settings.optimizer),
        make_optimizer(learner.model.head.parameters(), settings.head.optimizer),
    )
    numbers: list[float] = []
    for epoch in (1, 2):
        tally = encoder_epoch(learner, METHODS[method], pool, optimizers[0], epoch=epoch, progress=Silent())
        head = head_epoch(learner, pool, optimizers[1], epoch=epoch, epochs=2)
        numbers += [tally.mean(tally.losses) or 0, tally.mean(tally.accepted) or 0, head.mean(head.losses) or 0]
        numbers += [head.accuracy() or 0, *evaluate(learner, pool)]
    return {"numbers": torch.tensor(numbers, dtype=torch.float64), **learner.state_dict()}


def whole_runs(processes: Processes, out: Path) -> None:
    """Runs of several methods, and one that is interrupted after its second epoch and left for others to finish."""
    with patch("xeval.training.trainer.make_learner", without_batch_norm):
        for method, overrides in RUNS.items():
            train(recipe(method, *overrides), seed=0, out=out / "runs", limit=60, processes=processes)
        with suppress(Stop):
            train(
                recipe("exconb", *RESUMED),
                seed=0,
                out=out / "halves",
                limit=60,
                processes=processes,
                progress=Interrupt(2),
            )


def everything(processes: Processes, out: Path) -> None:
    found: dict[str, Tensor] = {}

    def keep(name: str, tensors: dict[str, Tensor]) -> None:
        found.update({f"{name}/{key}": value.detach().contiguous() for key, value in tensors.items()})

    for case in cases():
        keep("/".join(map(str, ("loss", *case))), loss_of_given_rows(processes, *case))
    for method in METHODS:
        keep(f"group/{method}", trained(processes, without_batch_norm, method))
        keep(f"batch/{method}", trained(processes, make_learner, method))
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / f"rank{processes.rank}.safetensors", found)
    whole_runs(processes, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu") as job:
        everything(job, Path(sys.argv[1]))
    end(0)
