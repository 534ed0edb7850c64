"""The network of the plain passes gives the logits of the model."""

import copy

import pytest
import torch
from torch import nn

from tests.scenes import images, small_model
from xeval.engine import Engine
from xeval.engine.folding import Network, compiled, network_of
from xeval.engine.timing import copies
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import ModelSpec, build


def lively(arch="resnet-small", side=16):
    """A network whose BatchNorm statistics and weights are not those of the start."""
    model = build(ModelSpec(arch=arch, num_classes=4, image_size=side)).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.3, 3),
                (module.weight.data, 0.5, 2),
                (module.bias.data, -1, 1),
            ):
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model


def kinds(module):
    return {type(part) for part in module.modules()}


@pytest.mark.parametrize("arch", ["resnet-small", "resnet18-cifar", "resnet18", "resnet50-cifar"])
def test_batchnorm_is_folded_and_the_logits_stay(arch):
    model, x = lively(arch, 32), images(5, side=32)
    network = network_of(model, x[:1])
    assert network.folded
    assert nn.BatchNorm2d not in kinds(network.forward)
    assert network.layout == torch.channels_last
    with torch.no_grad():
        expected = model(x)
        assert (network(x) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)


def test_the_model_itself_stays_as_it_is():
    model = lively()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.state_dict().items()}
    modules = [type(part) for part in model.modules()]
    network_of(model, images(1))
    assert [type(part) for part in model.modules()] == modules
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]


def test_what_is_explained_is_never_folded():
    """A map before BatchNorm is that of the model; in the folded network that convolution has other activations."""
    model, x = lively(), images(4)
    network = network_of(model, x[:1])
    targets, layer = torch.tensor([0, 1, 2, 3]), "backbone.layer3.0.conv2"
    about = EXPLAINERS["grad-cam"]
    found = Engine(model, network=network, batch_size=3).explain(about, layer, x, targets)
    assert torch.allclose(found, about.explain(model, layer, x, targets), atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(about.explain(network.forward, layer, x, targets), found, atol=1e-3)


class Flat(nn.Module):
    """A network that flattens its features with ``view``, which channels-last memory does not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 14 * 14, 4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.head(x.view(x.size(0), -1))


class Branching(nn.Module):
    """A network that looks at its values, which tracing does not allow."""

    def __init__(self):
        super().__init__()
        self.network = lively()

    def forward(self, x):
        return self.network(x) if x.sum() > -1e9 else self.network(-x)


class Normalising(nn.Module):
    """A network whose hook normalises its input, which tracing does not see."""

    def __init__(self):
        super().__init__()
        self.network = lively()
        self.register_forward_pre_hook(lambda _module, inputs: (2 * inputs[0] + 1,))

    def forward(self, x):
        return self.network(x)


@pytest.mark.parametrize(
    ("kind", "folded", "last"), [(Flat, True, False), (Branching, False, True), (Normalising, False, True)]
)
def test_a_step_that_a_model_does_not_allow_is_left_out(kind, folded, last):
    torch.manual_seed(0)
    model, x = kind().eval(), images(3)
    network = network_of(model, x[:1])
    assert network.folded is folded
    assert (network.layout == torch.channels_last) is last
    with torch.no_grad():
        assert torch.allclose(network(x), model(x), atol=1e-5)
    assert network.describe() == {
        "folded": folded,
        "compiled": False,
        "layout": "channels last" if last else "contiguous",
    }


def test_a_batchnorm_that_cannot_be_folded_exactly_stays():
    """Folding divides by a variance near 0 and loses the digits: the logits would move, so the model is kept."""
    model = lively()
    with torch.no_grad():
        norm = model.backbone.layer1[0].bn1
        norm.running_var.fill_(1e-12)
        norm.eps = 1e-12
        norm.running_mean.fill_(1e4)
        norm.bias.fill_(-1e4 / 1.4e-6)
    network = network_of(model, images(1))
    with torch.no_grad():
        expected = model(images(3))
        assert torch.allclose(network(images(3)), expected, atol=1e-5 * expected.abs().max())


def test_no_values_are_needed():
    with torch.device("meta"):
        network = network_of(copy.deepcopy(lively()).to("meta"), torch.zeros(1, 3, 16, 16))
        assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_whole_batches_take_the_fast_way():
    seen = []

    def way(name):
        return lambda x: seen.append((name, len(x))) or x.flatten(1)[:, :4]

    engine = Engine(small_model(), network=Network(way("rest"), way("whole")), batch_size=4)
    engine.logits(images(10))
    assert seen == [("whole", 4), ("whole", 4), ("rest", 2)]


@pytest.mark.slow
def test_compiled_folded_and_plain_agree():
    model, x = lively("resnet18-cifar", 32), images(20, side=32)
    plain = Engine(model, batch_size=8).logits(x)
    network = network_of(model, x[:1])
    folded = Engine(model, network=network, batch_size=8).logits(x)
    fast = compiled(network, copies(x[:1], 8))
    assert fast.describe()["compiled"] is True
    found = Engine(model, network=fast, batch_size=8).logits(x)
    assert (folded - plain).abs().max() <= 1e-5 * plain.abs().max().clamp_min(1)
    assert (found - plain).abs().max() <= 1e-5 * plain.abs().max().clamp_min(1)


def test_a_failing_compiler_is_a_sentence(monkeypatch):
    def broken(*_args, **_kwargs):
        def run(_images):
            raise RuntimeError("no C++ compiler\nand a long story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler.* — .*--compile on"):
        compiled(network_of(small_model(), images(1)), images(8))
