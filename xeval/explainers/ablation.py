"""Compute Ablation-CAM: every channel of one layer is switched off in a pass of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xeval.explainers import chunks
from xeval.explainers.base import explainer
from xeval.explainers.cam import capture
from xeval.models import find_layer
from xeval.models.layout import grid_of, places_of
from xeval.models.watch import replaced, tensor_of

SMALLEST = 1e-8  # of a logit that is divided by


@explainer("ablation-cam", units="location", citation="Desai and Ramaswamy, WACV 2020")
def ablation_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The channels of one layer, each weighted with the share of the logit that is lost without it.

        A = Σ_k w_k A_k,  w_k = (y − y_k) / |y|,  y the logit, y_k the logit with channel k set to 0 everywhere

    The paper divides by y, which turns the map of a class whose logit is negative; |y| is the same for positive logits.
    Among tokens, channels are switched off at the patches and stay at the others. pytorch-grad-cam sets a channel to
    0 only where the smallest activation of the layer is 0, and far below all activations elsewhere. It costs K forward
    passes per image, in chunks of channels.
    """
    with torch.no_grad():
        with capture(model, layer, leaf=True) as captured:
            whole = model(images).gather(1, targets[:, None])
        output = captured.output().detach()
        grid = grid_of(model, find_layer(model, layer), images, output)
        places = places_of(grid, output[:1]).flatten(1)
        channels = max(1, chunks.at_once(images, chunks.FORWARD_PIXELS) // len(images))
        parts = [_without(model, layer, part, images, targets) for part in torch.split(places, channels)]
    weights = (whole - torch.cat(parts, 1)) / whole.abs().clamp_min(SMALLEST)
    return torch.einsum("nk,nkhw->nhw", weights, grid(output)).unsqueeze(1)


def _without(model: nn.Module, layer: str, places: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the targets' logits (N, k) of each image without each of the k channels at ``places`` (k, h·w)."""

    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        tensor = tensor_of(output)
        assert tensor is not None  # it was captured before
        gone = tensor.flatten(1).scatter(1, places.repeat(len(images), 1), 0.0)
        return replaced(output, tensor, gone.reshape(tensor.shape))

    handle = find_layer(model, layer).register_forward_hook(hook)
    try:
        logits: Tensor = model(images.repeat_interleave(len(places), 0))
    finally:
        handle.remove()
    return logits.gather(1, targets.repeat_interleave(len(places))[:, None]).reshape(len(images), -1)
