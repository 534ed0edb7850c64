"""Residual networks of any depth and width are those of torchvision and timm, and are read from their shapes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from xeval.errors import UsageError
from xeval.models import Classifier, ModelSpec, build
from xeval.models.architectures import DESIGNS, is_built_in
from xeval.models.designs import Design, design_named, design_of
from xeval.models.sources import network, offered, require_known

OWN: dict[str, Callable[[], nn.Module]] = {
    "odd depths": lambda: torchvision.models.ResNet(BasicBlock, [1, 3, 1, 2], num_classes=7),
    "odd groups": lambda: torchvision.models.ResNet(
        Bottleneck, [1, 1, 2, 1], num_classes=7, groups=4, width_per_group=8
    ),
    "odd timm": lambda: timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, (1, 2, 1, 1), 7, stem_width=24, stem_type="deep", avg_down=True, base_width=96
    ),
    **{
        name: lambda name=name: timm.create_model(name, num_classes=7)
        for name in ("resnet10t", "resnet14t", "resnet18d", "resnet26d", "resnet26t", "resnet50")
    },
    **{
        name: lambda name=name: torchvision.models.get_model(name, num_classes=7)
        for name in ("wide_resnet50_2", "resnext50_32x4d")
    },
}


def with_statistics(model: nn.Module) -> nn.Module:
    """Give BatchNorm something to do: other means, deviations and scales than the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1)
    return model.eval()


@pytest.mark.parametrize("name", OWN)
def test_a_design_read_from_the_shapes_gives_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = with_statistics(OWN[name]())
    state = theirs.state_dict()
    design = design_of({key: tuple(tensor.shape) for key, tensor in state.items()})
    assert design is not None
    assert design == DESIGNS.get(name, design)
    ours = build(ModelSpec(arch=design.name, num_classes=7, image_size=64)).eval()
    ours.load_state_dict({k.replace("fc.", "head.") if k[:3] == "fc." else f"backbone.{k}": state[k] for k in state})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_every_named_design_is_spelled_out_and_read_again() -> None:
    for name, design in DESIGNS.items():
        assert design_named(design.name) == design
        assert is_built_in(design.name)
        with torch.device("meta"):
            state = build(ModelSpec(arch=name, num_classes=2, image_size=64)).backbone.state_dict()
        assert design_of({key: tuple(tensor.shape) for key, tensor in state.items()}) == design


@pytest.mark.parametrize(
    "name",
    [
        "resnet:bottleneck,3-4-6-3,64,64x1",
        "resnet:basic,999999999,64,64x1,64",
        "resnet:basic,1-1-1-1-1-1-1-1-1,64,64x1,64",
        "resnet:basic,1,999999,64x1,64",
        "resnet:bottleneck,1,64,64x0,64",
        "resnet:bottleneck,1,64,64x7,64",
        "resnet:basic,0,64,64x1,64",
        "resnet:basic," + "-".join("1" * 60) + ",64,64x1,64",
        "resnet50\n",
    ],
)
def test_numbers_that_no_network_has_are_unknown_names(name: str) -> None:
    assert design_named(name) is None
    with pytest.raises(UsageError, match="unknown model"):
        require_known(name)


def test_shapes_without_a_residual_network_have_no_design() -> None:
    whole = {key: tuple(t.shape) for key, t in timm.create_model("resnet10t").state_dict().items()}
    assert design_of(whole) == DESIGNS["resnet10t"]
    for key, shape in (
        ("layer1.0.conv2.weight", ()),
        ("conv1.3.weight", (3,)),
        ("layer1.0.conv2.weight", (0, 1, 3, 3)),
    ):
        assert design_of({**whole, key: shape}) is None
    assert design_of({}) is None


def test_designs_differ_where_they_compute_something_else() -> None:
    assert Design("basic", (2, 2, 2, 2)).name != Design("basic", (2, 2, 2, 2), cifar=True).name


# ---- networks of other libraries


def test_networks_of_other_libraries_are_built_by_name_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    small = network(ModelSpec(arch="timm:vit_tiny_patch16_224", num_classes=5, image_size=64))
    assert small(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    theirs = network(ModelSpec(arch="torchvision:squeezenet1_1", num_classes=5, image_size=64))
    assert isinstance(theirs, torchvision.models.SqueezeNet)
    assert isinstance(network(ModelSpec(arch="cnn-tiny", num_classes=5, image_size=64)), Classifier)


@pytest.mark.parametrize(
    "name",
    [
        "timm:hf-hub:someone/network",
        "timm:local-dir:/tmp",
        "torchvision:raft_large",
        "torchvision:fcn_resnet50",
        "timm:",
        "os:system",
        "http://example.org/x.pth",
        "timm:resnet_18",
    ],
)
def test_only_listed_names_are_followed(name: str) -> None:
    with pytest.raises(UsageError, match="has no network|unknown model"):
        require_known(name)


def test_a_near_name_is_offered_and_a_missing_library_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="timm has no network 'resnet_18' — did you mean timm:resnet18"):
        require_known("timm:resnet_18")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"need the package timm — .* pip install 'xeval-explanations\[timm\]'"):
        network(ModelSpec(arch="timm:resnet18", num_classes=5, image_size=64))
    assert not offered("timm", "resnet18")
    assert offered("torchvision", "densenet121")


def test_one_channel_is_no_image_for_torchvision() -> None:
    with pytest.raises(UsageError, match="take 3 channels, these images have 1"):
        network(ModelSpec(arch="torchvision:densenet121", num_classes=5, in_channels=1, image_size=64))
