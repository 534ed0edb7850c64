"""Networks by name from every source: the same answers as the library's own, taken apart at the head."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tests.models.saved import CLASSES, MEAN, SIDE, STD, saved, vit
from xeval.checkpoints.own import own_notes
from xeval.errors import CheckpointError, UsageError
from xeval.models import Classifier, ModelSpec
from xeval.models.sources import apart, configuration, lines, network, pretrained, require_followed, require_named


def typed(arch: str, size: int = SIDE, **more: Any) -> ModelSpec:
    return ModelSpec(arch="-", num_classes=CLASSES, image_size=size, **more).named(arch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("hf") / "vit")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any look-up of a host fails the test."""

    def refuse(*asked: Any, **_more: Any) -> None:
        raise AssertionError(f"the network was asked for {asked}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def seeded(spec: ModelSpec) -> nn.Module:
    torch.manual_seed(0)
    return network(spec).eval()


def test_a_folder_of_transformers_answers_as_the_library_does(folder: Path, no_network: None) -> None:
    spec, theirs = typed(f"hf:{folder}"), vit()
    model = network(spec).eval()
    model.load_state_dict(theirs.state_dict())
    published = pretrained(spec).eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        wanted = theirs(x).logits
        assert torch.equal(model(x), wanted)
        assert torch.equal(published(x), wanted)


def test_a_folder_is_built_for_other_classes_channels_and_sizes(folder: Path, no_network: None) -> None:
    spec = ModelSpec(arch="-", num_classes=3, in_channels=1, image_size=24).named(f"hf:{folder}")
    model = network(spec)
    assert model(torch.zeros(2, 1, 24, 24)).shape == (2, 3)
    with torch.device("meta"):
        assert next(network(spec).parameters()).device.type == "meta"


@pytest.mark.parametrize(
    ("arch", "size", "head"),
    [
        ("timm:test_vit", 32, "head"),
        ("timm:test_convnext", 32, "head.fc"),
        ("timm:test_mambaout", 32, "head.fc"),
        ("torchvision:mobilenet_v3_small", 32, "classifier.3"),
        ("torchvision:vit_b_16", 32, "heads.head"),
        ("hf", SIDE, "classifier"),
        ("resnet-small", 16, "head"),
    ],
)
def test_logits_are_those_of_the_head_on_the_features(arch: str, size: int, head: str, folder: Path) -> None:
    """F W + b, computed by hand from the weights under the names that the network itself gives them."""
    spec = typed(f"hf:{folder}" if arch == "hf" else arch, size)
    model = seeded(spec)
    parts, x = apart(model, spec), torch.randn(3, 3, size, size)
    assert parts.head_name == head
    with torch.no_grad():
        for parameter in parts.head.parameters():  # some libraries begin with a head of zeros
            parameter.normal_()
        features, tensors = parts.features(x), model.state_dict()
        by_hand = features @ tensors[f"{head}.weight"].T + tensors[f"{head}.bias"]
        assert torch.allclose(model(x), by_hand, atol=1e-5)
        assert torch.equal(parts.logits(features), model(x))
    inside = sum(parameter.numel() for parameter in parts.encoder)
    assert inside == sum(one.numel() for one in model.parameters()) - parts.linear.weight.numel() - CLASSES


def test_a_head_on_unit_features_and_a_head_of_neighbours() -> None:
    spec = typed("timm:test_vit", 32, normalize_features=True)
    model = seeded(spec)
    parts, x = apart(model, spec), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features = parts.features(x)
        assert not torch.allclose(features.norm(dim=1), torch.ones(3), atol=0.1)  # as they are, before the head
        unit = F.normalize(features)
        assert torch.allclose(model(x), F.linear(unit, parts.linear.weight, parts.linear.bias), atol=1e-6)
    voting = typed("timm:test_vit", 32, normalize_features=True, bank=7)
    parts = apart(seeded(voting), voting)
    assert {name: tuple(one.shape) for name, one in parts.head.state_dict().items()} == {
        "bank": (7, 64),
        "labels": (7,),
    }


def test_a_network_without_a_linear_head_is_no_encoder() -> None:
    spec = typed("torchvision:squeezenet1_1", 64)
    with pytest.raises(UsageError, match="no linear layer gives the logits of torchvision:squeezenet1_1"):
        apart(network(spec), spec)


def test_built_in_networks_are_what_they_were() -> None:
    spec = ModelSpec(arch="cnn-tiny", num_classes=3, image_size=16)
    model = network(spec)
    assert isinstance(model, Classifier)
    assert apart(model, spec) is model


# ---- configurations


def test_what_a_configuration_says_of_images(folder: Path, no_network: None) -> None:
    found = configuration(f"hf:{folder}")
    assert found is not None
    assert (found.mean, found.std, found.size, found.interpolation, found.classes) == (MEAN, STD, 16, "bicubic", 10)
    theirs = timm.get_pretrained_cfg("test_vit")
    found = configuration("timm:test_vit")
    assert found is not None
    assert (found.mean, found.size, found.crop, found.classes) == (theirs.mean, 160, theirs.crop_pct, 1000)
    assert own_notes("timm:test_vit", found) == (
        "images are read at 160 px, resized bicubic where they are files of a folder "
        "(the configuration of timm:test_vit)",
        "the configuration of timm:test_vit also names a centre crop of 0.95, which is not followed",
    )
    used = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    found = configuration("torchvision:resnet50")
    assert found is not None
    assert [list(found.mean), list(found.std), [found.size]] == [used.mean, used.std, used.crop_size]
    assert configuration("resnet-small") is None
    assert configuration("pkg:build") is None


def test_a_folder_without_an_image_processor_has_no_configuration(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    assert configuration(f"hf:{tmp_path}") is None


# ---- a function of one's own


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("own_networks")
    monkeypatch.setitem(sys.modules, "own_networks", module)
    return module


def test_a_function_is_given_what_it_takes(own_module: ModuleType) -> None:
    calls: list[dict[str, int]] = []

    def some(num_classes: int, width: int = 2) -> nn.Module:
        calls.append({"num_classes": num_classes, "width": width})
        return nn.Linear(width, num_classes)

    def anything(**given: int) -> nn.Module:
        calls.append(given)
        return nn.Identity()

    own_module.some, own_module.anything, own_module.Plain = some, anything, nn.Identity  # type: ignore[attr-defined]
    assert network(typed("own_networks:some")).out_features == CLASSES
    network(typed("own_networks:anything"))
    assert calls == [
        {"num_classes": CLASSES, "width": 2},
        {"num_classes": CLASSES, "in_channels": 3, "image_size": SIDE},
    ]


def test_a_function_that_asks_for_more_is_not_called(own_module: ModuleType) -> None:
    def needs(num_classes: int, depth: int) -> nn.Module:
        raise AssertionError("called")

    own_module.needs, own_module.number = needs, 3  # type: ignore[attr-defined]
    own_module.text = lambda: "network"  # type: ignore[attr-defined]
    for arch, problem in (
        ("own_networks:needs", "needs the argument depth"),
        ("own_networks:number", "has no function number"),
        ("own_networks:absent", "has no function absent"),
        ("own_networks:text", "returns a str, no torch module"),
        ("os:system", "needs the argument command"),
        ("torchvison:resnet18", "cannot be imported .* — did you mean torchvision:resnet18"),
    ):
        with pytest.raises(UsageError, match=problem):
            network(typed(arch))


# ---- names


@pytest.mark.parametrize("arch", ["os:system", "own.module:build", "hf:someone/network", "hf:/tmp"])
def test_what_opens_or_runs_has_to_be_typed(arch: str) -> None:
    stored = ModelSpec.model_validate_json(typed(arch).model_dump_json())
    with pytest.raises(CheckpointError, match=f"stored as {arch}, .* --arch {arch}"):
        network(stored)
    with pytest.raises(CheckpointError, match="stored as"):
        pretrained(stored)
    require_followed(typed(arch))
    with pytest.raises(ValueError, match="Extra inputs"):
        ModelSpec.model_validate({**stored.model_dump(), "_typed": True})
    with pytest.raises(ValueError, match="Extra inputs"):
        ModelSpec.model_validate({**stored.model_dump(), "typed": True})


def test_missing_libraries_and_unknown_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no network 'test_vitt' — did you mean timm:test_vit"):
        require_named("timm:test_vitt")
    require_named("timm:resnet50.a1_in1k")
    with pytest.raises(UsageError, match=r"no network 'resnet50.nobody'"):
        require_named("timm:resnet50.nobody")
    with pytest.raises(UsageError, match="'hf:' has no name"):
        require_named("hf:")
    with pytest.raises(UsageError, match="unknown model 'resnet_18' — did you mean 'resnet18'"):
        require_named("resnet_18")
    with pytest.raises(UsageError, match="is no image classifier that transformers builds"):
        network(typed(f"hf:{tmp_path}"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'xeval-explanations\[transformers\]'"):
        network(typed("hf:folder"))


def test_no_weights_are_published_for_these() -> None:
    for arch in ("resnet-small", "own:build"):
        with pytest.raises(UsageError, match=f"no weights are published for {arch}"):
            pretrained(typed(arch))


def test_the_list_says_how_networks_are_named_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xeval.models.sources.find_spec", lambda name: None if name == "timm" else object())
    told = lines()
    assert "resnet50-cifar" in told
    assert told[-4].startswith("timm:NAME")
    assert told[-4].endswith("[not installed: pip install 'xeval-explanations[timm]']")
    assert told[-2].startswith("hf:FOLDER")
    assert told[-2].endswith("[installed]")
    assert told[-1].startswith("pkg.module:function")
