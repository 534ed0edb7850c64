"""Maps of other libraries on a layer's own grid, not clipped, scaled or enlarged, and networks to compare on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from xeval.explainers import EXPLAINERS
from xeval.models import find_layer, frozen_eval

PEERS = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "layer-cam": "LayerCAM",
    "hires-cam": "HiResCAM",
    "xgrad-cam": "XGradCAM",
    "eigen-cam": "EigenCAM",
}
NEAR = 1e-5  # of the largest value of a map
CLASSES = 5
Reshape = Callable[[Tensor], Tensor]


def lively(build: Callable[[], nn.Module], side: int) -> tuple[nn.Module, Tensor]:
    """A random network whose answers depend on the image, and two images.

    The statistics of BatchNorm are those of random images, so that no layer is silent; LayerScale is switched on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = build(), torch.randn(4, 3, side, side)
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "head" in name or "layer_scale" in name or "token" in name or "pos_embed" in name:
                parameter.data = torch.rand_like(parameter) + 0.2  # many start at 0 or 1e-6
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            model.train()(images)
    return model.eval(), images[:2]


def targets_of(model: nn.Module, images: Tensor) -> Tensor:
    """The likeliest class of the first of two images, the second of the other: classes that a last ReLU lets pass."""
    with torch.no_grad():
        return model(images).topk(2).indices.diagonal()


def ours(name: str, model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    with frozen_eval(model):
        return EXPLAINERS[name].explain(model, layer, images, targets).detach()


def pytorch_grad_cam_map(
    name: str, model: nn.Module, layer: str, images: Tensor, targets: Tensor, reshape: Reshape | None = None
) -> Tensor:
    raw: list[Any] = []
    peer: Any = getattr(pytorch_grad_cam, PEERS[name])

    class Unclipped(peer):  # type: ignore[misc]
        def get_cam_image(self, *arguments: Any, **keywords: Any) -> Any:
            raw.append(super().get_cam_image(*arguments, **keywords))
            return raw[-1]

    with Unclipped(model, [find_layer(model, layer)], reshape_transform=reshape) as explain:
        explain(images.clone(), [ClassifierOutputTarget(int(target)) for target in targets])
    model.zero_grad()
    return torch.as_tensor(raw[0]).unsqueeze(1)


def torchcam_map(name: str, model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """torch-cam clips at 0."""
    with getattr(torchcam.methods, PEERS[name])(model, target_layer=layer) as extractor:
        scores = model(images.clone())
        (maps,) = extractor(targets.tolist(), scores, normalized=False)
    model.zero_grad()
    return maps.detach().unsqueeze(1)


def require_equal(found: Tensor, wanted: Tensor, *, clipped: bool = False) -> None:
    """Equal to 1e-5 of the largest value of each image's map; the other library may have clipped its map at 0."""
    assert found.shape == wanted.shape
    size = found.abs().amax((-2, -1), keepdim=True)
    assert bool((size > 0).all())
    assert float((((found.clamp_min(0) if clipped else found) - wanted).abs() / size).max()) <= NEAR


def require_parity(
    model: nn.Module, layer: str, images: Tensor, names: tuple[str, ...], reshape: Reshape | None = None
) -> None:
    """Every named map equals that of pytorch-grad-cam; it is no constant and it depends on class and image."""
    targets = targets_of(model, images)
    for name in names:
        # There are two algorithms for one decomposition, and two orders of adding up what cancels out.
        exact = torch.float64 if name in ("eigen-cam", "hires-cam", "xgrad-cam") else torch.float32
        model, images = model.to(exact), images.to(exact)
        found = ours(name, model, layer, images, targets)
        wanted = pytorch_grad_cam_map(name, model, layer, images, targets, reshape)
        if name == "eigen-cam":  # whose sign is arbitrary
            wanted = torch.where((found * wanted).sum((-2, -1), keepdim=True) < 0, -wanted, wanted)
        require_equal(found, wanted)
        assert bool((found.std((-2, -1)) > 1e-3 * found.abs().amax((-2, -1))).all()), "nothing to compare"
        assert not torch.allclose(found[0], found[1], rtol=1e-2), f"{name} does not depend on the image"
    model.float()
