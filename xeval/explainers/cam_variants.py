"""Compute variants of Grad-CAM with the same hook: other weights for the channels of one layer, or none.

Like :mod:`xeval.explainers.cam`, they return signed maps N×1×h×w on the layer's own grid and read nothing back to the
host. pytorch-grad-cam clips its maps at 0 and scales them to [0, 1]; apart from that, the numbers are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xeval.explainers import chunks
from xeval.explainers.base import explainer
from xeval.explainers.cam import activations_and_gradient, activations_of, upsample

STABILISER, XGRAD_STABILISER = 1e-6, 1e-7


@explainer("grad-cam++", units="location", citation="Chattopadhyay et al., WACV 2018")
def grad_cam_plus_plus(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Grad-CAM with weights that count the positions where a channel raises the logit, so that several small objects
    weigh as much as a large one.

        A = Σ_k w_k A_k,  w_k = Σ_ij α_ij ReLU(g_ij),  α = g² / (2 g² + g³ Σ_ij A_k + 1e-6),  g = ∂ logit / ∂ A_k

    The paper's score exp(logit) only multiplies each map by a positive number, so it is left out. The 1e-6 in the
    denominator comes from pytorch-grad-cam: it changes the result where gradients are below about 1e-3, and every
    published number of that library contains it.
    """
    activations, g = activations_and_gradient(model, layer, images, targets)
    total = activations.sum((-2, -1), keepdim=True)
    alpha = g**2 / (2 * g**2 + total * g**3 + STABILISER)
    weights = (alpha * g.clamp_min(0)).sum((-2, -1), keepdim=True)
    return (weights * activations).sum(1, keepdim=True)


@explainer("layer-cam", units="location", citation="Jiang et al., IEEE TIP 2021")
def layer_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The channels of one layer, each position weighted with its own positive gradient.

        A = Σ_k ReLU(g_k) A_k,  g = ∂ logit / ∂ A_k

    The authors propose it for early layers too, whose maps are finer.
    """
    activations, gradient = activations_and_gradient(model, layer, images, targets)
    return (gradient.clamp_min(0) * activations).sum(1, keepdim=True)


@explainer("hires-cam", units="location", citation="Draelos and Carin, 2020")
def hires_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The channels of one layer, each position weighted with its own gradient.

        A = Σ_k g_k A_k,  g = ∂ logit / ∂ A_k

    No gradient is averaged, so every position is weighted with what the logit makes of it. Where a linear layer reads
    all positions of the layer, the map adds up to the logit − its bias. Behind global average pooling it is Grad-CAM.
    """
    activations, gradient = activations_and_gradient(model, layer, images, targets)
    return (gradient * activations).sum(1, keepdim=True)


@explainer("xgrad-cam", units="location", citation="Fu et al., BMVC 2020")
def xgrad_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Grad-CAM with gradients that are averaged by the activations, so that no channel counts where it is 0.

        A = Σ_k w_k A_k,  w_k = Σ_ij g_ij A_k,ij / (Σ_ij A_k,ij + 1e-7),  g = ∂ logit / ∂ A_k

    The 1e-7 in the denominator is that of pytorch-grad-cam. Weights grow without limit where the activations of a
    channel cancel out, which those behind a ReLU do not.
    """
    activations, gradient = activations_and_gradient(model, layer, images, targets)
    total = activations.sum((-2, -1), keepdim=True) + XGRAD_STABILISER
    weights = (gradient * activations / total).sum((-2, -1), keepdim=True)
    return (weights * activations).sum(1, keepdim=True)


@explainer("eigen-cam", units="location", citation="Muhammad and Yeasin, IJCNN 2020")
def eigen_cam(model: nn.Module, layer: str, images: Tensor, _targets: Tensor) -> Tensor:
    """The activations of one layer projected on their first principal component, along which they vary most.

        A = (F − mean F) v,  F the h·w×K activations, v their first right singular vector

    Positions are the observations and channels the variables, centred as in pytorch-grad-cam (the paper does not
    centre). The sign is whatever the singular value decomposition returns. It differs between linear algebra libraries
    (numpy's, which pytorch-grad-cam uses, and torch's), so a map may be inverted. ``eigen-cam-numpy`` takes
    numpy's, and ``eigen-cam-signed`` corrects the sign.
    """
    return first_component(activations_of(model, layer, images))


@explainer("eigen-cam-numpy", units="location", citation="Muhammad and Yeasin, IJCNN 2020")
def eigen_cam_numpy(model: nn.Module, layer: str, images: Tensor, _targets: Tensor) -> Tensor:
    """``eigen-cam`` with the sign that pytorch-grad-cam gives it: that of numpy's singular value decomposition.

        A = (F − mean F) v,  F the h·w×K activations, v their first right singular vector as numpy returns it

    It is computed on the host, image by image. The sign depends on the linear algebra library that numpy was built
    with, so it can differ between machines, but not between this explainer and pytorch-grad-cam in one process.
    """
    activations = activations_of(model, layer, images)
    components = np.stack([_numpy_component(one) for one in activations.cpu().numpy()])
    return torch.from_numpy(components).unsqueeze(1).to(activations)


def _numpy_component(activations: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the projection of K×h×w activations on the first right singular vector that numpy finds, h×w.

    pytorch-grad-cam asks for all K singular vectors. The first is the same without the others, up to 40 times faster.
    """
    table = activations.reshape(len(activations), -1).T
    centred = table - table.mean(0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    projection: NDArray[np.floating] = centred @ components[0]
    return projection.reshape(activations.shape[1:])


@explainer("eigen-cam-signed", units="location", citation="Muhammad and Yeasin, IJCNN 2020; sign corrected")
def eigen_cam_signed(model: nn.Module, layer: str, images: Tensor, _targets: Tensor) -> Tensor:
    """``eigen-cam`` with a defined sign: the map correlates positively, over positions, with the mean activation of the
    channels.

        A = ± (F − mean F) v,  F the h·w×K activations, v their first right singular vector
    """
    activations = activations_of(model, layer, images)
    projection = first_component(activations)
    mean = activations.mean(1, keepdim=True)
    agreement = (projection * (mean - mean.mean((-2, -1), keepdim=True))).sum((-2, -1), keepdim=True)
    return torch.where(agreement < 0, -projection, projection)


def first_component(activations: Tensor) -> Tensor:
    """Return the projection of N×K×h×w activations on the first principal component over channels, N×1×h×w."""
    table = activations.flatten(2).transpose(1, 2)
    centred = table - table.mean(1, keepdim=True)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    projection: Tensor = centred @ components[:, 0, :, None]
    return projection.reshape(len(activations), 1, *activations.shape[-2:])


@explainer("score-cam", units="location", citation="Wang et al., CVPR Workshops 2020")
def score_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The channels of one layer, each weighted with the logit that the image has when it is seen through that channel.

        A = Σ_k softmax_k(S_k) A_k,  S_k = logit(x · m_k),  m_k = channel k at the image's size, min-max scaled

    Channel k is upsampled (bilinear, align_corners False), min-max scaled to [0, 1] on its own (a constant channel
    becomes 0) and multiplied with the normalised image, so what it hides fades to the data set's mean colour. The
    paper subtracts the logit of a baseline image from every S_k; the softmax over channels cancels it. It costs K
    forward passes per image, in chunks of channels.
    """
    activations = activations_of(model, layer, images)
    channels = max(1, chunks.at_once(images, chunks.FORWARD_PIXELS) // len(images))
    parts = [_channel_scores(model, part, images, targets) for part in torch.split(activations, channels, dim=1)]
    weights = torch.cat(parts, 1).softmax(1)
    return torch.einsum("nk,nkhw->nhw", weights, activations).unsqueeze(1)


def _channel_scores(model: nn.Module, activations: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the targets' logits (N, k) for each image multiplied by each of its k scaled channels."""
    count, channels = activations.shape[:2]
    size = (images.shape[-2], images.shape[-1])
    masks = upsample(activations.flatten(0, 1).unsqueeze(1), size)
    low, high = masks.amin((-2, -1), keepdim=True), masks.amax((-2, -1), keepdim=True)
    masks = (masks - low) / (high - low + 1e-8)
    seen = images.repeat_interleave(channels, 0) * masks
    with torch.no_grad():
        logits: Tensor = model(seen).gather(1, targets.repeat_interleave(channels)[:, None])
    return logits.reshape(count, channels)
