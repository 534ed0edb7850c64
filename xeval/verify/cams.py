"""Compares class activation maps with captum and pytorch-grad-cam, on the layer's own grid and before any clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xeval.explainers import EXPLAINERS
from xeval.models import find_layer
from xeval.verify.check import Check, Side, Subject


def _native(name: str) -> Side:
    def found(subject: Subject) -> Tensor:
        exact = subject.exact
        maps = EXPLAINERS[name].explain(exact.model, exact.layer, exact.images, exact.scene.targets)
        return maps.detach()

    return found


def _captum(subject: Subject) -> Tensor:
    """Return the signed Grad-CAM that captum computes with its hooks and a backward pass."""
    from captum.attr import LayerGradCam

    exact = subject.exact
    explain = LayerGradCam(exact.model, find_layer(exact.model, exact.layer))
    maps: Tensor = explain.attribute(exact.images, exact.scene.targets)
    return maps.detach()


def _pytorch_grad_cam(method: str) -> Side:
    """Return pytorch-grad-cam's map before it is clipped at 0, scaled to [0, 1] and enlarged with OpenCV."""

    def found(subject: Subject) -> Tensor:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        exact, raw = subject.exact, []
        method_class: Any = getattr(pytorch_grad_cam, method)

        class Unclipped(method_class):  # type: ignore[misc]
            def get_cam_image(self, *arguments: Any, **keywords: Any) -> Any:
                raw.append(super().get_cam_image(*arguments, **keywords))
                return raw[-1]

        with Unclipped(exact.model, [find_layer(exact.model, exact.layer)]) as explain:
            explain(exact.images, [ClassifierOutputTarget(int(target)) for target in exact.scene.targets])
        exact.model.zero_grad()
        return torch.as_tensor(raw[0], device=exact.images.device).unsqueeze(1)

    return found


def _same_sign(name: str, method: str) -> Side:
    """Return the other library's map with the native map's sign, where a decomposition leaves the sign open."""

    def found(subject: Subject) -> Tensor:
        other, native = _pytorch_grad_cam(method)(subject), _native(name)(subject)
        agreement = (other * native).sum((-2, -1), keepdim=True)
        return torch.where(agreement < 0, -other, other)

    return found


CAMS = [
    ("grad-cam", Check("grad-cam", "captum LayerGradCam", "captum", 1e-5, _native("grad-cam"), _captum)),
    *(
        (
            name,
            Check(
                name, f"pytorch-grad-cam {method}", "pytorch_grad_cam", 1e-5, _native(name), _pytorch_grad_cam(method)
            ),
        )
        for name, method in (("grad-cam", "GradCAM"), ("grad-cam++", "GradCAMPlusPlus"), ("layer-cam", "LayerCAM"))
    ),
    (
        "eigen-cam",
        Check(
            "eigen-cam, up to its sign",
            "pytorch-grad-cam EigenCAM",
            "pytorch_grad_cam",
            1e-5,
            _native("eigen-cam"),
            _same_sign("eigen-cam", "EigenCAM"),
        ),
    ),
]
