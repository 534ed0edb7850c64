"""Compute guided Grad-CAM, the product of a fine map and of a coarse one."""

from __future__ import annotations

from torch import Tensor, nn

from xeval.explainers.base import explainer
from xeval.explainers.cam import grad_cam, upsample
from xeval.explainers.gradients import guided_backprop


@explainer(
    "guided-grad-cam", units="location", citation="Selvaraju et al., ICCV 2017; Springenberg et al., ICLR Workshop 2015"
)
def guided_grad_cam(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Guided backpropagation where Grad-CAM is positive: fine edges, as far as they lie where the class is seen.

        A = ReLU(C) · max over channels of |G|,  C Grad-CAM at the image's size, G guided backpropagation

    Grad-CAM is enlarged bilinearly (align_corners False). The product of a rate and a weight is no rate any more, so
    its unit is that of a location. The map is N×1×H×W. Most of what it shows it has from guided backpropagation, whose
    maps look much the same for networks with random weights: compare it with the control ``untrained``.

    Raises :class:`~xeval.errors.UsageError` for networks with activations other than ReLU, or with ReLUs that are not
    modules, to which the rule of guided backpropagation would silently not apply.
    """
    rates = guided_backprop(model, layer, images, targets)
    coarse = grad_cam(model, layer, images, targets).detach()
    return upsample(coarse.clamp_min(0), (images.shape[-2], images.shape[-1])) * rates
