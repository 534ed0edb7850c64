"""Training: what an epoch of each method costs beside one of SupCon, and how much of a step the images take.

An epoch is the encoder's and, where the method has one, the head's. Counted passes are forward passes of one image: 1
without gradients, 3 with the backward pass that follows. The methods' epochs and SupCon's are timed in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pairs import seconds, synchronize, trunk
from benchmarks.rows import Claim, Options, Target, main, row_of
from benchmarks.subjects import device_of, pictures
from xeval.data import DatasetInfo
from xeval.data.base import ArraySplit
from xeval.runtime.progress import Silent
from xeval.training.batches import Pool, make_pool
from xeval.training.epochs import encoder_epoch, head_epoch
from xeval.training.learner import Learner, fresh_learner
from xeval.training.methods import METHODS
from xeval.training.recipe import Recipe, load_recipe
from xeval.training.schedule import make_optimizer

RECIPE, CLASSES = "excon-cifar100-b128", 100
INFO = DatasetInfo("planted", tuple(map(str, range(CLASSES))), (0.5,) * 3, (0.25,) * 3, channels=3, size=32)
EXCON, SLACK, SHARE = 1.45, 1.15, 0.90


@dataclass
class Run:
    """A learner with its images and optimisers; it keeps counting epochs."""

    learner: Learner
    pool: Pool
    encoder: torch.optim.Optimizer
    head: torch.optim.Optimizer
    epoch: int = 0

    def advance(self) -> None:
        """Train one epoch of the encoder and, for methods that have one, of the head."""
        self.epoch += 1
        method = METHODS[self.learner.recipe.method]
        encoder_epoch(self.learner, method, self.pool, self.encoder, epoch=self.epoch, progress=Silent())
        if method.head == "every epoch":
            head_epoch(self.learner, self.pool, self.head, epoch=self.epoch, epochs=self.learner.recipe.epochs)


def recipe_for(method: str, arch: str, batch_size: int) -> Recipe:
    """Return the ExCon paper's recipe with the last stage's map, which needs no backward pass, from the first epoch."""
    plain = load_recipe(RECIPE, "excon", [f"arch={arch}", f"batch_size={batch_size}"])
    settings = plain.excon.model_copy(update={"layer": None, "explain_from_epoch": 0})
    return plain.model_copy(update={"method": method, "excon": settings})


def run_of(method: str, arch: str, images: int, device: torch.device) -> Run:
    """Return a run on seeded random images."""
    learner = fresh_learner(recipe_for(method, arch, min(128, images)), INFO, seed=0).to(device)
    learner = learner.to(memory_format=torch.channels_last)
    pixels = (pictures(images, torch.device("cpu")) * 64 + 128).clamp(0, 255).to(torch.uint8).numpy()
    labels = np.arange(images) % CLASSES
    split = ArraySplit(INFO, "train", pixels, labels, [str(number) for number in range(images)])
    parameters = list(learner.parameters())
    return Run(
        learner,
        make_pool(split, np.arange(images), device),
        make_optimizer(parameters, learner.recipe.optimizer),
        make_optimizer(learner.parts.head.parameters(), learner.recipe.head.optimizer),
    )


@dataclass
class Tally:
    """Counts forward passes of single images with and without gradients."""

    plain: int = 0
    trained: int = 0

    @property
    def units(self) -> int:
        """The cost in forward passes, where a backward pass counts as two."""
        return self.plain + 3 * self.trained

    def watch(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Count the images of a pass; this is a forward pre-hook."""
        if torch.is_grad_enabled():
            self.trained += len(inputs[0])
        else:
            self.plain += len(inputs[0])


def units(run: Run) -> int:
    """Return the counted passes of the next epoch."""
    tally = Tally()
    handle = trunk(run.learner.model).register_forward_pre_hook(tally.watch)
    try:
        run.advance()
    finally:
        handle.remove()
    return tally.units


def against_supcon(method: str, arch: str, options: Options, images: int) -> Claim:
    """Measure how many times longer an epoch takes than SupCon's, and what the counted passes give."""
    device = device_of(options)
    run, supcon = (run_of(name, arch, images, device) for name in (method, "supcon"))
    counts = {"own": units(run), "supcon": units(supcon)}
    timed = [(seconds(run.advance), seconds(supcon.advance)) for _ in range(options.pick("rounds", 3, 1))]
    share = counts["own"] / counts["supcon"]
    ratios = [own / other for own, other in timed]
    excon = method == "excon" and arch == "resnet18-cifar"
    return row_of(
        f"epoch of {method} over SupCon's, last-stage map, {arch}, 32 px, {images} images"
        if excon
        else f"epoch of {method} over its counted passes (relative to SupCon's), {arch}, 32 px, {images} images",
        "×",
        ratios if excon else [ratio / share for ratio in ratios],
        Target("at most", EXCON if excon else SLACK),
        passes=counts,
        note=f"the counted passes give {share:.2f}× SupCon",
        measurements={"seconds": [own for own, _ in timed], "supcon_seconds": [other for _, other in timed]},
    )


@dataclass
class Clock:
    """Adds up the seconds spent making images."""

    spent: list[float] = field(default_factory=list)

    def timed(self, work: Any) -> Any:
        """Return ``work`` as a function that also records its time."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            kept: list[Any] = []
            self.spent.append(seconds(lambda: kept.append(work(*arguments, **keywords))))
            return kept[0]

        return run


@contextmanager
def watched_images(run: Run) -> Iterator[Clock]:
    """Measure the time that reading images and making views takes inside the block."""
    clock = Clock()
    places: list[tuple[Any, str]] = [(run.pool, "take"), (run.learner, "view"), (run.learner, "standard")]
    for owner, name in places:
        setattr(owner, name, clock.timed(getattr(owner, name)))
    try:
        yield clock
    finally:
        for owner, name in places:
            delattr(owner, name)


def in_the_model(arch: str, options: Options, images: int) -> Claim:
    """Measure the share of SupCon's encoder epoch that is not spent on reading images and making views."""
    run = run_of("supcon", arch, images, device_of(options))
    method, shares, times = METHODS["supcon"], [], []
    for epoch in range(1 + options.pick("rounds", 3, 1)):
        synchronize()
        with watched_images(run) as clock:
            work = partial(
                encoder_epoch, run.learner, method, run.pool, run.encoder, epoch=epoch + 1, progress=Silent()
            )
            total = seconds(work)
        shares.append(1 - sum(clock.spent) / total)
        times.append({"seconds": total, "images": sum(clock.spent)})
    return row_of(
        f"share of a training step in the model, SupCon, {arch}, 32 px, {images} images",
        "share",
        shares[1:],
        Target("at least", SHARE),
        note="crop, flip, jitter and grey of two views an image",
        measurements={"epochs": times[1:]},
    )


def measure(options: Options) -> Iterator[Claim]:
    """Yield rows for ExCon and ExConB on the larger network, every method on the smaller, and the input on both."""
    large, small = (*options.networks(("resnet18-cifar", "resnet-small"), ("cnn-tiny", "cnn-tiny")),)[:2]
    images = options.pick("images", 128, 16)
    for method in ("excon", "exconb"):
        yield against_supcon(method, large, options, images)
    for method in (name for name, _ in METHODS.items() if name != "supcon"):
        yield against_supcon(method, small, options, images * (1 if options.quick else 2))
    for arch in (large, small):
        yield in_the_model(arch, options, images)


if __name__ == "__main__":
    main("training", __doc__, measure)
