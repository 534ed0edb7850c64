"""Draws depend on the image and the seed alone, and are those of the published generator."""

import hashlib

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xeval.perturb import draws

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
    found = draws.splitmix64(torch.tensor([1234567]), 5)[0].tolist()
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
    found = draws.splitmix64(torch.tensor([seed]), 4)[0].tolist()
    assert [value & MASK for value in found] == splitmix64_in_python(seed & MASK, 4)


def test_draws_depend_on_nothing_but_their_coordinates():
    keys = draws.image_keys(["a", "b", "c"])
    all_of_them = draws.uniform(3, "stream", keys, 5, 7)
    assert torch.equal(draws.uniform(3, "stream", keys[1:2], 5, 7)[0], all_of_them[1])
    assert torch.equal(draws.uniform(3, "stream", keys.flip(0), 5, 7).flip(0), all_of_them)
    assert torch.equal(draws.uniform(3, "stream", keys, 2, 7), all_of_them[:, :2])
    assert torch.equal(draws.uniform(3, "stream", keys, 5, 4), all_of_them[..., :4])
    assert not torch.equal(draws.uniform(4, "stream", keys, 5, 7), all_of_them)
    assert not torch.equal(draws.uniform(3, "other", keys, 5, 7), all_of_them)


def test_keys_are_the_hash_of_the_id():
    expected = int.from_bytes(hashlib.sha256(b"train/1.png").digest()[:8], "little", signed=True)
    assert draws.image_keys(["train/1.png"]).tolist() == [expected]


def test_uniform_and_normal_moments():
    u = draws.uniform(0, "u", draws.image_keys(list("abcdefgh")), 50, 2000).double().flatten()
    n = len(u)
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 0.001
    counts = torch.histc(u, 100, 0, 1)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert chi2 < 160  # 99 degrees of freedom: the 99.99 % quantile is 159
    correlation = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
    assert abs(correlation) < 5 / n**0.5
    z = draws.normal(0, "n", draws.image_keys(list("abcdefgh")), 50, 2000).double().flatten()
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.std() - 1) < 0.005
    assert abs((z**4).mean() - 3) < 0.1
