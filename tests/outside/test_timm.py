"""Networks of timm: maps equal those of pytorch-grad-cam, with feature maps and tokens that lie in every way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.explainers.networks import seeded
from tests.outside.oracles import CLASSES, PEERS, lively, ours, require_equal, require_parity, targets_of, torchcam_map
from xeval.models import last_conv_stage

timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")


def channels_last(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def grid(extra: int, side: int) -> Callable[[Tensor], Tensor]:
    """The ``reshape_transform`` that pytorch-grad-cam's documentation gives for vision transformers."""

    def reshape(tokens: Tensor) -> Tensor:
        patches = tokens[:, extra:, :]
        return patches.reshape(len(tokens), side, side, tokens.shape[2]).transpose(2, 3).transpose(1, 2)

    return reshape


SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any], int, str, Callable[[Tensor], Tensor] | None]] = {
    "resnet": ("resnet10t", {}, 64, "layer4", None),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1)}, 64, "stages", None),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1), "num_heads": (1, 2, 4), "window_size": 4},
        64,
        "norm",
        channels_last,
    ),
    "mambaout": ("mambaout_femto", {"depths": (1, 1, 1, 1)}, 64, "stages", channels_last),
    "mambaout-equal": ("mambaout_femto", {"depths": (1, 1), "dims": (16, 32)}, 64, "stages.0", channels_last),
    "vit": ("vit_tiny_patch16_224", {"img_size": 64, **SMALL}, 64, "blocks.1.norm1", grid(1, 4)),
    "vit-mean": (
        "vit_tiny_patch16_224",
        {"img_size": 64, "class_token": False, "global_pool": "avg", **SMALL},
        64,
        "blocks",
        grid(0, 4),
    ),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64, **SMALL}, 64, "blocks.1.norm1", grid(2, 4)),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, **SMALL}, 56, "blocks.1.norm1", grid(5, 4)),
}


DEFAULTS = {
    "cait_xxs24_224": ({"depth": 1, "depth_token_only": 2, "img_size": 64}, 64, "blocks_token_only.1.norm1"),
    "vit_base_patch16_siglip_224": ({"img_size": 64, **SMALL}, 64, "norm"),
    "test_vit2": ({}, 64, "blocks"),
    "efficientformer_l1": ({"depths": (1, 1, 1, 1)}, 224, "norm"),
    "mobilevit_xxs": ({}, 64, "final_conv"),
    "test_byobnet": ({}, 64, "stages"),
}
"""Class tokens that come late, attention that pools, hybrids of convolutions and attention, convolutions."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_layer_that_is_explained_by_default(name: str) -> None:
    options, side, layer = DEFAULTS[name]
    model = seeded(timm.create_model, name, pretrained=False, num_classes=CLASSES, **options)
    assert last_conv_stage(model, torch.zeros(1, 3, side, side)) == layer


class ThroughAGrid(nn.Module):
    """A layer whose patches go through a map N×K×h×w, which torch-cam can read; the output is the layer's own."""

    def __init__(self, layer: nn.Module, turn: Callable[[Tensor], Tensor], extra: int | None) -> None:
        super().__init__()
        self.layer, self.turn, self.extra, self.grid = layer, turn, extra, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x)
        grid = self.grid(self.turn(output))
        if self.extra is None:
            return grid.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.extra], grid.flatten(2).transpose(1, 2)], 1)


@pytest.mark.parametrize(("kind", "extra"), [("swin", None), ("vit", 1), ("distilled", 2), ("convnext", None)])
def test_maps_are_those_of_torch_cam(kind: str, extra: int | None) -> None:
    name, options, side, layer, turn = NETWORKS[kind]
    model, images = lively(partial(timm.create_model, name, pretrained=False, num_classes=CLASSES, **options), side)
    twin, where = copy.deepcopy(model), layer
    if turn is not None:
        twin.set_submodule(layer, ThroughAGrid(twin.get_submodule(layer), turn, extra))
        where = f"{layer}.grid"
    targets = targets_of(model, images)
    for peer in ("grad-cam", "layer-cam"):
        found = ours(peer, model, layer, images, targets)
        require_equal(found, torchcam_map(peer, twin, where, images, targets), clipped=True)


@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_are_those_of_pytorch_grad_cam(kind: str) -> None:
    name, options, side, layer, reshape = NETWORKS[kind]
    build = partial(timm.create_model, name, pretrained=False, num_classes=CLASSES, **options)
    model, images = lively(build, side)
    if kind != "mambaout-equal":
        assert last_conv_stage(model, images[:1]) == layer
    require_parity(model, layer, images, tuple(PEERS), reshape)


def test_the_equal_sides_of_a_real_network_are_equal() -> None:
    """Otherwise the case above would prove nothing."""
    name, options, side, layer, _ = NETWORKS["mambaout-equal"]
    model, images = lively(partial(timm.create_model, name, pretrained=False, num_classes=CLASSES, **options), side)
    shapes: list[torch.Size] = []
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: shapes.append(out.shape))
    with torch.no_grad():
        model(images)
    assert shapes == [(2, 16, 16, 16)]
