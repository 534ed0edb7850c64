import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xeval.errors import UsageError
from xeval.perturb import draws as perturb

MASK = (1 << 64) - 1


def splitmix64_in_python(seed: int, n: int) -> list[int]:
    out, state = [], seed
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


def test_published_vectors():
    # The vectors that accompany the generator's reference implementation, seed 1234567.
    found = perturb.splitmix64(torch.tensor([1234567]), 5)[0].tolist()
    assert [value & MASK for value in found] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=30, deadline=None)
def test_any_seed_equals_python_integers(seed):
    found = perturb.splitmix64(torch.tensor([seed]), 4)[0].tolist()
    assert [value & MASK for value in found] == splitmix64_in_python(seed & MASK, 4)


def test_draws_depend_on_nothing_but_their_coordinates():
    keys = perturb.image_keys(["a", "b", "c"])
    all_of_them = perturb.uniform(3, "stream", keys, 5, 7)
    assert torch.equal(perturb.uniform(3, "stream", keys[1:2], 5, 7)[0], all_of_them[1])
    assert torch.equal(perturb.uniform(3, "stream", keys.flip(0), 5, 7).flip(0), all_of_them)
    assert torch.equal(perturb.uniform(3, "stream", keys, 2, 7), all_of_them[:, :2])
    assert torch.equal(perturb.uniform(3, "stream", keys, 5, 4), all_of_them[..., :4])
    assert not torch.equal(perturb.uniform(4, "stream", keys, 5, 7), all_of_them)
    assert not torch.equal(perturb.uniform(3, "other", keys, 5, 7), all_of_them)


def test_keys_are_the_hash_of_the_id():
    expected = int.from_bytes(hashlib.sha256(b"train/1.png").digest()[:8], "little", signed=True)
    assert perturb.image_keys(["train/1.png"]).tolist() == [expected]


def test_uniform_and_normal_moments():
    u = perturb.uniform(0, "u", perturb.image_keys(list("abcdefgh")), 50, 2000).double().flatten()
    n = len(u)
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 0.001
    counts = torch.histc(u, 100, 0, 1)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert chi2 < 160  # 99 degrees of freedom: the 99.99 % quantile is 159
    correlation = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
    assert abs(correlation) < 5 / n**0.5
    z = perturb.normal(0, "n", perturb.image_keys(list("abcdefgh")), 50, 2000).double().flatten()
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.std() - 1) < 0.005
    assert abs((z**4).mean() - 3) < 0.1


@pytest.mark.parametrize(
    ("q", "pixels", "k"),
    [(0.15, 1024, 153), (0.3, 1024, 307), (0.45, 1024, 460), (0.15, 4096, 614), (0.3, 4096, 1228), (0.45, 4096, 1843),
     (0.29, 100, 29), (0.57, 100, 57), (0.0, 64, 0), (1.0, 64, 64)],
)  # fmt: skip
def test_kept_is_exact(q, pixels, k):
    assert perturb.kept(q, pixels) == k


@pytest.mark.parametrize("q", [-0.1, 1.5])
def test_kept_refuses_what_is_no_fraction(q):
    with pytest.raises(UsageError, match="outside"):
        perturb.kept(q, 100)


def test_ranks_by_hand():
    maps = torch.tensor([[[[0.1, 0.9], [-0.5, 0.4]]]])
    order = perturb.tie_break(0, perturb.image_keys(["x"]), 4)
    assert perturb.ranking(maps, order).tolist() == [[[2, 0], [3, 1]]]
    assert perturb.top_k(maps, 2, order).tolist() == [[[[False, True], [False, True]]]]


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.5, 2.0]), min_size=9, max_size=9), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_ranks_are_a_permutation_that_sorts(values, seed):
    maps = torch.tensor(values).reshape(1, 1, 3, 3)
    found = perturb.ranking(maps, perturb.tie_break(seed, perturb.image_keys(["x"]), 9)).flatten()
    assert sorted(found.tolist()) == list(range(9))
    by_rank = torch.empty(9)
    by_rank[found] = maps.flatten()
    assert (by_rank[:-1] >= by_rank[1:]).all()


def test_ties_are_broken_by_the_seed_not_by_the_place():
    maps = torch.zeros(200, 1, 4, 4)
    keys = perturb.image_keys([str(i) for i in range(200)])
    first = perturb.ranking(maps, perturb.tie_break(0, keys, 16))[:, 0, 0].double()
    assert abs(first.mean() - 7.5) < 1.5
    assert torch.equal(
        perturb.ranking(maps[:3], perturb.tie_break(0, keys[:3], 16)),
        perturb.ranking(maps, perturb.tie_break(0, keys, 16))[:3],
    )


def test_cut_ties_by_hand():
    maps = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 3)
    assert perturb.cut_ties(maps, 1).item() == 0
    assert perturb.cut_ties(maps, 2).item() == pytest.approx(3 / 6)
    assert perturb.cut_ties(maps, 4).item() == 0
    assert perturb.cut_ties(maps, 5).item() == pytest.approx(2 / 6)
    assert perturb.cut_ties(maps, 6).item() == 0


def test_minmax_is_per_map_and_constant_maps_become_zero():
    maps = torch.stack([torch.tensor([[[1.0, 3.0], [2.0, 1.0]]]), torch.full((1, 2, 2), 5.0)])
    found = perturb.minmax(maps)
    assert found[0].flatten().tolist() == [0, 1, 0.5, 0]
    assert found[1].abs().sum() == 0
    assert perturb.cutoff_mask(maps, 0.5)[0].flatten().tolist() == [False, True, False, False]


def test_fills_by_hand():
    mean, pixel = torch.tensor([0.4, 0.2]).reshape(2, 1, 1), torch.tensor([2.0, 5.0]).reshape(2, 1, 1)
    x = (torch.full((1, 2, 8, 8), 0.5) - mean) * pixel
    about = mean, pixel, perturb.image_keys(["x"]), 0
    assert perturb.FILLS["mean"].make(x, *about).abs().sum() == 0
    black = perturb.FILLS["black"].make(x, *about)
    assert torch.allclose(black / pixel + mean, torch.zeros_like(x), atol=1e-7)
    assert torch.allclose(perturb.FILLS["blur"].make(x, *about), x, atol=1e-6)  # a flat image stays flat
    assert set(perturb.FILLS) == {"mean", "black", "blur", "noise", "road"}


def test_noise_fill_is_the_image_s_own_and_stays_a_picture():
    mean, pixel = torch.tensor([0.4, 0.5]).reshape(2, 1, 1), torch.tensor([4.0, 4.0]).reshape(2, 1, 1)
    x, keys = torch.zeros(3, 2, 32, 32), perturb.image_keys(list("abc"))
    found = perturb.FILLS["noise"].make(x, mean, pixel, keys, 0)
    pixels = found / pixel + mean
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert (found.mean((0, 2, 3)).abs() < 0.1).all()
    assert ((found.std((0, 2, 3)) - 0.95).abs() < 0.05).all()  # 1 but for the clamping at 1.6 to 2.4 deviations
    assert torch.equal(perturb.FILLS["noise"].make(x[1:2], mean, pixel, keys[1:2], 0)[0], found[1])
    assert not torch.equal(perturb.FILLS["noise"].make(x, mean, pixel, keys, 1), found)
