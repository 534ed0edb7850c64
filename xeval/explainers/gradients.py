"""Compute gradients of the target's logit with respect to the image, and methods based on them, through captum.

All maps are N×1×H×W. Methods that share out the score among the input values (input×gradient, integrated gradients,
DeepLift) are summed over the colour channels, so that what they guarantee about sums stays true, and their unit is
``location``. Methods that give a rate of change (saliency, SmoothGrad, guided backpropagation) are reduced to the
largest absolute value over the channels, as Simonyan et al. do, and their unit is ``gradient``. Guided
backpropagation belongs to them: its rule changes which paths count, but its values are still score per unit of input
and are not multiplied by the input. The baseline is 0, the data set's mean colour.

The methods use the input only and ignore ``layer``. Source of the implementations: Kokhlikyan et al., "Captum: A
unified and generic model interpretability library for PyTorch", 2020.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from xeval.errors import UsageError
from xeval.explainers import chunks
from xeval.explainers.base import explainer
from xeval.explainers.graph import INSTEAD, require_calls, require_logits, require_modules, require_used_once, trace
from xeval.models.reading import read_alike
from xeval.perturb.draws import normal

INTEGRATION_STEPS = 50
SMOOTHGRAD_DRAWS = 32
SMOOTHGRAD_SIGMA = 0.15

RELUS = (nn.ReLU, nn.MaxPool2d)
RESCALED = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d)


def in_chunks(images: Tensor, targets: Tensor, attribute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compute ``attribute(images, targets)`` for as many images at a time as a backward pass may hold.

    Every chunk is a copy that requires gradients, so neither the caller's tensor nor the model's gradients change.
    """
    size = chunks.at_once(images, chunks.BACKWARD_PIXELS)
    parts = zip(torch.split(images, size), torch.split(targets, size), strict=True)
    with quiet():
        return torch.cat([attribute(x.detach().clone().requires_grad_(), y).detach() for x, y in parts])


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings with which captum announces its hooks; captum also removes those hooks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks")
        yield


def largest(attributions: Tensor) -> Tensor:
    """Return the largest absolute value over the channels, N×1×H×W."""
    return attributions.abs().amax(1, keepdim=True)


def summed(attributions: Tensor) -> Tensor:
    """Return the sum over the channels, N×1×H×W."""
    return attributions.sum(1, keepdim=True)


@explainer("saliency", units="gradient", citation="Simonyan et al., ICLR Workshop 2014")
def saliency(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """How much the logit reacts to each pixel.

        A = max over channels of |∂ logit / ∂ x|

    It is computed by captum's Saliency.
    """
    from captum.attr import Saliency

    method = Saliency(model)
    return in_chunks(images, targets, lambda x, y: largest(method.attribute(x, y)))


@explainer("input-x-gradient", units="location", citation="Shrikumar et al., 2016")
def input_x_gradient(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient times the image: the share of each pixel in a linear approximation of the logit.

        A = Σ over channels of x · ∂ logit / ∂ x

    The map is signed. It is computed by captum's InputXGradient.
    """
    from captum.attr import InputXGradient

    method = InputXGradient(model)
    return in_chunks(images, targets, lambda x, y: summed(method.attribute(x, y)))


@explainer("integrated-gradients", units="location", citation="Sundararajan et al., ICML 2017")
def integrated_gradients(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The image times the mean gradient on the way to it from the data set's mean colour.

        A = Σ over channels of x · ∫₀¹ ∂ logit(t·x) / ∂ x dt        Σ A = logit(x) − logit(0)

    The integral is computed at 50 Gauss-Legendre points, and the equation for Σ A holds up to their error. The method
    is computed by captum's IntegratedGradients.
    """
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(model)

    def attribute(x: Tensor, y: Tensor) -> Tensor:
        size = chunks.at_once(x, chunks.BACKWARD_PIXELS)
        return summed(method.attribute(x, target=y, n_steps=INTEGRATION_STEPS, internal_batch_size=size))

    return in_chunks(images, targets, attribute)


@explainer("smoothgrad", units="gradient", citation="Smilkov et al., 2017")
def smoothgrad(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Saliency of the mean gradient over noisy copies of the image.

        A = max over channels of |mean over 32 draws of ∂ logit(x + noise) / ∂ x|

    The noise is N(0, σ²) with σ = 0.15 · (max x − min x), as the authors recommend. Draw j is the same field of noise
    for every image. So an image's map depends on that image alone, and the map of a perturbed image differs by the
    perturbation alone.
    """
    from captum.attr import Saliency

    method = Saliency(model)
    key = torch.zeros(1, dtype=torch.int64, device=images.device)
    fields = normal(0, "smoothgrad", key, SMOOTHGRAD_DRAWS, images[0].numel())[0]

    def attribute(x: Tensor, y: Tensor) -> Tensor:
        sigma = SMOOTHGRAD_SIGMA * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)).detach()
        total = torch.zeros_like(x)
        for field in fields:
            noisy = (x.detach() + sigma * field.reshape(x.shape[1:])).requires_grad_()
            total += method.attribute(noisy, y, abs=False)
        return largest(total / SMOOTHGRAD_DRAWS)

    return in_chunks(images, targets, attribute)


@explainer("guided-backprop", units="gradient", citation="Springenberg et al., ICLR Workshop 2015")
def guided_backprop(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Saliency with a backward pass in which every ReLU lets only positive gradients pass.

        A = max over channels of |∂ logit / ∂ x with ReLU's derivative 1[input > 0] · 1[gradient > 0]|

    Its maps are known to look much the same for networks with random weights (Adebayo et al., NeurIPS 2018), so
    compare it with the control ``untrained``. It is computed by captum's GuidedBackprop.

    Raises :class:`~xeval.errors.UsageError` for networks with activations other than ReLU, or with ReLUs that are
    not modules, to which the rule would silently not apply.
    """
    from captum.attr import GuidedBackprop

    graph = trace(model, "guided-backprop")
    require_modules(model, graph, "guided-backprop", RELUS)
    require_calls(graph, "guided-backprop")
    method = GuidedBackprop(model)
    return in_chunks(images, targets, lambda x, y: largest(method.attribute(x, y)))


@explainer("deep-lift", units="location", citation="Shrikumar et al., ICML 2017 (rescale rule)")
def deep_lift(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Shares of the difference in logit between the image and the data set's mean colour, by the rescale rule.

        A = Σ over channels of x · m        Σ A = logit(x) − logit(0)

    m is the gradient in which the derivative of every non-linear module is replaced by its difference quotient between
    image and baseline. It is computed by captum's DeepLift on a copy in which pooling windows lie side by side, because
    on the network itself captum loses contributions at max pooling behind a ReLU.

    Raises :class:`~xeval.errors.UsageError` for networks that use an activation module twice (torchvision's ResNets)
    or compute something non-linear that the rule does not know.
    """
    from captum.attr import DeepLift

    method = DeepLift(separated(model))
    return in_chunks(images, targets, lambda x, y: summed(method.attribute(x, baselines=0, target=y)))


def separated(model: nn.Module) -> fx.GraphModule:
    """Rebuild the network, with the same parameters, so that captum's rules take effect.

    Two modules with rules that share a tensor (a pooling right behind an activation) cancel each other: the lower one
    reads the gradient before the upper one has replaced it. So each module gets a copy as its input. The rule of max
    pooling keeps one contribution for every position, so overlapping windows are laid side by side. This function also
    makes the checks for :func:`deep_lift`.
    """
    require_logits(model, "deep-lift")
    graph = trace(model, "deep-lift")
    require_modules(model, graph, "deep-lift", RESCALED)
    require_calls(graph, "deep-lift")
    require_used_once(model, graph, "deep-lift", RESCALED)
    pools: dict[str, nn.MaxPool2d] = {}
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        module = model.get_submodule(node.target)
        if isinstance(module, RESCALED):
            with graph.inserting_before(node):
                node.args = (graph.call_method("clone", (node.args[0],)),)
        if isinstance(module, nn.MaxPool2d):
            pools[node.target] = module
    network = read_alike(fx.GraphModule(model, graph), model)
    for name, pool in pools.items():
        network.add_submodule(name, nn.Sequential(Windows(pool), nn.MaxPool2d(pool.kernel_size)))
    return network


class Windows(nn.Module):
    """A layer that lays the h×w windows of max pooling side by side: N×C×H×W → N×C×(h·k)×(w·k)."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        if _pair(pool.dilation) != (1, 1) or pool.ceil_mode:
            raise UsageError("deep-lift has no rule for max pooling with dilation or ceil_mode", INSTEAD)
        self.kernel, self.stride, self.padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Lay the windows side by side; padding is the lowest finite number, so that it is never the maximum."""
        (height, width), (down, right) = self.padding, self.stride
        padded = F.pad(x, (width, width, height, height), value=torch.finfo(x.dtype).min)
        windows = padded.unfold(2, self.kernel[0], down).unfold(3, self.kernel[1], right)
        return windows.transpose(3, 4).flatten(4, 5).flatten(2, 3)
