"""The losses against slow loops from the papers, against pytorch-metric-learning, and where the value is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from xeval.training.losses import collapsed_value, nt_xent, semi_hard_negatives, supcon, triplet


def embeddings(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def slow_supcon(e: Tensor, labels: list[int], tau: float, background: Tensor | None = None, copies: int = 1) -> float:
    terms = []
    extra = [] if background is None else [row for row in background for _ in range(copies)]
    for i in range(len(e)):
        positives = [p for p in range(len(e)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        denominator = sum(math.exp(e[i] @ e[a] / tau) for a in range(len(e)) if a != i)
        denominator += sum(math.exp(e[i] @ b / tau) for b in extra)
        terms.append(-sum(math.log(math.exp(e[i] @ e[p] / tau) / denominator) for p in positives) / len(positives))
    return sum(terms) / len(terms)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=3, max_size=12), st.sampled_from([0.07, 0.1, 0.5]))
def test_supcon_equals_the_paper_in_loops(seed: int, labels: list[int], tau: float) -> None:
    labels = [*labels, labels[0]]  # at least one pair
    e = embeddings(len(labels), seed).double()
    expected = slow_supcon(e, labels, tau)
    assert float(supcon(e, torch.tensor(labels), temperature=tau)) == pytest.approx(expected, abs=1e-8)


def test_supcon_equals_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    e, labels = embeddings(24), torch.arange(6).repeat(4)
    assert float(supcon(e, labels, temperature=0.1)) == pytest.approx(
        float(losses.SupConLoss(temperature=0.1)(e, labels)), abs=1e-5
    )


def test_nt_xent_equals_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    e = embeddings(16)
    expected = losses.NTXentLoss(temperature=0.5)(e, torch.arange(8).repeat(2))
    assert float(nt_xent(e, temperature=0.5)) == pytest.approx(float(expected), abs=1e-5)


def test_base_temperature_is_a_pure_scale() -> None:
    e, labels = embeddings(10), torch.arange(5).repeat(2)
    plain = supcon(e, labels, temperature=0.1)
    torch.testing.assert_close(supcon(e, labels, temperature=0.1, base_temperature=0.07), plain * 0.1 / 0.07)
    torch.testing.assert_close(supcon(e, labels, temperature=0.1, base_temperature=0.1), plain)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_a_collapsed_encoder_gives_ln_2n_minus_1(n: int) -> None:
    e = F.normalize(torch.ones(2 * n, 4))
    loss = supcon(e, torch.arange(n).repeat(2) % 3, temperature=0.1, base_temperature=0.07)
    assert float(loss) == pytest.approx(collapsed_value(2 * n, 0.1 / 0.07), rel=1e-6)
    assert collapsed_value(2 * n) == math.log(2 * n - 1)


def test_sharp_temperatures_do_not_overflow() -> None:
    e = embeddings(8).requires_grad_()
    loss = supcon(e, torch.arange(4).repeat(2), temperature=1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(e.grad).all()


@pytest.mark.fault("T5")
def test_anchors_without_a_positive_do_not_count() -> None:
    e, labels = embeddings(7).double(), [0, 0, 1, 1, 2, 3, 4]
    assert float(supcon(e, torch.tensor(labels))) == pytest.approx(slow_supcon(e, labels, 0.1))


@pytest.mark.fault("T5")
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0]])
def test_a_batch_without_any_positive_gives_zero_and_finite_gradients(labels: list[int]) -> None:
    e = embeddings(len(labels)).requires_grad_()
    loss = supcon(e, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(e.grad, torch.zeros_like(e))


def test_background_stands_in_the_denominators_only() -> None:
    e, labels, background = embeddings(8).double(), [0, 1, 2, 3] * 2, embeddings(5, seed=1).double()
    for copies in (1, 2):
        expected = slow_supcon(e, labels, 0.1, background, copies)
        once = supcon(e, torch.tensor(labels), background=background, background_weight=copies)
        twice = supcon(e, torch.tensor(labels), background=background.repeat(copies, 1))
        assert float(once) == pytest.approx(expected, abs=1e-9)
        assert float(twice) == pytest.approx(expected, abs=1e-9)


def test_background_is_pushed_away_and_never_pulled() -> None:
    """∂loss/∂b = mean_i w_ib e_i/τ, w_ib the softmax weights: as a positive or an anchor it would have other terms."""
    e, labels = embeddings(6).double(), torch.tensor([0, 1, 2] * 2)
    background = embeddings(2, seed=1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(supcon(e, labels, temperature=0.1, background=background), background)
    similarity = torch.cat([e @ e.T, e @ background.detach().T], 1) / 0.1
    similarity[:, :6].fill_diagonal_(-torch.inf)
    weights = similarity.softmax(1)[:, 6:]
    torch.testing.assert_close(gradient, weights.T @ e / 0.1 / 6)


def test_weight_two_has_the_gradients_of_two_copies() -> None:
    e, labels, background = (
        embeddings(6).double().requires_grad_(),
        torch.tensor([0, 1, 2] * 2),
        embeddings(3, 1).double(),
    )
    (once,) = torch.autograd.grad(supcon(e, labels, background=background, background_weight=2), e)
    (copies,) = torch.autograd.grad(supcon(e, labels, background=background.repeat(2, 1)), e)
    torch.testing.assert_close(once, copies)


def test_no_background_image_is_the_plain_loss() -> None:
    e, labels = embeddings(6), torch.tensor([0, 1, 2] * 2)
    torch.testing.assert_close(supcon(e, labels, background=e[:0], background_weight=2), supcon(e, labels))


def slow_triplets(x: Tensor, labels: list[int], margin: float) -> list[tuple[int, int, int]]:
    chosen = []
    for a in range(len(x)):
        negatives = sorted((float((x[a] - x[n]).norm()), n) for n in range(len(x)) if labels[n] != labels[a])
        for p in range(len(x)):
            if p == a or labels[p] != labels[a] or not negatives:
                continue
            positive = float((x[a] - x[p]).norm())
            semi = [pair for pair in negatives if positive < pair[0] < positive + margin]
            chosen.append((a, p, (semi or negatives)[0][1]))
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 2), min_size=3, max_size=10), st.sampled_from([0.1, 0.3, 2.0]))
def test_triplet_equals_loops(seed: int, labels: list[int], margin: float) -> None:
    x = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    terms = [
        max(0.0, float((x[a] - x[p]).norm() - (x[a] - x[n]).norm()) + margin)
        for a, p, n in slow_triplets(x, labels, margin)
    ]
    expected = sum(terms) / len(terms) if terms else 0.0
    assert float(triplet(x, torch.tensor(labels), margin=margin)) == pytest.approx(expected, abs=1e-9)


def test_triplet_equals_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.reducers import MeanReducer

    x, labels = torch.randn(20, 5, generator=torch.Generator().manual_seed(3)), torch.arange(4).repeat(5)
    triplets = tuple(torch.tensor(column) for column in zip(*slow_triplets(x, labels.tolist(), 0.3), strict=True))
    oracle = losses.TripletMarginLoss(0.3, distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer())
    assert float(triplet(x, labels, margin=0.3)) == pytest.approx(float(oracle(x, labels, triplets)), abs=1e-5)


def all_triplets(x: Tensor, labels: list[int], margin: float) -> list[float]:
    """Losses of all semi-hard triplets; of the batch-hard ones where there are none."""
    rows = range(len(x))
    d = [[float((x[a] - x[b]).norm()) for b in rows] for a in rows]
    positives = {a: [p for p in rows if p != a and labels[p] == labels[a]] for a in rows}
    negatives = {a: [n for n in rows if labels[n] != labels[a]] for a in rows}
    semi = [
        d[a][p] - d[a][n] + margin
        for a in rows
        for p in positives[a]
        for n in negatives[a]
        if 0 < d[a][n] - d[a][p] <= margin
    ]
    hard = [
        max(0.0, max(d[a][p] for p in positives[a]) - min(d[a][n] for n in negatives[a]) + margin)
        for a in rows
        if positives[a] and negatives[a]
    ]
    return semi or hard


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 2), min_size=3, max_size=9), st.sampled_from([0.01, 0.3, 2.0]))
def test_all_semi_hard_triplets_equal_loops(seed: int, labels: list[int], margin: float) -> None:
    x = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    terms = all_triplets(x, labels, margin)
    expected = sum(terms) / len(terms) if terms else 0.0
    x.requires_grad_()
    loss = triplet(x, torch.tensor(labels), margin=margin, miner="all")
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("found", [True, False])
def test_all_semi_hard_triplets_equal_pytorch_metric_learning(found: bool) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
    from pytorch_metric_learning.reducers import MeanReducer

    distance = LpDistance(normalize_embeddings=False)
    x, labels = torch.randn(20, 5, generator=torch.Generator().manual_seed(3)), torch.arange(4).repeat(5)
    if not found:  # on a line with ever larger gaps no two distances lie within the margin
        x = (torch.arange(20.0) ** 3 * 7)[:, None]
    mined = TripletMarginMiner(0.3, type_of_triplets="semihard", distance=distance)(x, labels)
    assert bool(len(mined[0])) == found
    if not found:
        mined = BatchHardMiner(distance=distance)(x, labels)
    oracle = losses.TripletMarginLoss(0.3, distance=distance, reducer=MeanReducer())
    ours = float(triplet(x, labels, margin=0.3, miner="all"))
    assert ours == pytest.approx(float(oracle(x, labels, mined)), rel=1e-5, abs=1e-6)
    if found:
        assert ours != pytest.approx(float(triplet(x, labels, margin=0.3)), rel=1e-3)


def test_semi_hard_choice_by_hand() -> None:
    """On a line: anchor 0, positive at 1; negatives at 0.5, 1.2, 1.25, 3."""
    distances = torch.tensor([0, 1, 0.5, 1.2, 1.25, 3]).repeat(6, 1)
    negative = torch.tensor([False, False, True, True, True, True]).repeat(6, 1)
    assert float(semi_hard_negatives(distances, negative, 0.3)[0, 1]) == pytest.approx(1.2)
    assert float(semi_hard_negatives(distances, negative, 0.1)[0, 1]) == 0.5  # none semi-hard: the closest


def test_identical_features_cost_the_margin_and_have_finite_gradients() -> None:
    x = torch.ones(6, 4, requires_grad=True)
    loss = triplet(x, torch.tensor([0, 1, 2] * 2), margin=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert torch.isfinite(x.grad).all()


@pytest.mark.fault("T5")
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_a_batch_without_triplets_gives_zero(labels: list[int]) -> None:
    x = embeddings(3).requires_grad_()
    loss = triplet(x, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(x.grad).all()
