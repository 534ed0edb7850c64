"""A scoring pass over its floor: the number of distinct forward passes times what one costs in the engine's batches.

Distinct passes are counted by a fingerprint of every image that reaches a network. The floor is measured in turn with
the scoring, in the same batch size and mode. Where the target is missed the note says which metrics spend the rest, and
how much of it is batches that are smaller than the engine's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pairs import counted, seconds, watching
from benchmarks.rows import Claim, Options, Target, main, row_of
from benchmarks.subjects import device_of, network, pictures
from xeval.engine import Engine, deterministic
from xeval.models import frozen_eval
from xeval.scoring.blocks import chunks
from xeval.scoring.module import adapt
from xeval.scoring.options import validated
from xeval.scoring.plan import Plan, plan_for
from xeval.scoring.scorer import Scorer, make_scorer, task_blocks

ROWS = ("grad-cam", "random", "random-cam", "inverse")
METRICS = ("drop", "infidelity", "deletion", "insertion", "faithcorr", "complexity", "ssim", "sensitivity")


@dataclass
class Seen:
    """The passes by the size of their batch, and a fingerprint of each distinct image that reached each network."""

    sizes: Counter[int] = field(default_factory=Counter)
    known: set[tuple[int, float]] = field(default_factory=set)

    @property
    def all(self) -> int:
        """The number of all passes."""
        return sum(size * times for size, times in self.sizes.items())

    def watch(self, module: nn.Module, batch: Tensor) -> None:
        """Record the images of a batch before they go through a network."""
        images = batch.detach().contiguous().flatten(1).double()
        weights = torch.linspace(1, 2, images.shape[1], dtype=torch.float64, device=images.device).sin()
        self.sizes[len(batch)] += 1
        self.known.update((id(module), value) for value in (images @ weights).tolist())


@contextmanager
def watched(model: nn.Module) -> Iterator[Seen]:
    """Record the fingerprints of everything that passes through a network inside the block."""
    seen = Seen()
    with watching(model, seen.watch):
        yield seen


def scorer_of(arch: str, options: Options) -> Scorer:
    """Return xeval's scorer for seeded random images, as ``xeval.score`` builds it."""
    device = device_of(options)
    model, _ = network(arch, device)
    images = (pictures(options.pick("images", 8, 4), torch.device("cpu")) / 8 + 0.5).clamp(0, 1)
    labels = torch.arange(len(images)) % 100
    metrics = METRICS[:2] if options.quick else METRICS
    given: dict[str, Any] = {"compile": "on"} if options.compile else {}
    chosen = validated(explainers=ROWS, metrics=metrics, device=options.device, batch_size=options.batch_size, **given)
    plan: Plan = plan_for(*adapt(model, [(images, labels)]), chosen)
    scorer = make_scorer(plan, chosen)
    scorer.tune(chosen, math.inf)
    return scorer


def score(scorer: Scorer) -> None:
    """Compute all values of all images."""
    for chunk in chunks(scorer.plan):
        scorer.score_chunk(chunk, list(scorer.plan.tasks))


def floor(engine: Engine, image: Tensor, passes: int) -> None:
    """Make the given number of passes in the engine's batches and nothing else."""
    full = image.expand(engine.batch_size, -1, -1, -1).contiguous()
    with torch.no_grad():
        for start in range(0, passes, engine.batch_size):
            part = full[: passes - start]
            engine.network(part, whole=len(part) == engine.batch_size)


def batched(engine: Engine, image: Tensor, seen: Seen) -> float:
    """Return the seconds of the recorded passes in the batch sizes in which they were made."""
    with torch.no_grad():
        return sum(
            times * min(seconds(partial(engine.network, image.expand(size, -1, -1, -1).contiguous())) for _ in range(3))
            for size, times in seen.sizes.items()
        )


def profile(scorer: Scorer, each: float) -> dict[str, dict[str, float]]:
    """Return seconds and passes by part of the work; ``each`` is the cost of one pass.

    What several metrics share is charged to the first that needs it.
    """
    found: dict[str, dict[str, float]] = {}

    def part(name: str, work: Any) -> Any:
        kept: list[Any] = []
        with counted(scorer.engine.model) as count:
            spent = seconds(lambda: kept.append(work()))
        row = found.setdefault(name, {"seconds": 0.0, "passes": 0.0, "over": 0.0})
        row["seconds"] += spent
        row["passes"] += count.images
        row["over"] += spent - count.images * each
        return kept[0]

    for chunk in chunks(scorer.plan):
        scene, _ = part("scene", partial(scorer.scene, chunk.positions))
        rows = part("maps", lambda scene=scene, chunk=chunk: list(scorer.maps.of(scene, chunk.positions)))
        for task in scorer.plan.tasks:
            part(task.metric.name, partial(task_blocks, task, scene, rows, scorer.meter))
    return found


def measure(options: Options) -> Iterator[Claim]:
    """Yield one row for each architecture."""
    for arch in options.networks(("resnet18-cifar",)):
        scorer = scorer_of(arch, options)
        engine = scorer.engine
        example = pictures(1, scorer.device)
        with frozen_eval(engine.model), deterministic():
            with watched(engine.model) as seen:
                score(scorer)
            distinct = len(seen.known)
            timed = [
                (seconds(partial(score, scorer)), seconds(partial(floor, engine, example, distinct)))
                for _ in range(options.pick("rounds", 2, 1))
            ]
            each = min(low for _, low in timed) / distinct
            parts, as_batched = profile(scorer, each), batched(engine, example, seen)
        worst = sorted(parts.items(), key=lambda item: -item[1]["over"])[:4]
        rest = ", ".join(f"{name} {part['over']:+.2g} s" for name, part in worst)
        yield row_of(
            f"wall time over the floor, {arch}, 32 px, {len(scorer.plan.chosen)} images, batches of "
            f"{engine.batch_size}, {len(scorer.plan.rows)} rows, {len(scorer.plan.tasks)} metrics",
            "×",
            [wall / low for wall, low in timed],
            Target("at most", 1.10),
            passes={"own": seen.all, "distinct": distinct},
            note=f"{seen.all / distinct:.3f} passes for each distinct one; the same passes in the batch sizes in which "
            f"they were made take {as_batched / (each * distinct):.2f}× the floor; most over it: {rest}",
            measurements={
                "seconds": [wall for wall, _ in timed],
                "floor_seconds": [low for _, low in timed],
                "parts": parts,
                "batch_sizes": {str(size): times for size, times in sorted(seen.sizes.items())},
            },
        )


if __name__ == "__main__":
    main("floor", __doc__, measure)
