"""Make a faster network with the same logits (within 1e-5), for the passes that compute no explanation.

Every BatchNorm behind a convolution is folded into it (in evaluation mode both are linear), tensors use the channels
last layout, and on request the whole network is compiled. All of this is done to a copy. The explainers use the model
itself, because a folded convolution has other activations (a map of them before BatchNorm would shift by 8 to 17 %).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from xeval.engine.precision import tf32
from xeval.errors import UsageError
from xeval.models.reading import graph_of, read_alike
from xeval.perturb.draws import normal
from xeval.runtime.endings import first_line
from xeval.runtime.memory import is_out_of_memory
from xeval.runtime.precisions import Precision

TOLERANCE = 1e-5  # largest difference of logits, relative to the largest logit where that exceeds 1
IMAGES = 2

Forward = Callable[[Tensor], Tensor]
HALF: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Network:
    """The form of a network for passes without explanation: ``forward`` takes any batch, ``full`` whole batches.

    ``rates`` are the images a second of the forms that were timed, by name.
    """

    forward: Forward
    full: Forward
    layout: torch.memory_format = torch.contiguous_format
    folded: bool = False
    compiled: bool = False
    precision: Precision = "float32"
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What distinguishes the form from others of the same model: ``folded, channels last``."""
        return f"{'folded' if self.folded else 'as it is'}, {self._laid}"

    @property
    def _laid(self) -> str:
        return "channels last" if self.layout == torch.channels_last else "contiguous"

    def __call__(self, images: Tensor, *, whole: bool = False) -> Tensor:
        """Return the logits (N, classes) of N×C×H×W images; ``whole`` says that N is the batch size."""
        forward = self.full if whole else self.forward
        given = images.contiguous(memory_format=self.layout)
        if self.precision == "float32":
            return forward(given)
        with tf32(on=self.precision == "tf32"):
            return forward(given.to(HALF.get(self.precision, given.dtype))).float()

    def describe(self) -> dict[str, Any]:
        """Return the description of the network that is written beside the scores."""
        rates = {"images_per_second": {name: round(rate, 1) for name, rate in self.rates.items()}} if self.rates else {}
        precision = {} if self.precision == "float32" else {"precision": self.precision}
        return {"folded": self.folded, "compiled": self.compiled, "layout": self._laid, **precision, **rates}


def plain(model: nn.Module) -> Network:
    """Return a network that runs the model as it is."""
    return Network(model, model)


def network_of(model: nn.Module, example: Tensor) -> Network:
    """Return the usual form of a frozen model whose logits stay within 1e-5; ``example`` is 1×C×H×W on its device.

    It is folded and channels last, as far as the model allows it and its logits stay.
    """
    return forms_of(model, example)[0]


def forms_of(model: nn.Module, example: Tensor) -> list[Network]:
    """Return the forms of a frozen model whose logits stay within 1e-5, the usual one first, the model itself last."""
    keys = torch.arange(IMAGES, device=example.device)
    images = normal(0, "network", keys, 1, example.numel()).reshape(IMAGES, *example.shape[1:]).to(example)
    with torch.no_grad():
        logits = model(images)
        copy = folded(model, images, logits)
        found = [] if copy is None else [replace(plain(copy), folded=True)]
        found.append(plain(model))
        last = [form for form in map(_channels_last, found) if form is not None and _agree(form, images, logits)]
    return sorted([*last, *found], key=lambda form: (not form.folded, form.layout != torch.channels_last))


def _channels_last(form: Network) -> Network | None:
    """Return the form with images, and the weights of a folded copy, laid channels last; None where they cannot be.

    The weights of the model itself stay as they are, because it is explained.
    """
    if form.folded:
        copy = deepcopy(cast("nn.Module", form.forward))
        if not _laid_channels_last(copy):
            return None
        form = replace(plain(copy), folded=True)
    return replace(form, layout=torch.channels_last)


def in_precision(form: Network, precision: Precision) -> Network:
    """Return a form whose passes are computed in another precision; its weights are converted once, in a copy.

    Only the logits are float32 again; whoever compares them must allow for the precision (``docs/speed.md``).
    """
    dtype = HALF.get(precision)
    if dtype is None or not isinstance(form.forward, nn.Module):
        return replace(form, precision=precision)
    copy = deepcopy(form.forward).to(dtype)
    return replace(form, forward=copy, full=copy, precision=precision)


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
        UsageError: the compiler fails, or its code gives other logits.
    """
    full: Forward = torch.compile(network.forward, dynamic=False, options={"freezing": True})
    fast = replace(network, full=full, compiled=True)
    try:
        with torch.no_grad():
            found = fast(batch, whole=True)
    except Exception as error:  # compilers raise errors of many types
        if is_out_of_memory(error):
            raise
        raise UsageError(f"the network cannot be compiled ({first_line(error)})", "leave out --compile on") from None
    with torch.no_grad():
        if network.precision == "float32" and not _agree(lambda _batch: found, batch, network(batch)):
            raise UsageError("the compiled network gives other logits", "leave out --compile on")
    return fast
