"""Networks of torchvision: maps equal those of pytorch-grad-cam and torch-cam on the layer's own grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor, nn
from torchvision import models

from tests.outside.oracles import CLASSES, PEERS, lively, ours, require_equal, require_parity, targets_of, torchcam_map
from xeval.models import last_conv_stage

NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (models.resnet18, "layer4"),
    "resnext": (partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], groups=8, width_per_group=4), "layer4"),
    "densenet": (partial(models.DenseNet, 12, (2, 2, 2), 16), "features"),
    "mobilenet_v2": (models.mobilenet_v2, "features"),
    "mobilenet_v3_small": (models.mobilenet_v3_small, "features"),
    "efficientnet_b0": (models.efficientnet_b0, "features"),
    "regnet_y_400mf": (models.regnet_y_400mf, "trunk_output"),
    "shufflenet_v2_x0_5": (models.shufflenet_v2_x0_5, "conv5"),
    "squeezenet1_1": (models.squeezenet1_1, "classifier.1"),
    "mnasnet0_5": (models.mnasnet0_5, "layers"),
    "googlenet": (partial(models.googlenet, aux_logits=False, init_weights=False), "inception5b"),
    "convnext": (
        partial(
            models.ConvNeXt, [models.convnext.CNBlockConfig(24, 48, 1), models.convnext.CNBlockConfig(48, None, 1)]
        ),
        "features",
    ),
}
INNER = {"densenet": "features.denseblock3", "squeezenet1_1": "features", "mnasnet0_5": "layers.12"}
"""Explained instead of the default: behind densenet's features a ReLU works in place, and the peers see its result."""


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_the_other_libraries(name: str) -> None:
    build, default = NETWORKS[name]
    model, images = lively(partial(build, num_classes=CLASSES), 64)
    assert last_conv_stage(model, images[:1]) == default
    layer, targets = INNER.get(name, default), targets_of(model, images)
    require_parity(model, layer, images, tuple(PEERS))
    for peer in ("grad-cam", "layer-cam"):
        found = ours(peer, model, layer, images, targets)
        require_equal(found, torchcam_map(peer, model, layer, images, targets), clipped=True)


def channels_last(output: Tensor) -> Tensor:
    """The ``reshape_transform`` that pytorch-grad-cam's documentation gives for Swin."""
    return output.permute(0, 3, 1, 2)


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=CLASSES)


@pytest.mark.parametrize("layer", ["norm", "features.3.0", "features.1.0.norm2"])
def test_swin_by_a_named_layer(layer: str) -> None:
    model, images = lively(swin, 64)
    require_parity(model, layer, images, tuple(PEERS), channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["norm", "features.7.1.norm1"])
def test_swin_t_as_published(layer: str) -> None:
    model, images = lively(partial(models.swin_t, num_classes=CLASSES), 128)
    require_parity(model, layer, images, tuple(PEERS), channels_last)


def transformer() -> nn.Module:
    return models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES)


@pytest.mark.parametrize("layer", ["encoder.layers.encoder_layer_1.ln_1", "encoder.layers.encoder_layer_0"])
def test_vision_transformer(layer: str) -> None:
    """16 patches behind a class token; behind a whole block, HiRes-CAM of these two images is nearly the same."""
    model, images = lively(transformer, 32)
    names = tuple(name for name in PEERS if name != "hires-cam" or layer.endswith("ln_1"))
    require_parity(model, layer, images, names, lambda tokens: tokens[:, 1:].reshape(-1, 4, 4, 16).permute(0, 3, 1, 2))
