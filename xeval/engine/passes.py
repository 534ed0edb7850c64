"""Run batched forward passes on the device; the metrics call the network only through this module.

The passes of many images × many perturbations are packed into batches of one size. Nothing is read back to the host in
between. Probabilities are computed in float64 from float32 logits, which removes spurious ties of saturated networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from xeval.engine.folding import Network, plain
from xeval.engine.precision import same64, sigmoid64, softmax64
from xeval.engine.timing import RUNS, copies, throughput
from xeval.explainers.base import Explainer
from xeval.models.reading import Link
from xeval.runtime.memory import if_it_fits, out_of_memory

LINKS = {"softmax": softmax64, "sigmoid": sigmoid64, "cosine": same64}
ARITHMETIC = (LinAlgError, FloatingPointError, ValueError)
Versions = Callable[[Tensor, Tensor], Tensor]
"""A function ``(rows, columns) -> images``: the perturbed images of the pairs (image number, perturbation number)."""


class Engine:
    """An engine, which makes counted, batched passes through one frozen network.

    ``model`` is the network that the explainers use; ``network`` is its form for all other passes (the model itself
    unless given), and ``link`` makes probabilities of logits: the softmax over the classes, or the sigmoid of each. If
    memory does not suffice for a batch, the batch size is halved permanently and the pass repeated; no number depends
    on the batch size. ``jitter`` is how far the precision of the network moves probabilities.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        network: Network | None = None,
        batch_size: int = 256,
        single: bool = False,
        link: Link = "softmax",
    ) -> None:
        self.model = model
        self.network = network or plain(model)
        self.batch_size = batch_size
        self.single = single
        self.link = link
        self.jitter = 0.0
        self._passes = 0
        self._taken = 0
        self._overflow: Tensor | None = None

    @property
    def passes(self) -> int:
        """The number of images that have gone through the network since the engine was made."""
        return self._passes

    def count(self, images: int) -> None:
        """Add passes that a caller has made through ``model`` itself."""
        self._passes += images

    def take_passes(self) -> int:
        """Return the number of passes since the last call; the caller adds them up."""
        fresh, self._taken = self._passes - self._taken, self._passes
        return fresh

    def take_overflow(self) -> bool:
        """Return whether a pass of lower precision has given a value that is not finite since the last call."""
        found, self._overflow = self._overflow, None
        return found is not None and bool(found)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of N×C×H×W images, computed in batches."""
        self.count(len(images))
        with torch.no_grad():
            return torch.cat(self._batches(lambda start, stop: self._pass(images[start:stop]), len(images)))

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities (N, classes) in float64."""
        return self.linked(self.logits(images))

    def linked(self, logits: Tensor) -> Tensor:
        """Return the probabilities that logits (N, classes) stand for, in float64."""
        return LINKS[self.link](logits, single=self.single)

    def class_probability(self, versions: Versions, columns: int, targets: Tensor) -> Tensor:
        """Return the probability of each image's target class under ``columns`` perturbations: float64 (N, columns).

        Perturbed images are made batch by batch, so memory does not grow with the number of perturbations.
        """
        total = len(targets) * columns
        self.count(total)

        def passed(start: int, stop: int) -> Tensor:
            pair = torch.arange(start, stop, device=targets.device)
            rows = pair.div(columns, rounding_mode="floor")
            probability = self.linked(self._pass(versions(rows, pair % columns)))
            return probability.gather(1, targets[rows, None].to(probability.device))[:, 0]

        if not total:
            return torch.zeros(len(targets), columns, dtype=torch.float64, device=targets.device)
        with torch.no_grad():
            return torch.cat(self._batches(passed, total)).reshape(len(targets), columns)

    def explain(
        self, explainer: Explainer, layer: str, images: Tensor, targets: Tensor, model: nn.Module | None = None
    ) -> Tensor:
        """Return maps N×1×h×w on the explainer's own grid, in batches; a given ``model`` replaces the engine's."""
        explained = self.model if model is None else model

        def maps(start: int, stop: int) -> Tensor:
            return _one_by_one(lambda i, j: explainer.explain(explained, layer, images[i:j], targets[i:j]), start, stop)

        with _counted(explained) as seen:
            found = torch.cat(self._batches(maps, len(images)))
        self.count(max(sum(seen), len(images)))
        return found

    def rate(self, example: Tensor, images: float = math.inf) -> float:
        """Return the images per second in the engine's batches, once they are known to fit; ``example`` is 1×C×H×W.

        At most ``images`` images are passed, in smaller batches where it must be; infinity where not even one can.
        """
        size = int(min(self.batch_size, images // (RUNS + 1)))
        if not size:
            return math.inf
        with torch.no_grad():
            self._batches(lambda start, stop: self._pass(copies(example, stop - start)), size)
        return throughput(self._pass, example, min(size, self.batch_size))

    def turn(self, images: Tensor) -> Tensor:
        """Do what scoring does with a batch N×C×H×W: compose it, pass it, and take one probability of each image."""
        versions = torch.where(images[:, :1] < 0, images, torch.zeros_like(images[:1]))
        return self.linked(self.network(versions))[:, 0]

    def _pass(self, images: Tensor) -> Tensor:
        logits = self.network(images, whole=len(images) == self.batch_size)
        if self.network.precision != "float32":
            broken = ~logits.isfinite().all()
            self._overflow = broken if self._overflow is None else self._overflow | broken
        return logits

    def _batches(self, run: Callable[[int, int], Tensor], total: int) -> list[Tensor]:
        """Call ``run(start, stop)`` for consecutive batches up to ``total``; halve a batch that did not fit."""
        parts: list[Tensor] = []
        start = 0
        while start < total or not parts:  # without images, run one empty batch
            stop = min(start + self.batch_size, total)
            part = if_it_fits(partial(run, start, stop))
            if part is None:  # outside the call, nothing holds the tensors of the failed pass any more
                self._halve(stop - start)
            else:
                parts.append(part)
                start = stop
        return parts

    def _halve(self, tried: int) -> None:
        if tried == 1:
            raise out_of_memory()
        self.batch_size = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _one_by_one(maps: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor:
    """Maps of the images from ``start`` to ``stop``, NaN for those on which the explainer's arithmetic fails.

    Decompositions and regressions refuse values that are not finite, and with them the whole batch. Where they do, the
    images are explained one by one; the error is raised where it is the same for all of them.
    """
    try:
        return maps(start, stop)
    except ARITHMETIC as error:
        if stop - start == 1:
            raise
        whole = error
    found: list[Tensor | None] = []
    for number in range(start, stop):
        try:
            found.append(maps(number, number + 1))
        except ARITHMETIC:
            found.append(None)
    sound = next((part for part in found if part is not None), None)
    if sound is None:
        raise whole
    return torch.cat([torch.full_like(sound, torch.nan) if part is None else part for part in found])


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list that collects the sizes of all batches that go through the model, whichever code sends them."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()
