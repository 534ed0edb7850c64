"""Measure how fast the forms of a network are, and choose one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from xeval.engine.devices import synchronize
from xeval.engine.folding import Forward, Network, in_precision
from xeval.runtime.memory import if_it_fits
from xeval.runtime.precisions import Precision

RUNS = 3  # a warm-up and two timed ones
LEAST, LARGEST = 8, 256  # images in the batches that forms are compared with
MARGIN = 1.03  # how many times as fast another form must be than the usual one


def seconds(network: Forward, images: Tensor) -> float:
    """Return the seconds of one forward pass of N×C×H×W images."""
    with torch.no_grad():
        synchronize(images.device)
        start = time.perf_counter()
        network(images)
        synchronize(images.device)
        return time.perf_counter() - start


def throughput(network: Forward, example: Tensor, size: int) -> float:
    """Return the images per second in batches of ``size``, best after a warm-up; :data:`RUNS` of them are passed."""
    images = copies(example, size)
    return size / min([seconds(network, images) for _ in range(RUNS)][1:])


def copies(example: Tensor, size: int) -> Tensor:
    """Return a batch of ``size`` copies of one image 1×C×H×W."""
    return example.expand(size, -1, -1, -1).contiguous()


def fastest(forms: Sequence[Network], batch: Tensor) -> Network:
    """Return the form with the highest throughput for a batch N×C×H×W, and the rates of all with it.

    The forms are timed in turns; each passes :data:`RUNS` batches. The usual one, which comes first, is kept unless
    another is faster by more than timings waver.
    """
    times: dict[str, list[float]] = {form.name: [] for form in forms}
    for _ in range(RUNS):
        for form in forms:
            times[form.name].append(seconds(form, batch))
    rates = {name: len(batch) / min(spent[1:]) for name, spent in times.items()}
    best = max(forms, key=lambda form: rates[form.name])
    chosen = best if rates[best.name] > MARGIN * rates[forms[0].name] else forms[0]
    return replace(chosen, rates=rates)


def fastest_that_fits(
    forms: Sequence[Network], example: Tensor, images: float, precision: Precision = "float32"
) -> Network:
    """Return the form that is fastest in a precision for copies of ``example``, the usual one where ``images`` suffice
    for none.

    At most ``images`` images are passed to find it. On a CPU it is the usual one without timing: CPUs are shared, and
    two runs of a command that took different forms would differ in the last bits.
    """
    if example.device.type == "cpu" or len(forms) == 1:
        return forms[0]
    timed = [in_precision(form, precision) for form in forms]
    size = int(min(LARGEST, images // (RUNS * len(forms))))
    while size >= LEAST:
        found = if_it_fits(partial(fastest, timed, copies(example, size)))
        if found is not None:
            return next(replace(form, rates=found.rates) for form in forms if form.name == found.name)
        images, size = images - RUNS * len(forms) * size, size // 2
        size = int(min(size, images // (RUNS * len(forms))))
    return forms[0]
