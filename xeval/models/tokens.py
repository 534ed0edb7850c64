"""Choose the layer of a network whose map or tokens are explained where nobody names one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.models.frozen import evaluating
from xeval.models.layers import last_conv_stage
from xeval.models.layout import example, grid_of


def explainable_layer(model: nn.Module, images: Tensor, answer: Callable[[Tensor], Tensor]) -> str:
    """Return the last feature map of a network, or the last normalised tokens that its ``answer`` depends on.

    ``answer`` maps images to the features or logits of the network, N×K. A class token alone goes on to the head of
    many transformers, so that the patches behind the last attention change nothing: they are passed over.

    Raises:
        UsageError: the network has neither.
    """
    try:
        return last_conv_stage(model, images[:1])
    except UsageError:
        return last_token_layer(model, images, answer)


def last_token_layer(model: nn.Module, images: Tensor, answer: Callable[[Tensor], Tensor]) -> str:
    """Return the last normalisation whose tokens are a grid of patches with a gradient; the errors are as above."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, _i, made, name=name: seen.append((name, module, made)))
        for name, module in model.named_modules()
        if "Norm" in type(module).__name__
    ]
    try:
        with evaluating(model), torch.enable_grad():
            found = answer(example(images))
    finally:
        for handle in handles:
            handle.remove()
    tokens = [one for one in seen if isinstance(one[2], Tensor) and one[2].ndim == 3 and one[2].requires_grad]
    weights = torch.arange(found.numel(), device=found.device).cos().reshape(found.shape)
    gradients = torch.autograd.grad((found * weights).sum(), [made for _, _, made in tokens], allow_unused=True)
    for (name, module, made), gradient in zip(reversed(tokens), reversed(gradients), strict=True):
        if gradient is not None and _reaches_patches(model, module, images, (made, gradient)):
            return name
    raise UsageError("the network has no feature map and no grid of tokens to explain", "name a layer: excon.layer")


def _reaches_patches(model: nn.Module, module: nn.Module, images: Tensor, about: tuple[Tensor, Tensor]) -> bool:
    """Return whether the patches among the tokens are known and have a gradient."""
    made, gradient = about
    try:
        grid = grid_of(model, module, images[:1], made)
    except UsageError:
        return False
    return bool(grid(gradient).abs().amax() > 0)
