import numpy as np
import pytest
import torch
from captum import attr
from torch import nn

from tests.explainers.networks import Linear, seeded
from tests.scenes import images, small_model
from xeval.explainers import chunks, perturbation
from xeval.explainers.perturbation import cells, kernel_shap, lime, occlusion

TARGETS = torch.tensor([0, 1, 2, 3, 1])


def cell_sums(model, x, targets):
    """Contribution of each cell of the 8×8 grid in a linear network, N×1×8×8."""
    weight = model.head.weight[targets].detach().reshape(x.shape)
    mask, out = cells(*x.shape[-2:]), torch.zeros(len(x), 1, 8, 8)
    share = (weight * x).sum(1)
    for number in range(64):
        out[:, 0, number // 8, number % 8] = share[:, mask == number].sum(1)
    return out


def test_occlusion_in_plain_loops():
    model, x = small_model(), images(2)
    found = occlusion(model, "", x, TARGETS[:2])
    with torch.no_grad():
        for n in range(2):
            clean = model(x[n : n + 1])[0, TARGETS[n]]
            total, times = torch.zeros(16, 16), torch.zeros(16, 16)
            for top in range(15):  # windows of side 2 with step 1
                for left in range(15):
                    hidden = x[n : n + 1].clone()
                    hidden[..., top : top + 2, left : left + 2] = 0
                    total[top : top + 2, left : left + 2] += clean - model(hidden)[0, TARGETS[n]]
                    times[top : top + 2, left : left + 2] += 1
            assert torch.allclose(found[n, 0], total / times, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 4), (4, 32)])
def test_occlusion_of_narrow_images_is_that_of_the_turned_ones(shape):
    """The window fits the shorter side, so turning the image and the network turns the map."""

    class Turned(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return torch.stack([(x * self.weight).sum((1, 2, 3)), x.sum((1, 2, 3))], 1)

    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 1, *shape, generator=draw), torch.randn(1, 1, *shape, generator=draw)
    targets = torch.tensor([0, 0])
    found, turned = occlusion(Turned(weight), "", x, targets), occlusion(Turned(weight.mT), "", x.mT, targets)
    torch.testing.assert_close(found, turned.mT)
    torch.testing.assert_close(found, (weight * x).expand_as(x), atol=1e-5, rtol=0)  # the window is one pixel


def test_occlusion_equals_captum_called_directly():
    model, x = small_model(1), images(3, 1, side=20)  # the last windows are cut off at the border
    expected = attr.Occlusion(model).attribute(x, (1, 2, 2), strides=(1, 1, 1), target=TARGETS[:3]).detach()
    assert torch.allclose(occlusion(model, "", x, TARGETS[:3]), expected, atol=1e-6)


def test_occlusion_of_a_linear_network_by_hand():
    model, x = seeded(Linear, 1, 8), images(2, 1, side=8)  # windows of one pixel
    weight = model.head.weight[TARGETS[:2]].detach().reshape(x.shape)
    assert torch.allclose(occlusion(model, "", x, TARGETS[:2]), weight * x, atol=1e-6)


def test_the_grid():
    assert torch.equal(cells(8, 8), torch.arange(64).reshape(8, 8))
    for side in (16, 20, 63):
        mask = cells(side, side)
        sizes = torch.bincount(mask.flatten())
        assert len(sizes) == 64
        assert sizes.max() <= (-(-side // 8)) ** 2
    assert cells(5, 5).unique().numel() == 25


@pytest.mark.parametrize("side", [16, 20])
def test_additive_networks_are_recovered(side):
    model, x = seeded(Linear, 3, side), images(3, side=side)
    expected = cell_sums(model, x, TARGETS[:3])
    assert torch.allclose(kernel_shap(model, "", x, TARGETS[:3]), expected, atol=1e-3)
    found = lime(model, "", x, TARGETS[:3])
    for n in range(3):  # ridge regression shrinks a little
        assert np.corrcoef(found[n].flatten(), expected[n].flatten())[0, 1] > 0.99
        assert torch.allclose(found[n], expected[n], atol=0.1 * float(expected[n].abs().max()))


def test_kernel_shap_is_complete():
    model, x = small_model(), images(2)
    change = (model(x) - model(torch.zeros_like(x)))[range(2), TARGETS[:2]].detach()
    assert torch.allclose(kernel_shap(model, "", x, TARGETS[:2]).sum((1, 2, 3)), change, atol=1e-4)


class Corners(nn.Module):
    """An interaction: logit 0 is the product of two corner pixels, minus a third."""

    def forward(self, x):
        score = 4 * x[:, 0, 0, 0] * x[:, 0, 7, 7] - x[:, 0, 0, 7]
        return torch.stack([score, torch.zeros_like(score)], 1)


def test_shapley_values_of_an_interaction():
    found = kernel_shap(Corners(), "", torch.ones(1, 1, 8, 8), torch.tensor([0]))[0, 0]
    expected = torch.zeros(8, 8)
    expected[0, 0] = expected[7, 7] = 2  # a product is shared out evenly
    expected[0, 7] = -1
    assert (found - expected).abs().max() < 0.5  # 512 coalitions of 64 cells
    assert found.sum().item() == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("method", ["Lime", "KernelShap"])
def test_equals_captum_with_the_same_seed(method):
    from captum._utils.models.linear_model import SkLearnRidge

    model, x = small_model(), images(1)
    options = {"interpretable_model": SkLearnRidge(alpha=1.0)} if method == "Lime" else {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(perturbation.SEED)
        expected = getattr(attr, method)(model, **options).attribute(
            x, target=0, feature_mask=cells(16, 16)[None, None], n_samples=512, return_input_shape=False
        )
    found = {"Lime": lime, "KernelShap": kernel_shap}[method](model, "", x, TARGETS[:1])
    assert torch.allclose(found.flatten(), expected.flatten(), atol=1e-5)


def test_chunks_change_nothing(monkeypatch):
    model, x = small_model(), images(2)
    whole = [method(model, "", x, TARGETS[:2]) for method in (occlusion, lime, kernel_shap)]
    monkeypatch.setattr(chunks, "FORWARD_PIXELS", 40 * 16 * 16)
    for method, expected in zip((occlusion, lime, kernel_shap), whole, strict=True):
        assert torch.allclose(method(model, "", x, TARGETS[:2]), expected, atol=1e-5)
