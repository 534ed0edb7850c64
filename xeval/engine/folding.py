"""Make a faster network with the same logits (within 1e-5), for the passes that compute no explanation.

Every BatchNorm behind a convolution is folded into it (in evaluation mode both are linear), tensors use the channels
last layout, and on request the whole network is compiled. All of this is done to a copy. The explainers use the model
itself, because a folded convolution has other activations (a map of them before BatchNorm would shift by 8 to 17 %).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from xeval.errors import UsageError
from xeval.models.reading import graph_of, read_alike
from xeval.perturb.draws import normal
from xeval.runtime.endings import first_line
from xeval.runtime.memory import is_out_of_memory

TOLERANCE = 1e-5  # largest difference of logits, relative to the largest logit where that exceeds 1
IMAGES = 2

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """The form of a network for passes without explanation: ``forward`` takes any batch, ``full`` whole batches."""

    forward: Forward
    full: Forward
    layout: torch.memory_format = torch.contiguous_format
    folded: bool = False
    compiled: bool = False

    def __call__(self, images: Tensor, *, whole: bool = False) -> Tensor:
        """Return the logits (N, classes) of N×C×H×W images; ``whole`` says that N is the batch size."""
        return (self.full if whole else self.forward)(images.contiguous(memory_format=self.layout))

    def describe(self) -> dict[str, str | bool]:
        """Return the description of the network that is written beside the scores."""
        layout = "channels last" if self.layout == torch.channels_last else "contiguous"
        return {"folded": self.folded, "compiled": self.compiled, "layout": layout}


def plain(model: nn.Module) -> Network:
    """Return a network that runs the model as it is."""
    return Network(model, model)


def network_of(model: nn.Module, example: Tensor) -> Network:
    """Return the fastest form of a frozen model whose logits stay within 1e-5; ``example`` is 1×C×H×W on its device.

    A step is left out if the model does not allow it or if it would change the logits.
    """
    keys = torch.arange(IMAGES, device=example.device)
    images = normal(0, "network", keys, 1, example.numel()).reshape(IMAGES, *example.shape[1:]).to(example)
    with torch.no_grad():
        logits = model(images)
        copy = folded(model, images, logits)
        forward = model if copy is None else copy
        last = _agree(forward, images.contiguous(memory_format=torch.channels_last), logits)
    last = last and (copy is None or _laid_channels_last(copy))
    layout = torch.channels_last if last else torch.contiguous_format
    return Network(forward, forward, layout, folded=copy is not None)


def _laid_channels_last(copy: nn.Module) -> bool:
    """Lay the weights of a copy channels last; returns whether all of them can be (tensors of rank 5 cannot)."""
    try:
        copy.to(memory_format=torch.channels_last)
    except RuntimeError:
        copy.to(memory_format=torch.contiguous_format)
        return False
    return True


def folded(model: nn.Module, images: Tensor, logits: Tensor) -> nn.Module | None:
    """Return a copy with every BatchNorm folded into the convolution before it, or None if its logits would differ.

    The convolution gets the weights and biases

        w' = w · γ/√(σ² + ε),  b' = (b − μ) · γ/√(σ² + ε) + β
    """
    from torch.fx.experimental.optimization import fuse

    try:
        copy = read_alike(fuse(fx.GraphModule(model, graph_of(model)), no_trace=True), model)
    except Exception:  # tracing a foreign forward pass can raise anything; the model is then left as it is
        return None
    return copy if _agree(copy, images, logits) else None


def _agree(network: Forward, images: Tensor, logits: Tensor) -> bool:
    """Return whether a form of the model gives the same logits for the images; the meta device compares shapes only."""
    try:
        found = network(images)
    except RuntimeError:  # a view inside the network needs contiguous memory
        return False
    if not isinstance(found, Tensor) or found.shape != logits.shape:
        return False
    scale = logits.abs().amax().clamp_min(1)
    return found.is_meta or bool(((found - logits).abs() <= TOLERANCE * scale).all())


def compiled(network: Network, batch: Tensor) -> Network:
    """Return the network, compiled by TorchInductor with frozen weights for whole batches of the size of ``batch``.

    Only whole batches use the compiled code, since each other size would be compiled separately. The compilation takes
    place here.

    Raises:
        UsageError: the compiler fails.
    """
    full: Forward = torch.compile(network.forward, dynamic=False, options={"freezing": True})
    fast = replace(network, full=full, compiled=True)
    try:
        with torch.no_grad():
            fast(batch, whole=True)
    except Exception as error:  # compilers raise errors of many types
        if is_out_of_memory(error):
            raise
        raise UsageError(f"the network cannot be compiled ({first_line(error)})", "leave out --compile on") from None
    return fast
