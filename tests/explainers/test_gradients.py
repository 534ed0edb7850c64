import pytest
import torch
from captum import attr
from torch import nn

from tests.explainers.networks import (
    DeepPools,
    Functional,
    Linear,
    Plain,
    seeded,
    settled,
    tiny_vit,
    torchvision_resnet,
)
from tests.scenes import images, small_model
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS, chunks, gradients
from xeval.models import ModelSpec, build
from xeval.perturb.draws import normal

TARGETS = torch.tensor([0, 1, 2, 3, 1])
SUMMED = ("input-x-gradient", "integrated-gradients", "deep-lift")


def explain(name, model, x, targets=TARGETS):
    return EXPLAINERS[name].explain(model, "", x, targets[: len(x)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "method", "reduce"),
    [
        ("saliency", attr.Saliency, gradients.largest),
        ("input-x-gradient", attr.InputXGradient, gradients.summed),
        ("integrated-gradients", attr.IntegratedGradients, gradients.summed),
        ("guided-backprop", attr.GuidedBackprop, gradients.largest),
        ("deep-lift", attr.DeepLift, gradients.summed),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor", "ignore:\\s*Setting")
def test_equals_captum_called_directly(name, method, reduce, channels):
    model, x = settled(small_model(channels)), images(5, channels)
    expected = reduce(method(model).attribute(x, target=TARGETS)).detach()
    found = explain(name, model, x)
    assert found.shape == (5, 1, 16, 16)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SUMMED)
def test_linear_network_by_hand(name):
    model, x = seeded(Linear), images(4)
    weight = model.head.weight[TARGETS[:4]].detach().reshape(4, 3, 16, 16)
    assert torch.allclose(explain(name, model, x), (weight * x).sum(1, keepdim=True), atol=1e-5)


def test_rates_of_a_linear_network_by_hand():
    model, x = seeded(Linear), images(4)
    expected = model.head.weight[TARGETS[:4]].detach().reshape(4, 3, 16, 16).abs().amax(1, keepdim=True)
    for name in ("saliency", "smoothgrad", "guided-backprop"):
        assert torch.allclose(explain(name, model, x), expected, atol=1e-6)


def models():
    resnet = ModelSpec(arch="resnet18", num_classes=4, in_channels=3, image_size=32)
    return {
        "plain": seeded(Plain),
        "overlapping pools": seeded(DeepPools),
        "residual": settled(small_model()),
        "imagenet stem": settled(seeded(build, resnet)),
    }


@pytest.mark.parametrize("network", list(models()))
def test_completeness(network):
    model, x = models()[network], images(3, side=32)
    change = (model(x) - model(torch.zeros_like(x)))[range(3), TARGETS[:3]].detach()
    for name, tolerance in (("integrated-gradients", 0.05), ("deep-lift", 1e-3)):
        maps = explain(name, model, x)
        scale = maps.abs().sum((1, 2, 3)).clamp_min(1e-3)
        assert ((maps.sum((1, 2, 3)) - change) / scale).abs().max() < tolerance, name


@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor", "ignore:\\s*Setting")
def test_captum_alone_loses_contributions_at_pooling():
    model, x = seeded(DeepPools), images(3, side=32)
    change = (model(x) - model(torch.zeros_like(x)))[range(3), TARGETS[:3]].detach()
    stock = attr.DeepLift(model).attribute(x, target=TARGETS[:3]).sum((1, 2, 3)).detach()
    assert (stock - change).abs().max() > 1e-2 * change.abs().max()
    found = explain("deep-lift", model, x).sum((1, 2, 3))
    assert torch.allclose(found, change, atol=1e-5)


def test_rescale_rule_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    model[0].weight.data.fill_(2.0)
    model[0].bias.data.fill_(-1.0)
    model[3].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0] * 4])
    x = torch.tensor([[1.0, -1.0], [0.25, 2.0]])[None, None]
    # relu(2x − 1) − relu(−1): the whole change of each unit goes to its pixel.
    expected = torch.tensor([[1.0, 0.0], [0.0, 12.0]])
    assert torch.allclose(explain("deep-lift", model, x, torch.tensor([0]))[0, 0], expected, atol=1e-6)
    gradient = torch.tensor([[2.0, 0.0], [0.0, 8.0]])
    assert torch.allclose(explain("saliency", model, x, torch.tensor([0]))[0, 0], gradient)
    assert torch.allclose(explain("input-x-gradient", model, x, torch.tensor([0])), gradient * x)


def test_guided_backprop_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).eval()
    model[1].weight.data = torch.eye(4)
    model[3].weight.data = torch.tensor([[1.0, -2.0, 3.0, 4.0], [0.0] * 4])
    x = torch.tensor([[1.0, 1.0], [-1.0, 2.0]])[None, None]
    expected = torch.tensor([[1.0, 0.0], [0.0, 4.0]])  # −2 is no positive gradient, −1 no active unit
    assert torch.equal(explain("guided-backprop", model, x, torch.tensor([0]))[0, 0], expected)


class GuidedReLU(nn.Module):
    """The rule as an autograd function of its own."""

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clamp_min(0)

        @staticmethod
        def backward(context, gradient):
            return gradient.clamp_min(0) * (context.saved_tensors[0] > 0)

    def forward(self, x):
        return self.Rule.apply(x)


def test_guided_backprop_where_modules_are_used_twice():
    model, x = torchvision_resnet(), images(1, side=32)
    guided = torchvision_resnet()
    for name, module in list(guided.named_modules()):
        if isinstance(module, nn.ReLU):
            guided.set_submodule(name, GuidedReLU())
    pixels = x.clone().requires_grad_()
    expected = torch.autograd.grad(guided(pixels)[0, 0], pixels)[0].abs().amax(1, keepdim=True)
    assert torch.allclose(explain("guided-backprop", model, x), expected, atol=1e-5 * float(expected.max()))


def test_smoothgrad_is_the_mean_over_its_noise():
    model, x = seeded(Plain), images(2)
    fields = normal(0, "smoothgrad", torch.zeros(1, dtype=torch.int64), 32, x[0].numel())[0]
    for n in range(2):
        sigma, total = 0.15 * float(x[n].max() - x[n].min()), torch.zeros_like(x[n])
        for field in fields:
            noisy = (x[n] + sigma * field.reshape(x[n].shape)).requires_grad_()
            total += torch.autograd.grad(model(noisy[None])[0, TARGETS[n]], noisy)[0]
        expected = (total / 32).abs().amax(0)
        assert torch.allclose(explain("smoothgrad", model, x)[n, 0], expected, atol=1e-5 * float(expected.max()))


def test_smoothgrad_of_a_constant_image_is_its_saliency():
    model, x = small_model(), torch.full((2, 3, 16, 16), 0.3)
    assert torch.allclose(explain("smoothgrad", model, x), explain("saliency", model, x), atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    model, x = seeded(Plain), images(5)
    whole = {name: explain(name, model, x) for name in ("saliency", "integrated-gradients", "deep-lift", "lrp")}
    monkeypatch.setattr(chunks, "BACKWARD_PIXELS", 2 * 16 * 16)
    for name, expected in whole.items():
        assert torch.allclose(explain(name, model, x), expected, atol=1e-5 * float(expected.abs().max())), name


class Dynamic(Plain):
    """A forward pass that depends on the values it meets."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        ("deep-lift", torchvision_resnet, "uses the module '.*relu' 2 times"),
        ("deep-lift", lambda: seeded(Functional), "no rule for 'tanh'"),
        ("deep-lift", tiny_vit, "no rule for LayerNorm"),
        ("deep-lift", lambda: seeded(Dynamic), "cannot follow"),
        ("guided-backprop", lambda: seeded(Functional), "no rule for 'tanh'"),
        ("guided-backprop", tiny_vit, "no rule for LayerNorm"),
        ("lrp", lambda: seeded(Dynamic), "cannot follow"),
    ],
)
def test_refusals(name, model, reason):
    with pytest.raises(UsageError, match=reason) as refusal:
        explain(name, model(), images(1, side=32))
    assert "integrated-gradients" in refusal.value.remedy


def test_normalised_features_are_refused_where_no_rule_covers_them():
    spec = ModelSpec(arch="cnn-tiny", num_classes=4, in_channels=3, image_size=16, normalize_features=True)
    for name in ("deep-lift", "guided-backprop", "lrp"):
        with pytest.raises(UsageError, match="no rule for 'normalize'"):
            explain(name, seeded(build, spec), images(1))
