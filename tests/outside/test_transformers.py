"""Networks of transformers, built from configurations: default layers, and maps as those of pytorch-grad-cam.

Their modules give tuples and containers of the library's own; what counts is the first tensor in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.outside.oracles import CLASSES, PEERS, lively, ours, require_parity, targets_of
from xeval.models import last_conv_stage

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = {"image_size": 64, "num_labels": CLASSES}


class Logits(nn.Module):
    """The network without the container around its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(patch_size=16, **SMALL, **SIZES))


def deit() -> nn.Module:
    config = transformers.DeiTConfig(patch_size=16, **SMALL, **SIZES)
    return transformers.DeiTForImageClassificationWithTeacher(config)


def registers() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2WithRegistersConfig(patch_size=16, num_register_tokens=4, **sizes, **SIZES)
    return transformers.Dinov2WithRegistersForImageClassification(config)


def swin() -> nn.Module:
    sizes = {"embed_dim": 12, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 4}
    return transformers.SwinForImageClassification(transformers.SwinConfig(**sizes, **SIZES))


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2, **SIZES)
    return transformers.ConvNextForImageClassification(config)


def tokens(extra: int, side: int = 4) -> Callable[[Tensor], Tensor]:
    """The ``reshape_transform`` of pytorch-grad-cam's documentation."""
    return lambda x: x[:, extra:].reshape(len(x), side, side, -1).permute(0, 3, 1, 2)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[Tensor], Tensor] | None]] = {
    "vit": (vit, "vit.layers.1.layernorm_before", tokens(1)),
    "deit": (deit, "deit.layers.1.layernorm_before", tokens(2)),
    "registers": (registers, "dinov2_with_registers.layernorm", tokens(5)),
    "swin": (swin, "swin.layernorm", tokens(0)),
    "convnext": (convnext, "convnext.encoder.stages.1", None),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_are_those_of_pytorch_grad_cam(kind: str) -> None:
    build, layer, reshape = NETWORKS[kind]
    model, images = lively(lambda: Logits(build()), 64)
    assert last_conv_stage(model, images[:1]) == f"network.{layer}"
    require_parity(model, f"network.{layer}", images, tuple(PEERS), reshape)


@pytest.mark.parametrize(
    ("build", "given", "tensor"),
    [
        (vit, "vit.layers.0.attention", "vit.layers.0.attention.o_proj"),
        (swin, "swin.encoder.layers.2.blocks.0", None),
        (convnext, "convnext.encoder", "convnext.encoder.stages.1"),
    ],
)
def test_containers_are_their_first_tensor(build: Callable[[], nn.Module], given: str, tensor: str | None) -> None:
    """The map of a module that gives a container is that of the module inside it that makes its tensor."""
    model, images = lively(lambda: Logits(build()), 64)
    seen: list[Any] = []
    handle = model.get_submodule(f"network.{given}").register_forward_hook(lambda _m, _i, out: seen.append(out))
    targets = targets_of(model, images)
    handle.remove()
    assert not isinstance(seen[0], Tensor)
    found = ours("grad-cam", model, f"network.{given}", images, targets)
    assert bool((found.std((-2, -1)) > 0).all())
    if tensor is not None:
        wanted = ours("grad-cam", model, f"network.{tensor}", images, targets)
        assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))
