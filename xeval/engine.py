"""Batched forward passes on the device: the only place where the metrics meet the network.

The passes of many images × many perturbations are packed into batches of one size. Nothing is read back to the host in
between; probabilities are the softmax in float64 of float32 logits, which removes spurious ties of saturated networks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.explainers.base import Explainer
from xeval.failures import is_out_of_memory, out_of_memory
from xeval.network import Forward, Network, plain

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
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
    """Counted, batched passes through one frozen network.

    ``model`` is what is explained, ``network`` the form of it that plain passes go through (the model itself unless
    given). Where memory does not suffice for a batch, it is halved for good and the pass repeated; no number depends on
    it.
    """

    def __init__(
        self, model: nn.Module, *, network: Network | None = None, batch_size: int = 256, single: bool = False
    ) -> None:
        self.model = model
        self.network = network or plain(model)
        self.batch_size = batch_size
        self.single = single
        self.passes = 0

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of N×C×H×W images, in batches."""
        self.passes += len(images)
        with torch.no_grad():
            return torch.cat(self._batches(lambda start, stop: self._pass(images[start:stop]), len(images)))

    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax (N, classes) in float64."""
        return softmax64(self.logits(images), single=self.single)

    def class_probability(self, compose: Compose, columns: int, targets: Tensor) -> Tensor:
        """Probability of each image's target class under ``columns`` perturbations of it: float64 (N, columns).

        Perturbed images are made batch by batch, so memory does not grow with the number of perturbations.
        """
        total = len(targets) * columns
        self.passes += total

        def passed(start: int, stop: int) -> Tensor:
            pair = torch.arange(start, stop, device=targets.device)
            rows = pair.div(columns, rounding_mode="floor")
            probability = softmax64(self._pass(compose(rows, pair % columns)), single=self.single)
            return probability.gather(1, targets[rows, None].to(probability.device))[:, 0]

        if not total:
            return torch.zeros(len(targets), columns, dtype=torch.float64, device=targets.device)
        with torch.no_grad():
            return torch.cat(self._batches(passed, total)).reshape(len(targets), columns)

    def explain(
        self, explainer: Explainer, layer: str, images: Tensor, targets: Tensor, model: nn.Module | None = None
    ) -> Tensor:
        """Maps N×1×h×w on the explainer's own grid, in batches; of another network where ``model`` is given."""
        explained = self.model if model is None else model

        def maps(start: int, stop: int) -> Tensor:
            return explainer.explain(explained, layer, images[start:stop], targets[start:stop])

        with _counted(explained) as seen:
            found = torch.cat(self._batches(maps, len(images)))
        self.passes += max(sum(seen), len(images))
        return found

    def rate(self, example: Tensor) -> float:
        """Images a second in the engine's batches, once it is known that they fit; ``example`` is 1×C×H×W."""
        with torch.no_grad():
            self._batches(lambda start, stop: self._pass(copies(example, stop - start)), self.batch_size)
        return throughput(self._pass, example, self.batch_size)

    def _pass(self, images: Tensor) -> Tensor:
        return self.network(images, whole=len(images) == self.batch_size)

    def _batches(self, run: Callable[[int, int], Tensor], total: int) -> list[Tensor]:
        """``run(start, stop)`` over consecutive batches up to ``total``, going on from the batch that did not fit."""
        parts: list[Tensor] = []
        start = 0
        while start < total or not parts:  # no image at all is one empty batch
            stop = min(start + self.batch_size, total)
            part = _if_it_fits(run, start, stop)
            if part is None:  # here nothing holds the tensors of the failed pass any more
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


def _if_it_fits(run: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor | None:
    """What ``run`` returns, or None where the memory does not suffice; leaving frees what the exception held."""
    try:
        return run(start, stop)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels in full float32 wherever PyTorch has them; every switch is as before afterwards.

    Kernels without a deterministic version (some backward passes on CUDA) run with PyTorch's warning.
    """
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    memory: Any = torch.utils.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, filling = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    workspace = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # nothing here reads uninitialised memory
        torch.backends.cudnn.benchmark = False
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        memory.fill_uninitialized_memory = filling
        torch.backends.cudnn.benchmark = benchmark
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """The sizes of the batches that go through the model, whoever sends them."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


def probe_batch_size(network: Forward, example: Tensor, *, largest: int = 1024) -> int:
    """The smallest batch size within 5 % of the best throughput, found by doubling; ``example`` is 1×C×H×W."""
    best_size, best_rate, size = 1, 0.0, 16
    while size <= largest:
        rate = _rate_if_it_fits(network, example, size)
        if rate is None:
            break
        if rate > best_rate * 1.05:
            best_size, best_rate = size, rate
        elif size >= 4 * best_size:
            break
        size *= 2
    return best_size


def throughput(network: Forward, example: Tensor, size: int) -> float:
    """Images a second in batches of ``size``."""
    return size / _seconds(network, copies(example, size))


def _rate_if_it_fits(network: Forward, example: Tensor, size: int) -> float | None:
    try:
        return throughput(network, example, size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def copies(example: Tensor, size: int) -> Tensor:
    """One image 1×C×H×W as a batch."""
    return example.expand(size, -1, -1, -1).contiguous()


def _seconds(network: Forward, images: Tensor) -> float:
    """Shortest of two timed forward passes after one warm-up."""
    times = []
    with torch.no_grad():
        for _ in range(3):
            synchronize(images.device)
            start = time.perf_counter()
            network(images)
            synchronize(images.device)
            times.append(time.perf_counter() - start)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
