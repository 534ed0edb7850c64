"""Batched forward passes on the device: the only place where the metrics meet the network.

The passes of many images × many perturbations are packed into batches of one size. Nothing is read back to the host in
between; probabilities are the softmax in float64 of float32 logits, which removes spurious ties of saturated networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.explainers.base import Explainer

Compose = Callable[[Tensor, Tensor], Tensor]
"""``(rows, columns) -> images``: the perturbed images of the pairs (image number, perturbation number)."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is the accelerator if there is one, else the CPU.

    Raises :class:`UsageError` for a device that is not there.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        reason = str(error).splitlines()[0]
        raise UsageError(f"the device {name!r} cannot be used ({reason})", "use --device auto") from None
    return device


def softmax64(logits: Tensor, *, single: bool = False) -> Tensor:
    """Softmax over the last axis as float64; devices without float64 compute it on the host, once a batch.

    ``single`` computes it in float32 first, as published code does: saturated networks then tie at exactly 1.
    """
    if logits.device.type == "mps":
        logits = logits.cpu()
    return logits.softmax(-1).double() if single else logits.double().softmax(-1)


class Engine:
    """Counted, batched passes through one frozen network."""

    def __init__(self, model: nn.Module, *, batch_size: int = 256, single: bool = False) -> None:
        self.model = model
        self.batch_size = batch_size
        self.single = single
        self.passes = 0

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of N×C×H×W images, in batches."""
        self.passes += len(images)
        with torch.no_grad():
            return torch.cat([self.model(part) for part in torch.split(images, self.batch_size)])

    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax (N, classes) in float64."""
        return softmax64(self.logits(images), single=self.single)

    def class_probability(self, compose: Compose, columns: int, targets: Tensor) -> Tensor:
        """Probability of each image's target class under ``columns`` perturbations of it: float64 (N, columns).

        Perturbed images are made batch by batch, so memory does not grow with the number of perturbations.
        """
        total = len(targets) * columns
        self.passes += total
        found: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, total, self.batch_size):
                pair = torch.arange(start, min(start + self.batch_size, total), device=targets.device)
                rows = pair.div(columns, rounding_mode="floor")
                probability = softmax64(self.model(compose(rows, pair % columns)), single=self.single)
                found.append(probability.gather(1, targets[rows, None].to(probability.device))[:, 0])
        if not found:
            return torch.zeros(len(targets), 0, dtype=torch.float64, device=targets.device)
        return torch.cat(found).reshape(len(targets), columns)

    def explain(
        self, explainer: Explainer, layer: str, images: Tensor, targets: Tensor, model: nn.Module | None = None
    ) -> Tensor:
        """Maps N×1×h×w on the explainer's own grid, in batches; of another network where ``model`` is given."""
        explained = self.model if model is None else model
        parts = zip(torch.split(images, self.batch_size), torch.split(targets, self.batch_size), strict=True)
        with _counted(explained) as seen:
            maps = torch.cat([explainer.explain(explained, layer, x, y) for x, y in parts])
        self.passes += max(sum(seen), len(images))
        return maps


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """The sizes of the batches that go through the model, whoever sends them."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


def probe_batch_size(model: nn.Module, example: Tensor, *, largest: int = 1024) -> int:
    """The smallest batch size within 5 % of the best throughput, found by doubling; ``example`` is 1×C×H×W."""
    best_size, best_rate, size = 1, 0.0, 16
    while size <= largest:
        rate = throughput(model, example, size)
        if rate > best_rate * 1.05:
            best_size, best_rate = size, rate
        elif size >= 4 * best_size:
            break
        size *= 2
    return best_size


def throughput(model: nn.Module, example: Tensor, size: int) -> float:
    """Images a second in batches of ``size``."""
    return size / _seconds(model, example.expand(size, -1, -1, -1).contiguous())


def _seconds(model: nn.Module, images: Tensor) -> float:
    """Shortest of two timed forward passes after one warm-up."""
    times = []
    with torch.no_grad():
        for _ in range(3):
            _synchronize(images.device)
            start = time.perf_counter()
            model(images)
            _synchronize(images.device)
            times.append(time.perf_counter() - start)
    return min(times[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
