"""Which pixels are kept: by hand, exact fractions, seeded ties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xeval.errors import UsageError
from xeval.perturb import masks
from xeval.perturb.draws import image_keys


@pytest.mark.parametrize(
    ("q", "pixels", "k"),
    [(0.15, 1024, 153), (0.3, 1024, 307), (0.45, 1024, 460), (0.15, 4096, 614), (0.3, 4096, 1228), (0.45, 4096, 1843),
     (0.29, 100, 29), (0.57, 100, 57), (0.0, 64, 0), (1.0, 64, 64)],
)  # fmt: skip
def test_kept_is_exact(q, pixels, k):
    assert masks.kept(q, pixels) == k


@pytest.mark.parametrize("q", [-0.1, 1.5])
def test_kept_refuses_what_is_no_fraction(q):
    with pytest.raises(UsageError, match="outside"):
        masks.kept(q, 100)


def test_ranks_by_hand():
    maps = torch.tensor([[[[0.1, 0.9], [-0.5, 0.4]]]])
    order = masks.tie_break(0, image_keys(["x"]), 4)
    assert masks.ranking(maps, order).tolist() == [[[2, 0], [3, 1]]]
    assert (masks.ranking(maps, order) < 2).tolist() == [[[False, True], [False, True]]]


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.5, 2.0]), min_size=9, max_size=9), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_ranks_are_a_permutation_that_sorts(values, seed):
    maps = torch.tensor(values).reshape(1, 1, 3, 3)
    found = masks.ranking(maps, masks.tie_break(seed, image_keys(["x"]), 9)).flatten()
    assert sorted(found.tolist()) == list(range(9))
    by_rank = torch.empty(9)
    by_rank[found] = maps.flatten()
    assert (by_rank[:-1] >= by_rank[1:]).all()


def test_ties_are_broken_by_the_seed_not_by_the_place():
    maps = torch.zeros(200, 1, 4, 4)
    keys = image_keys([str(i) for i in range(200)])
    first = masks.ranking(maps, masks.tie_break(0, keys, 16))[:, 0, 0].double()
    assert abs(first.mean() - 7.5) < 1.5
    assert torch.equal(
        masks.ranking(maps[:3], masks.tie_break(0, keys[:3], 16)),
        masks.ranking(maps, masks.tie_break(0, keys, 16))[:3],
    )


def test_cut_ties_by_hand():
    maps = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 3)
    assert masks.cut_ties(maps, 1).item() == 0
    assert masks.cut_ties(maps, 2).item() == pytest.approx(3 / 6)
    assert masks.cut_ties(maps, 4).item() == 0
    assert masks.cut_ties(maps, 5).item() == pytest.approx(2 / 6)
    assert masks.cut_ties(maps, 6).item() == 0


def test_minmax_is_per_map_and_constant_maps_become_zero():
    maps = torch.stack([torch.tensor([[[1.0, 3.0], [2.0, 1.0]]]), torch.full((1, 2, 2), 5.0)])
    found = masks.minmax(maps)
    assert found[0].flatten().tolist() == [0, 1, 0.5, 0]
    assert found[1].abs().sum() == 0
    assert masks.cutoff_mask(maps, 0.5)[0].flatten().tolist() == [False, True, False, False]
