import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.networks import Functional, Plain, seeded, settled, tiny_vit, torchvision_resnet
from tests.scenes import images, small_model
from xeval.errors import UsageError
from xeval.explainers.lrp import canonical, lrp
from xeval.models import Classifier, ModelSpec, build
from xeval.models.architectures import BasicBlock, Bottleneck

TARGETS = torch.tensor([0, 1, 2])


def conv_relevance(x, weight, relevance, pad):
    """z⁺ by its definition: relevance goes to the inputs in proportion to their positive contributions."""
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = np.zeros_like(padded)
    for k in range(weight.shape[0]):
        for i in range(height):
            for j in range(width):
                z = padded[:, i : i + 3, j : j + 3] * np.clip(weight[k], 0, None)
                if z.sum() > 0:
                    out[:, i : i + 3, j : j + 3] += z / z.sum() * relevance[k, i, j]
    return out[:, pad : pad + height, pad : pad + width]


def by_hand(model, image, target):
    """Relevance of one image in ``Plain``, layer by layer."""
    value = lambda t: t.detach().double().numpy()  # noqa: E731
    with torch.no_grad():
        first = model.act1(model.first(image[None]))
        pooled = model.pool(first)
        second = model.act2(model.second(pooled))
    cells = second.shape[-1] * second.shape[-2]
    relevance = value(second[0]) * value(model.head.weight[target])[:, None, None] / cells
    logit = relevance.sum() + value(model.head.bias[target])
    relevance *= logit / logit
    relevance = conv_relevance(value(pooled[0]), value(model.second.weight), relevance, 1)
    before = np.zeros_like(value(first[0]))
    for k in range(relevance.shape[0]):
        for i in range(relevance.shape[1]):
            for j in range(relevance.shape[2]):
                window = value(first[0, k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2])
                y, x = np.unravel_index(window.argmax(), window.shape)
                before[k, 2 * i + y, 2 * j + x] += relevance[k, i, j]
    ones = np.ones_like(value(image))
    flat = conv_relevance(ones, np.ones_like(value(model.first.weight)), before, 1)
    return flat.sum(0)


def test_rules_in_plain_loops():
    model, x = seeded(Plain), images(3, side=8)
    found = lrp(model, "", x, TARGETS)[:, 0].numpy()
    for n in range(3):
        expected = by_hand(model, x[n], int(TARGETS[n]))
        assert np.allclose(found[n], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("arch", ["resnet-small", "resnet18", "cnn-tiny"])
def test_relevance_is_conserved(arch):
    model = settled(seeded(build, ModelSpec(arch=arch, num_classes=4, in_channels=3, image_size=32)))
    x = images(3, side=32)
    total = lrp(model, "", x, TARGETS).sum((1, 2, 3))
    expected = model(x)[range(3), TARGETS] - model.head.bias[TARGETS]
    assert torch.allclose(total, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build_model", [torchvision_resnet, small_model, lambda: seeded(Plain)])
def test_canonical_copy_is_the_same_function(build_model):
    model, x = settled(build_model()), images(2, side=32)
    copy = canonical(model)
    assert torch.allclose(copy(x), model(x), atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert not {id(p) for p in copy.parameters()} & {id(p) for p in model.parameters()}


def test_torchvision_resnet_is_conserved_too():
    model, x = settled(torchvision_resnet()), images(3, side=64)
    total = lrp(model, "", x, TARGETS).sum((1, 2, 3))
    expected = model(x)[range(3), TARGETS] - model.fc.bias[TARGETS]
    assert torch.allclose(total, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_captum_alone_counts_residual_sums_twice():
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    model, x = small_model(), images(1)
    for module in model.modules():
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Sequential) and not len(module)):
            module.rule = EpsilonRule()
    stock = LRP(model).attribute(x, 0).sum()
    logit = model(x)[0, 0] - model.head.bias[0]
    assert not torch.allclose(stock, logit, rtol=0.1)
    assert torch.allclose(lrp(small_model(), "", x, TARGETS[:1]).sum(), logit, rtol=1e-3)


def zennit_map(model, x, targets, *, biases):
    """zennit's EpsilonPlusFlat, with its sums and pooling as modules; ``biases`` of convolutions as it has them."""
    from zennit.attribution import Gradient
    from zennit.canonizers import AttributeCanonizer, SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlusFlat
    from zennit.layer import Sum
    from zennit.rules import ZPlus
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Convolution

    def basic(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.sum(torch.stack([self.downsample(x), y], -1)))

    def bottleneck(self, x):
        y = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.sum(torch.stack([self.downsample(x), self.bn3(self.conv3(y))], -1)))

    def classifier(self, x):
        return self.head(self.pool(self.stages(x)).flatten(1))

    def ours(_name, module):
        forward = {BasicBlock: basic, Bottleneck: bottleneck, Classifier: classifier}.get(type(module))
        return forward and {"forward": forward.__get__(module), "sum": Sum(), "pool": nn.AdaptiveAvgPool2d(1)}

    own = isinstance(model, Classifier)
    canonizers = [SequentialMergeBatchNorm(), AttributeCanonizer(ours)] if own else [ResNetCanonizer()]
    plus = [] if biases else [((Convolution,), ZPlus(stabilizer=1e-9, zero_params="bias"))]
    composite = EpsilonPlusFlat(epsilon=1e-9, stabilizer=1e-9, layer_map=plus, canonizers=canonizers)
    with Gradient(model, composite) as attributor:
        logits = model(x).detach()
        _, relevance = attributor(x.clone(), logits * nn.functional.one_hot(targets, logits.shape[1]))
    return relevance.detach().sum(1, keepdim=True)


OURS = {"basic": "resnet-small", "resnet18": "resnet18", "bottleneck": "resnet50"}


@pytest.mark.parametrize("arch", [*OURS, "torchvision"])
def test_equals_zennit(arch):
    """In float64, without the biases of convolutions; with them zennit's differs, and loses relevance to them.

    zennit leaves ε of BatchNorm in the layers that it has merged, which scales each of them by 1/√(1 + ε): here ε is 0.
    """
    pytest.importorskip("zennit", reason="zennit is not installed: pip install zennit")
    if arch == "torchvision":
        model = torchvision_resnet()
    else:
        model = seeded(build, ModelSpec(arch=OURS[arch], num_classes=4, in_channels=3, image_size=16))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    model, x = settled(model).double(), images(2, side=16 if arch != "torchvision" else 64).double()
    found, wanted = lrp(model, "", x, TARGETS[:2]), zennit_map(model, x, TARGETS[:2], biases=False)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))
    assert float(wanted.std()) > 0
    absorbed = zennit_map(model, x, TARGETS[:2], biases=True)
    assert not torch.allclose(found, absorbed, atol=1e-2 * float(wanted.abs().max()))
    assert bool((absorbed.sum((1, 2, 3)).abs() < wanted.sum((1, 2, 3)).abs()).all())


class PreActivation(nn.Module):
    """BatchNorm before the convolution."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.head = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(self.norm(x)).mean((-2, -1)))


class TwoConvolutions(nn.Module):
    """No activation between two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.two(self.one(x)).mean((-2, -1)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (tiny_vit, "no rule for LayerNorm"),
        (lambda: seeded(Functional), "no rule for 'tanh'"),
        (lambda: seeded(PreActivation), "does not follow a convolution"),
        (lambda: seeded(TwoConvolutions), "may be negative"),
    ],
)
def test_networks_without_rules_are_refused(model, reason):
    with pytest.raises(UsageError, match=reason) as refusal:
        lrp(model(), "", images(1, side=32), torch.tensor([0]))
    assert "integrated-gradients" in refusal.value.remedy
