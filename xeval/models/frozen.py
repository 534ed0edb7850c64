"""Put a network into the mode in which it is scored, and make a copy of it with fresh weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from xeval.errors import XevalError


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode and restore the modules' training flags; ensure that no buffer changes by a byte.

    Raises:
        XevalError: BatchNorm statistics (or any other buffer) changed in the body.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with evaluating(model):
        yield
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
        if changed:
            raise XevalError(
                f"scoring changed the model's buffer {changed[0]!r}", "use a model whose eval mode leaves buffers alone"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode and restore the modules' training flags."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def reinitialized(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy in evaluation mode whose layers have new initial weights; the model itself does not change.

    The weights are drawn on the host, so that every device gets the same ones; torch's random state is restored.
    Parameters that no layer can reset (class tokens, positions) are shuffled.
    """
    device = next(model.parameters()).device
    fresh = copy.deepcopy(model)
    if device.type != "meta":  # the meta device has nothing to move
        fresh = fresh.cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel(), device=parameter.device)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return fresh.to(device).eval()
