"""Linear imputation: by hand, against pytorch-grad-cam's sparse solver, on odd masks."""

import pytest
import torch

from tests.scenes import images
from xeval.perturb.draws import image_keys
from xeval.perturb.fills import FILLS
from xeval.perturb.imputation import linear_imputation


def random_masks(n: int, side: int, share: float, seed: int = 0) -> torch.Tensor:
    """Bool n×1×side×side with about ``share`` of the pixels kept, at least one."""
    keep = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)) < share
    keep[..., 0, 0] = True
    return keep


def corner(n: int, side: int) -> torch.Tensor:
    """Only a corner is kept: the hardest mask, with pixels far from everything known."""
    keep = torch.zeros(n, 1, side, side, dtype=torch.bool)
    keep[..., : side // 5, : side // 5] = True
    return keep


def test_one_missing_pixel_by_hand():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    keep = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    keep[..., 1, 1] = False
    assert linear_imputation(x, keep)[0, 0, 1, 1].item() == pytest.approx((1 + 3 + 5 + 7) / 6 + (0 + 2 + 6 + 8) / 12)
    keep = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    keep[..., 0, 0] = False  # three neighbours, weights 1/6, 1/6, 1/12
    assert linear_imputation(x, keep)[0, 0, 0, 0].item() == pytest.approx((2 * 1 + 2 * 3 + 4) / 5)


@pytest.mark.parametrize("side", [8, 32, 64])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.02])
def test_equals_pytorch_grad_cam(side, share):
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    x, keep = images(3, 3, side), random_masks(3, side, share)
    ours = linear_imputation(x, keep)
    for n in range(3):
        theirs = NoisyLinearImputer(noise=0)(x[n].clone(), keep[n, 0].float())
        assert (ours[n] - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("side", [32, 64])
def test_equals_pytorch_grad_cam_far_from_every_kept_pixel(side):
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    x, keep = images(2, 3, side), corner(2, side)
    for n, ours in enumerate(linear_imputation(x, keep)):
        theirs = NoisyLinearImputer(noise=0)(x[n].clone(), keep[n, 0].float())
        assert (ours - theirs).abs().max() < 1e-4


def test_solves_the_whole_batch_as_it_solves_one():
    x, keep = images(6, 3, 16), random_masks(6, 16, 0.2)
    whole = linear_imputation(x, keep)
    for n in range(6):
        assert torch.allclose(linear_imputation(x[n : n + 1], keep[n : n + 1])[0], whole[n], atol=1e-5)


def test_everything_and_nothing_kept_and_flat_images():
    x = images(2, 1, 8)
    everything = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    assert torch.equal(linear_imputation(x, everything), x)
    assert linear_imputation(x, ~everything).abs().sum() == 0
    keep = random_masks(2, 8, 0.1)
    flat = torch.full((2, 1, 8, 8), 0.7)
    assert torch.allclose(linear_imputation(flat, keep), flat, atol=1e-4)


def test_the_fill_adds_its_noise_to_imputed_pixels_only():
    fill, x, keep = FILLS["road"], images(3, 3, 16), random_masks(3, 16, 0.5)
    noise = fill.make(x, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), image_keys(list("abc")), 0)
    assert noise.std().item() == pytest.approx(0.01, rel=0.1)
    found = fill.compose(x, noise, keep)
    assert torch.equal(found[keep.expand_as(x)], x[keep.expand_as(x)])
    assert torch.allclose(found - linear_imputation(x, keep), noise.masked_fill(keep, 0), atol=1e-6)
