"""What stands where pixels were taken away: by hand."""

import torch

from xeval.perturb.draws import image_keys
from xeval.perturb.fills import FILLS


def test_fills_by_hand():
    mean, pixel = torch.tensor([0.4, 0.2]).reshape(2, 1, 1), torch.tensor([2.0, 5.0]).reshape(2, 1, 1)
    x = (torch.full((1, 2, 8, 8), 0.5) - mean) * pixel
    about = mean, pixel, image_keys(["x"]), 0
    assert FILLS["mean"].make(x, *about).abs().sum() == 0
    black = FILLS["black"].make(x, *about)
    assert torch.allclose(black / pixel + mean, torch.zeros_like(x), atol=1e-7)
    assert torch.allclose(FILLS["blur"].make(x, *about), x, atol=1e-6)  # a flat image stays flat
    assert set(FILLS) == {"mean", "black", "blur", "noise", "road"}


def test_noise_fill_is_the_image_s_own_and_stays_a_picture():
    mean, pixel = torch.tensor([0.4, 0.5]).reshape(2, 1, 1), torch.tensor([4.0, 4.0]).reshape(2, 1, 1)
    x, keys = torch.zeros(3, 2, 32, 32), image_keys(list("abc"))
    found = FILLS["noise"].make(x, mean, pixel, keys, 0)
    pixels = found / pixel + mean
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert (found.mean((0, 2, 3)).abs() < 0.1).all()
    assert ((found.std((0, 2, 3)) - 0.95).abs() < 0.05).all()  # 1 but for the clamping at 1.6 to 2.4 deviations
    assert torch.equal(FILLS["noise"].make(x[1:2], mean, pixel, keys[1:2], 0)[0], found[1])
    assert not torch.equal(FILLS["noise"].make(x, mean, pixel, keys, 1), found)
