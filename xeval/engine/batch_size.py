"""Find how many images to pass through a network at a time, and measure how fast they go."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from xeval.engine.devices import synchronize
from xeval.engine.folding import Forward
from xeval.runtime.memory import is_out_of_memory


def probe_batch_size(network: Forward, example: Tensor, *, largest: int = 1024) -> int:
    """Return the smallest batch size within 5 % of the best throughput, found by doubling; ``example`` is 1×C×H×W."""
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
    """Return the images per second in batches of ``size``."""
    return size / _seconds(network, copies(example, size))


def _rate_if_it_fits(network: Forward, example: Tensor, size: int) -> float | None:
    try:
        return throughput(network, example, size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def copies(example: Tensor, size: int) -> Tensor:
    """Return a batch of ``size`` copies of one image 1×C×H×W."""
    return example.expand(size, -1, -1, -1).contiguous()


def _seconds(network: Forward, images: Tensor) -> float:
    """Return the shorter of two timed forward passes after one warm-up, in seconds."""
    times = []
    with torch.no_grad():
        for _ in range(3):
            synchronize(images.device)
            start = time.perf_counter()
            network(images)
            synchronize(images.device)
            times.append(time.perf_counter() - start)
    return min(times[1:])
