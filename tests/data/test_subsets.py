"""Samples and held-out parts: properties over arbitrary label lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xeval.data import holdout, stratified
from xeval.data.subsets import shuffled
from xeval.errors import UsageError

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(np.array)
SEEDS = st.integers(-(2**40), 2**40)


@given(LABELS, st.integers(1, 150), SEEDS)
def test_sample_is_balanced_as_far_as_classes_reach(labels: np.ndarray, limit: int, seed: int) -> None:
    chosen = stratified(labels, limit, seed)
    assert len(chosen) == min(limit, len(labels))
    assert (np.diff(chosen) > 0).all()
    counts, whole = np.bincount(labels[chosen], minlength=7), np.bincount(labels, minlength=7)
    for label in np.unique(labels):
        if counts[label] < whole[label]:  # a class with images left is at most one behind the fullest
            assert counts[label] >= counts.max() - 1


@given(LABELS, st.integers(1, 60), SEEDS)
def test_a_larger_sample_contains_the_smaller(labels: np.ndarray, limit: int, seed: int) -> None:
    assert set(stratified(labels, limit, seed)) <= set(stratified(labels, limit + 7, seed))


@given(LABELS, st.floats(0.01, 0.99), SEEDS)
def test_holdout_partitions_and_keeps_the_shares(labels: np.ndarray, share: float, seed: int) -> None:
    fit, held = holdout(labels, share, seed)
    assert sorted([*fit, *held]) == list(range(len(labels)))
    wanted, sizes = math.ceil(share * len(labels) - 1e-9), np.unique(labels, return_counts=True)[1]
    assert len(held) <= wanted
    if (share * sizes + 1 <= sizes - 1).all():  # no class too small to give its part
        assert len(held) == wanted
    for label in np.unique(labels):
        size = int((labels == label).sum())
        kept = int((labels[held] == label).sum())
        assert abs(kept - share * size) <= 1 + 1e-6
        assert kept < size


def test_holdout_of_a_fifth_is_the_usual_rounding() -> None:
    labels = np.repeat(np.arange(10), 100)
    fit, held = holdout(labels, 0.2, 0)
    assert np.bincount(labels[held]).tolist() == [20] * 10
    assert np.bincount(labels[fit]).tolist() == [80] * 10


def test_draws_depend_on_the_seed_alone() -> None:
    labels = np.arange(50) % 5
    assert np.array_equal(stratified(labels, 20, 3), stratified(labels, 20, 3))
    assert not np.array_equal(stratified(labels, 20, 3), stratified(labels, 20, 4))
    before = np.random.get_state()[1].copy()
    holdout(labels, 0.3, 1)
    assert np.array_equal(before, np.random.get_state()[1])


def test_shuffle_is_splitmix64() -> None:
    """The published generator in Python integers."""

    def mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        return state ^ (state >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # first output of the reference implementation seeded with 0
    assert shuffled(30, 5).tolist() == sorted(range(30), key=lambda position: mix(mix(5) ^ position))


def test_every_position_comes_first_equally_often() -> None:
    first = np.bincount([shuffled(10, seed)[0] for seed in range(3000)], minlength=10)
    assert ((first - 300) ** 2 / 300).sum() < 33  # chi-square, 9 degrees of freedom, p < 1e-4


@pytest.mark.parametrize("limit", [0, -1])
def test_empty_sample_is_a_mistake(limit: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        stratified(np.zeros(3, dtype=int), limit, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, float("nan")])
def test_share_outside_the_open_interval_is_a_mistake(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        holdout(np.zeros(3, dtype=int), share, 0)
