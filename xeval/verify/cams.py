"""Compares class activation maps with captum and pytorch-grad-cam, on the layer's own grid and before any clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.explainers.cam import capture
from xeval.explainers.gradients import largest, quiet
from xeval.models import find_layer
from xeval.models.layout import Grid, grid_of
from xeval.verify.check import Check, Side, Subject


def _native(name: str) -> Side:
    def found(subject: Subject) -> Tensor:
        exact = subject.exact
        maps = EXPLAINERS[name].explain(exact.model, exact.layer, exact.images, exact.scene.targets)
        return maps.detach()

    return found


def _grid(exact: Subject) -> tuple[Grid, Tensor]:
    """Return how the explained layer's output is turned to N×K×h×w, and the output."""
    with torch.no_grad(), capture(exact.model, exact.layer) as captured:
        exact.model(exact.images)
    output = captured.output()
    return grid_of(exact.model, find_layer(exact.model, exact.layer), exact.images, output), output


def _require_channels_first(exact: Subject) -> None:
    grid, output = _grid(exact)
    if grid(output) is not output:
        raise UsageError("captum reads layers that lie N×K×h×w", "name one with --layer")


def _captum(subject: Subject) -> Tensor:
    """Return the signed Grad-CAM that captum computes with its hooks and a backward pass."""
    from captum.attr import LayerGradCam

    exact = subject.exact
    _require_channels_first(exact)
    explain = LayerGradCam(exact.model, find_layer(exact.model, exact.layer))
    maps: Tensor = explain.attribute(exact.images, exact.scene.targets)
    return maps.detach()


def _pytorch_grad_cam(method: str, **options: Any) -> Side:
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

        reshape, _ = _grid(exact)
        layers = [find_layer(exact.model, exact.layer)]
        with Unclipped(exact.model, layers, reshape_transform=reshape, **options) as explain:
            explain(exact.images, [ClassifierOutputTarget(int(target)) for target in exact.scene.targets])
        exact.model.zero_grad()
        return torch.as_tensor(raw[0], device=exact.images.device).unsqueeze(1)

    return found


def _pytorch_ablation_cam(subject: Subject) -> Tensor:
    """Return pytorch-grad-cam's Ablation-CAM with channels that become 0, as in the paper, and divided by |logit|."""
    from pytorch_grad_cam.ablation_layer import AblationLayer

    class Zero(AblationLayer):  # type: ignore[misc]
        def __call__(self, _input: Tensor) -> Tensor:
            for row, channel in enumerate(self.indices[: len(self.activations)]):
                self.activations[row, channel] = 0
            switched: Tensor = self.activations
            return switched

    exact = subject.exact
    with torch.no_grad():
        logits = exact.model(exact.images).gather(1, exact.scene.targets[:, None])
    maps: Tensor = _pytorch_grad_cam("AblationCAM", ablation_layer=Zero())(subject) * logits.sign()[:, :, None, None]
    return maps


def _captum_guided(subject: Subject) -> Tensor:
    """Return captum's product, of which the largest absolute value over colours is taken."""
    from captum.attr import GuidedGradCam

    exact = subject.exact
    _require_channels_first(exact)
    explain = GuidedGradCam(exact.model, find_layer(exact.model, exact.layer))
    with quiet():
        maps = explain.attribute(exact.images, exact.scene.targets, interpolate_mode="bilinear")
    return largest(maps.detach())


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
        for name, method in (
            ("grad-cam", "GradCAM"),
            ("grad-cam++", "GradCAMPlusPlus"),
            ("layer-cam", "LayerCAM"),
            ("hires-cam", "HiResCAM"),
            ("xgrad-cam", "XGradCAM"),
            ("eigen-cam-numpy", "EigenCAM"),
        )
    ),
    (
        "ablation-cam",
        Check(
            "ablation-cam",
            "pytorch-grad-cam AblationCAM, channels at 0",
            "pytorch_grad_cam",
            1e-5,
            _native("ablation-cam"),
            _pytorch_ablation_cam,
        ),
    ),
    (
        "guided-grad-cam",
        Check(
            "guided-grad-cam",
            "captum GuidedGradCam, largest of the colours",
            "captum",
            1e-5,
            _native("guided-grad-cam"),
            _captum_guided,
        ),
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
