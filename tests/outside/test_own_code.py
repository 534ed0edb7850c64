"""Networks that a function of the user's builds are asked before anything is scored, and known by what they compute."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.commands import here
from xeval.checkpoints.identity import network_sha256
from xeval.checkpoints.load import answering, load_model
from xeval.checkpoints.match import shapes_of
from xeval.data import open_dataset
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.models import ModelSpec
from xeval.training.encoder import probe_encoder
from xeval.training.learner import fresh_learner
from xeval.training.loop import train
from xeval.training.recipe import load_recipe

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, 2, 1)
        self.stage = nn.Sequential(self.conv, nn.ReLU())  # the same layer under a second name
        self.fc = nn.Linear(4, classes, bias=bias)

    def forward(self, x):
        return self.fc(self.stage(x).mean((-2, -1)))

def plain(num_classes, in_channels):
    return Net(num_classes, in_channels)

def without_bias(num_classes, in_channels):
    return Net(num_classes, in_channels, bias=False)

def measured(num_classes, in_channels):
    assert [rate.item() for rate in torch.linspace(0, 0.1, 2)][0] == 0  # not on the device without memory
    return Net(num_classes, in_channels)

def of(forward):
    def build(num_classes, in_channels):
        kind = type("Other", (Net,), {"forward": forward})
        return kind(num_classes, in_channels)
    return build

strong = of(lambda self, x: 40 * Net.forward(self, x))
probable = of(lambda self, x: Net.forward(self, x).softmax(1))
dropping = of(lambda self, x: self.fc(nn.functional.dropout(self.stage(x).mean((-2, -1)))))
shared = of(lambda self, x: Net.forward(self, x) - Net.forward(self, x).mean(0))
pair = of(lambda self, x: (Net.forward(self, x), x))
maps = of(lambda self, x: self.stage(x))
small = of(lambda self, x: Net.forward(self, nn.functional.max_pool2d(x, 32)))

def twice_headed(num_classes, in_channels):
    net = Net(num_classes, in_channels)
    net.zz_head = net.fc
    return net

def ignoring():
    return Net(13, 1)

def failing(num_classes):
    raise KeyError("width")

def leaving(num_classes):
    raise SystemExit(0)
"""
FAST = ("--dataset", "digits", "--metrics", "complexity", "--explainers", "grad-cam,random", "--limit", "6")


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, beside weights of its plain network."""
    (tmp_path / "own_code_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_code_nets", None)
    import own_code_nets

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(own_code_nets.plain(10, 1).state_dict(), "w.pt")
    yield own_code_nets
    sys.modules.pop("own_code_nets")


def loaded(name: str, path: str = "w.pt") -> Any:
    arch = f"own_code_nets:{name}"
    return answering(load_model(Path(path), arch=arch, describe=lambda: open_dataset("digits").info))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("probable", "answers with probabilities, not logits"),
        ("dropping", "answers the same images differently each time"),
        ("shared", "depends on the other images of its batch"),
        ("maps", r"answers with classes of pixels N×C×H×W \(segmentation\)"),
        ("small", r"the model fails on images of 1×16×16 \(RuntimeError: "),
    ],
)
def test_answers_that_are_no_logits_of_an_image_are_refused(name: str, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as told:
        loaded(name)
    assert f"own_code_nets:{name}" in told.value.remedy


def test_outputs_for_other_classes_are_refused(nets: Any) -> None:
    torch.save(nets.ignoring().state_dict(), "thirteen.pt")
    with pytest.raises(DataError, match="gives 13 outputs, and there are 10 classes"):
        loaded("ignoring", "thirteen.pt")
    with pytest.raises(UsageError, match="gives 13 outputs, and there are 10 classes"):
        train(load_recipe("digits", "ce", ["arch=own_code_nets:ignoring"]), seed=0, out=Path("runs"), limit=20)


@pytest.mark.parametrize(
    ("name", "problem"), [("failing", r"fails \(KeyError: 'width'\)"), ("leaving", r"fails \(it calls sys.exit\(0\)\)")]
)
def test_a_function_that_fails_or_leaves_is_named(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=f"own_code_nets:{name} {problem}"):
        loaded(name)


def test_a_module_that_leaves_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_code_leaves.py").write_text("import sys\nsys.exit(0)\n")
    Path("own_code_torn.py").write_text("x = (\n")
    for name, problem in (("leaves", "it calls sys.exit(0)"), ("torn", "SyntaxError")):
        status, _, message = here(capsys, "score", "w.pt", "--arch", f"own_code_{name}:build", *FAST)
        assert (status, problem in message) == (2, True), message


def test_a_network_that_is_built_with_numbers_is_looked_at_on_the_host() -> None:
    assert loaded("measured").model.fc.out_features == 10
    vast = ModelSpec(arch="-", num_classes=10**12, in_channels=1, image_size=16).named("own_code_nets:plain")
    assert shapes_of(Path("w.pt"), vast)["fc.weight"] == (10**12, 4)  # else a description could ask for any memory
    probe_encoder(Path("w.pt"), "digits", out=Path("runs"), arch="own_code_nets:measured", head="knn")


def test_the_same_weights_in_another_function_are_scored_anew(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for name in ("plain", "strong", "plain"):
        status, _, message = here(capsys, "score", "w.pt", "--arch", f"own_code_nets:{name}", *FAST)
        assert status == 0, message
        found.append(json.loads(Path("w.pt.xeval/scores.json").read_text()))
    means = [one["model"]["p0"] if "p0" in one["model"] else one["model"] for one in found]
    assert means[0] == means[2] != means[1]
    assert len({one["checkpoint"]["sha256"] for one in found}) == 2


def test_another_forward_pass_under_the_same_name_is_another_network(nets: Any) -> None:
    def made(body: str) -> nn.Module:
        here: dict[str, Any] = {"Net": nets.Net, "__name__": "notebook"}
        exec(f"class Same(Net):\n    def forward(self, x):\n        return {body}", here)
        network: nn.Module = here["Same"](10, 1)
        network.load_state_dict(torch.load("w.pt", weights_only=True))
        return network

    one, other = made("Net.forward(self, x)"), made("Net.forward(self, x) ** 3")
    assert network_sha256(one) == network_sha256(made("Net.forward(self, x)")) != network_sha256(other)


@pytest.mark.parametrize("name", ["plain", "without_bias"])
@pytest.mark.parametrize("fit", ["epochs", "lbfgs", "full-batch"])
def test_layers_under_two_names_and_heads_without_a_bias_are_trained(name: str, fit: str) -> None:
    small = ("epochs=1", "batch_size=8", "head.epochs=1", "head.steps=2", "projection.dim=8", f"head.fit={fit}")
    recipe = load_recipe("digits", "simclr", [f"arch=own_code_nets:{name}", *small])
    run = train(recipe, seed=0, out=Path("runs"), limit=24)
    model = load_model(run, arch=f"own_code_nets:{name}").model
    assert (model.fc.bias is None) == (name == "without_bias")
    assert model.stage[0] is model.conv
    images = torch.rand(2, 1, 16, 16)
    by_hand = torch.relu(nn.functional.conv2d(images, model.conv.weight, model.conv.bias, 2, 1)).mean((2, 3))
    wanted = by_hand @ model.fc.weight.T + (0 if model.fc.bias is None else model.fc.bias)
    assert torch.allclose(model(images), wanted, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "centroid", "knn"])
def test_heads_are_fitted_on_a_network_whose_own_has_no_bias(head: Any, nets: Any) -> None:
    network = nets.without_bias(10, 1)
    torch.save(network.state_dict(), "bare.pt")
    run = probe_encoder(Path("bare.pt"), "digits", out=Path("runs"), arch="own_code_nets:without_bias", head=head)
    assert torch.equal(load_model(run, arch="own_code_nets:without_bias").model.conv.weight, network.conv.weight)


def test_a_head_under_two_names_is_drawn_from_the_seed(nets: Any) -> None:
    given = nets.twice_headed(10, 1)
    torch.save(given.state_dict(), "two.pt")
    recipe = load_recipe("digits", "ce", ["arch=own_code_nets:twice_headed", "init=two.pt"])
    info = open_dataset("digits").info
    begun, drawn = fresh_learner(recipe, info, 3), fresh_learner(recipe.model_copy(update={"init": None}), info, 3)
    assert torch.equal(begun.model.fc.weight, drawn.model.fc.weight)
    assert torch.equal(begun.model.conv.weight, given.conv.weight)


def test_the_method_of_a_probe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("probe", "w.pt", "--arch", "own_code_nets:plain", "--dataset", "digits", "--out", "runs")
    for method in ("x" * 201, "two\nlines"):
        status, _, message = here(capsys, *words, "--method", method)
        assert (status, "is not one line of at most 200 characters" in message) == (2, True)
    assert not Path("runs").exists()
