"""Compute class activation maps with one forward hook.

Grad-CAM: Selvaraju et al., "Grad-CAM: Visual explanations from deep networks via gradient-based localization", 2017.
CAM: Zhou et al., "Learning deep features for discriminative localization", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.explainers.base import explainer
from xeval.models import Classifier
from xeval.models.layers import find_layer
from xeval.models.layout import grid_of, is_reshaped
from xeval.models.watch import replaced, tensor_of


@dataclass
class Captured:
    """The activations of the last forward pass through the captured layer; :func:`capture` fills it."""

    value: Tensor | None = None

    def output(self) -> Tensor:
        """Return the output as the layer gave it; raise :class:`UsageError` where there is none."""
        if self.value is None:
            raise UsageError("the explained layer is not used in a forward pass", "name another layer with --layer")
        return self.value


@contextmanager
def capture(model: nn.Module, layer: str, *, leaf: bool = False) -> Iterator[Captured]:
    """Record the output of ``layer``; with ``leaf``, cut the graph there, so that a backward pass ends at the layer.

    Where a layer gives several things, its output is the first tensor, as far as that is clear.
    """
    captured = Captured()

    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        tensor = tensor_of(output)
        if tensor is None:
            raise UsageError(
                f"the explained layer gives a {type(output).__name__}, not one tensor",
                "name a layer inside it with --layer",
            )
        captured.value = tensor.detach().requires_grad_() if leaf else tensor
        # The next layers get a clone, so that an in-place activation does not change the captured tensor.
        return replaced(output, tensor, captured.value.clone()) if leaf else None

    handle = find_layer(model, layer).register_forward_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()


def activations_and_gradient(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output A of ``layer`` and ∂ logit / ∂ A, both N×K×h×w; leave the model's own gradients unchanged.

    Maps that lie N×h×w×K are turned, tokens become the grid of their patches (:mod:`xeval.models.layout`).
    """
    with torch.enable_grad(), capture(model, layer, leaf=True) as captured:
        score = model(images).gather(1, targets[:, None]).sum()
    output = captured.output()
    grid = grid_of(model, find_layer(model, layer), images, output)
    (gradient,) = torch.autograd.grad(score, output, allow_unused=True)
    if gradient is None:
        raise UsageError("the score does not depend on the output of the explained layer", "name another with --layer")
    return grid(output.detach()), grid(gradient)


def activations_of(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the output of ``layer``, N×K×h×w."""
    with torch.no_grad(), capture(model, layer, leaf=True) as captured:
        model(images)
    output = captured.output().detach()
    return grid_of(model, find_layer(model, layer), images, output)(output)


def closed_form_applies(model: nn.Module, layer: str) -> bool:
    """Return whether the head is linear on ``layer``'s un-normalised average output, so that Grad-CAM = CAM / (h·w)."""
    linear = isinstance(model, Classifier) and isinstance(model.head, nn.Linear)
    return linear and not model.normalize_features and layer == model.pooled_layer and not is_reshaped()


def closed_form(activations: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """Return Grad-CAM of the logit without a backward pass: Σ_k w_ck A_k / (h·w), N×1×h×w.

    ``activations`` is N×K×h×w (the input of global average pooling), ``head_weight`` classes×K and ``targets`` (N,).
    """
    cells = activations.shape[-2] * activations.shape[-1]
    return torch.einsum("nkhw,nk->nhw", activations, head_weight[targets]).unsqueeze(1) / cells


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample N×1×h×w maps to N×1×H×W by bilinear interpolation (align_corners False).

    It computes a + w·(b − a), so that equal neighbours give exactly their value. Borders and flat parts of a map
    therefore stay exact ties, which the seeded tie-break orders in the same way in every batch.
    """
    if maps.shape[-2:] == size:
        return maps
    return _stretch(_stretch(maps, size[0], -2), size[1], -1)


def _stretch(maps: Tensor, size: int, dim: int) -> Tensor:
    """Interpolate linearly along one axis, with pixel centres at half-integers, clamped at the borders."""
    cells = maps.shape[dim]
    place = (torch.arange(size, device=maps.device, dtype=maps.dtype) + 0.5) * (cells / size) - 0.5
    place = place.clamp(0, cells - 1)
    low = place.floor().long()
    weight = place - low
    a, b = maps.index_select(dim, low), maps.index_select(dim, (low + 1).clamp_max(cells - 1))
    return torch.lerp(a, b, weight.unsqueeze(-1) if dim == -2 else weight)


@explainer("grad-cam", units="location", citation="Selvaraju et al., ICCV 2017")
def grad_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The channels of one layer, each weighted with the mean gradient of the logit with respect to it.

        A = Σ_k α_k A_k,  α_k = mean over positions of ∂ logit / ∂ A_k

    The map is signed: the paper's ReLU is left to the metrics that need it. It costs one forward pass where the layer
    feeds the pooling of a linear head (there α_k is the head's weight over h·w, which is CAM), one forward and one
    backward pass to the layer otherwise. The map is N×1×h×w; the model's own gradients do not change.
    """
    if closed_form_applies(model, layer) and isinstance(model, Classifier):
        with torch.no_grad():
            return closed_form(model.stages(images), model.linear.weight, targets)
    activations, gradient = activations_and_gradient(model, layer, images, targets)
    weights = gradient.mean((-2, -1), keepdim=True)
    return (weights * activations).sum(1, keepdim=True)
