"""Makes optimisers and learning rates.

The rate is a pure function of epoch and step, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from xeval.training.settings import Optimizer


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """Return SGD with momentum, AdamW, or RAdam with the weight decay of its paper.

    On CUDA a step of the first two is one kernel (``fused``); of RAdam PyTorch has none.
    """
    learned, decay = list(parameters), settings.weight_decay
    fused = True if all(one.device.type == "cuda" for one in learned) else None
    if settings.name == "sgd":
        return torch.optim.SGD(learned, settings.lr, momentum=settings.momentum, weight_decay=decay, fused=fused)
    if settings.name == "adamw":
        return torch.optim.AdamW(learned, settings.lr, weight_decay=decay, fused=fused)
    return torch.optim.RAdam(learned, settings.lr, weight_decay=decay)


def learning_rate(settings: Optimizer, epoch: int, epochs: int, step: int, steps: int) -> float:
    """Return the rate of step ``step`` (from 0) of ``steps`` in epoch ``epoch`` (from 1) of ``epochs``.

    It changes once per epoch. During the warm-up it changes at every step, linearly from ``warmup_from`` to the
    schedule's value at the warm-up's last epoch (the convention of SupContrast). A cosine ``from`` the warm-up falls
    from ``lr`` in the first epoch after it (the convention of torch's CosineAnnealingLR).
    """
    warm = min(settings.warmup_epochs, epochs)
    if epoch > warm:
        return _scheduled(settings, epoch, epochs)
    done = ((epoch - 1) * steps + step) / (warm * steps)
    return settings.warmup_from + done * (_scheduled(settings, warm, epochs) - settings.warmup_from)


def _scheduled(settings: Optimizer, epoch: int, epochs: int) -> float:
    if settings.schedule == "cosine":
        low = settings.lr * settings.final_factor
        return low + (settings.lr - low) * (1 + math.cos(math.pi * _done(settings, epoch, epochs))) / 2
    if settings.schedule == "step":
        return float(settings.lr * settings.gamma ** sum(epoch > milestone for milestone in settings.milestones))
    return settings.lr


def _done(settings: Optimizer, epoch: int, epochs: int) -> float:
    """Return how much of the cosine's half period has passed in an epoch."""
    if settings.cosine_from == "start":
        return epoch / epochs
    warm = min(settings.warmup_epochs, epochs - 1)
    return max(epoch - 1 - warm, 0) / (epochs - warm)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
