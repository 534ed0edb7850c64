"""Set how exactly passes are computed: deterministic kernels in full float32, softmax in float64."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def softmax64(logits: Tensor, *, single: bool = False) -> Tensor:
    """Return the softmax over the last axis as float64; devices without float64 compute it on the host, once a batch.

    ``single`` computes it in float32 first, as published code does; saturated networks then have ties at exactly 1.
    """
    if logits.device.type == "mps":
        logits = logits.cpu()
    return logits.softmax(-1).double() if single else logits.double().softmax(-1)


def sigmoid64(logits: Tensor, *, single: bool = False) -> Tensor:
    """Return the sigmoid of each logit as float64, computed where and as exactly as :func:`softmax64` would."""
    if logits.device.type == "mps":
        logits = logits.cpu()
    return logits.sigmoid().double() if single else logits.double().sigmoid()


def same64(values: Tensor, *, single: bool = False) -> Tensor:
    """Return values that are no logits as float64, where :func:`softmax64` would."""
    del single  # nothing is computed
    return (values.cpu() if values.device.type == "mps" else values).double()


@contextmanager
def tf32(*, on: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to TF32 (10 bits of the fraction) inside the block, if ``on``."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = on
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic kernels in full float32 wherever PyTorch has them; restore every switch afterwards.

    Kernels without a deterministic version (some backward passes on CUDA) run with PyTorch's warning.
    """
    memory: Any = torch.utils.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, filling = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    workspace = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # nothing here reads uninitialised memory
        torch.backends.cudnn.benchmark = False
        with tf32(on=False):
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        memory.fill_uninitialized_memory = filling
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
