"""Put a network into the mode in which it is scored, watch that it stays as it is, and copy it with fresh weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from xeval.errors import UsageError


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode and restore the modules' training flags; ensure that no buffer changes by a byte.

    Raises:
        UsageError: BatchNorm statistics (or any other buffer) changed in the body.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    with evaluating(model):
        yield
        now = dict(model.named_buffers())
        changed = [name for name, buffer in before.items() if name not in now or not torch.equal(now[name], buffer)]
        if changed:
            raise UsageError(
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


def device_of(model: nn.Module) -> torch.device:
    """Return where a network's tensors lie, the host for one without any."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def reinitialized(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy in evaluation mode whose layers have new initial weights; the model itself does not change.

    The weights are drawn on the host, so that every device gets the same ones; torch's random state is restored.
    Parameters that no layer can reset (class tokens, positions) are shuffled.
    """
    device = device_of(model)
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


def unchanged(model: nn.Module) -> Callable[[str], None]:
    """Return a function that raises :class:`UsageError` where parameters or buffers are no longer what they are now."""
    before = {name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}

    def require(who: str) -> None:
        now = model.state_dict()
        changed = [name for name, value in before.items() if not _same(value, now.get(name))]
        if changed:
            raise UsageError(
                f"the {who} changes the weights of the network ({changed[0]}), so nothing after it would be true",
                "mend it: let it work on a copy, or restore what it changes",
            )

    return require


def _same(value: Tensor, now: Tensor | None) -> bool:
    return now is not None and value.shape == now.shape and bool(((value == now) | (value.isnan() & now.isnan())).all())
