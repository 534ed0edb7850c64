"""Probes against scikit-learn and a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xeval.training.probe import Probe, full_batch, lbfgs


def blobs(rows: int = 120, dim: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + torch.randn(rows, dim, generator=generator), labels


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("weight_decay", [1e-4, 1e-2])
def test_lbfgs_equals_scikit_learn(weight_decay: float, biased: bool) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = blobs()
    x = x.double()
    strength = {"C": 1 / (weight_decay * len(x)), "tol": 1e-10, "max_iter": 10000}
    oracle = LogisticRegression(fit_intercept=biased, **strength).fit(x.numpy(), y.numpy())
    probe = lbfgs(x, y, 3, weight_decay=weight_decay, biased=biased)
    expected = torch.from_numpy(oracle.predict_proba(x.numpy())).float()
    torch.testing.assert_close(F.linear(x.float(), *probe).softmax(1), expected, rtol=0, atol=1e-4)


def test_lbfgs_is_at_a_minimum_even_for_badly_scaled_features() -> None:
    x, y = blobs()
    x = x * torch.tensor([100, 1, 0.01, 1, 10.0])
    probe = lbfgs(x, y, 3, weight_decay=1e-3)
    assert probe.bias is not None
    weight, bias = probe.weight.double().requires_grad_(), probe.bias.double().requires_grad_()
    loss = F.cross_entropy(F.linear(x.double(), weight, bias), y) + 1e-3 / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-4


def test_full_batch_equals_the_update_rule_by_hand() -> None:
    x, y = blobs(30)
    start = Probe(torch.zeros(3, 5), torch.zeros(3))
    weight, velocity = torch.zeros(3, 5), torch.zeros(3, 5)
    for step in range(3):
        probe = full_batch(x, y, start, steps=step + 1)
        bias = full_batch(x, y, start, steps=step).bias if step else torch.zeros(3)
        error = (F.linear(x, weight, bias).softmax(1) - F.one_hot(y, 3)) / len(x)
        velocity = 0.9 * velocity + error.T @ x + 1e-4 * weight
        weight = weight - 0.1 * velocity
        torch.testing.assert_close(probe.weight, weight)
    assert torch.equal(start.weight, torch.zeros(3, 5))
