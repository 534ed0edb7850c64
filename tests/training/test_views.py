"""Views: every image on its own, the same again on replay, and every change against torchvision or by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xeval.perturb.draws import image_keys
from xeval.training.settings import Views
from xeval.training.views import (
    Draws,
    blur,
    brightness,
    contrast,
    crop_boxes,
    grey,
    hue,
    jitter,
    masked_view,
    random_view,
    saturation,
)

ALL = Views(
    crop=(0.2, 1.0),
    pad=2,
    rotate=10,
    scale=(0.9, 1.1),
    shift=0.1,
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_p=0.8,
    grey=0.2,
    blur=3,
)


def images(count: int, channels: int = 3, side: int = 12) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def keys(count: int) -> Tensor:
    return image_keys([f"{number:04d}" for number in range(count)])


def factor(count: int, value: float) -> Tensor:
    return torch.full((count, 1, 1, 1), value)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_view_does_not_depend_on_the_batch(size: int) -> None:
    x, names = images(64), keys(64)
    whole = random_view(x, Draws(0, "a", names), ALL)
    parts = [random_view(x[i : i + size], Draws(0, "a", names[i : i + size]), ALL) for i in range(0, 64, size)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_replay_is_bit_equal_and_streams_and_seeds_differ() -> None:
    x, names = images(16), keys(16)
    first = random_view(x, Draws(3, "encoder:1:0", names), ALL)
    torch.rand(100)  # the global generator plays no part
    assert torch.equal(first, random_view(x, Draws(3, "encoder:1:0", names), ALL))
    for seed, stream in ((3, "encoder:1:1"), (3, "encoder:2:0"), (4, "encoder:1:0")):
        other = random_view(x, Draws(seed, stream, names), ALL)
        assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_images_of_one_batch_get_different_views() -> None:
    x = images(1).repeat(8, 1, 1, 1)
    views = random_view(x, Draws(0, "a", keys(8)), ALL)
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_nothing_on_is_the_image_itself() -> None:
    x = images(4)
    assert random_view(x, Draws(0, "a", keys(4)), Views()) is x


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_range_stay(channels: int) -> None:
    view = random_view(images(16, channels), Draws(0, "a", keys(16)), ALL)
    assert view.shape == (16, channels, 12, 12)
    assert float(view.min()) >= 0
    assert float(view.max()) <= 1 + 1e-6


@pytest.mark.parametrize("value", [0.4, 0.9, 1.0, 1.7])
def test_colour_changes_equal_torchvision(value: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = images(5)
    pairs = [
        (brightness, functional.adjust_brightness),
        (contrast, functional.adjust_contrast),
        (saturation, functional.adjust_saturation),
    ]
    for ours, theirs in pairs:
        expected = torch.stack([theirs(image, value) for image in x])
        # torchvision rounds one luminance weight to 0.2989
        torch.testing.assert_close(ours(x, factor(5, value)), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.3])
def test_hue_equals_torchvision(turn: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = images(4)
    x[0] = x[0, :1]  # grey pixels have no hue
    torch.testing.assert_close(hue(x, factor(4, turn)), functional.adjust_hue(x, turn), rtol=0, atol=1e-5)


def test_blur_equals_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    x, sigma = images(3), torch.tensor([0.3, 1.0, 1.9])
    for image, value, ours in zip(x, sigma, blur(x, sigma, 5), strict=True):
        torch.testing.assert_close(ours, functional.gaussian_blur(image, 5, float(value)), rtol=0, atol=1e-5)


def test_every_image_has_its_own_order_of_colour_changes() -> None:
    """All 24 orders occur, and one image changed step by step in its order equals its row of the batch."""
    draws = Draws(0, "a", keys(200))
    orders = draws.unit("jitter-order", 4).argsort(1)
    assert len({tuple(order) for order in orders.tolist()}) == 24
    x = images(200, side=4)
    ours = jitter(x, draws, (0.4, 0.4, 0.4, 0.1))
    for row in range(10):
        expected = x[row : row + 1]
        amounts = [
            draws.between("brightness", 0.6, 1.4),
            draws.between("contrast", 0.6, 1.4),
            draws.between("saturation", 0.6, 1.4),
            draws.between("hue", -0.1, 0.1),
        ]
        for number in orders[row].tolist():
            change = (brightness, contrast, saturation, hue)[number]
            expected = change(expected, amounts[number][row].reshape(1, 1, 1, 1))
        torch.testing.assert_close(ours[row : row + 1], expected)


def test_probabilities_are_kept() -> None:
    x, draws = images(2000, side=4), Draws(0, "a", keys(2000))
    flipped = (random_view(x, draws, Views(flip=0.3)) == x.flip(-1)).flatten(1).all(1)
    greyed = (random_view(x, draws, Views(grey=0.2)) == grey(x)).flatten(1).all(1)
    changed = (random_view(x, draws, Views(jitter=(0.4, 0, 0, 0), jitter_p=0.8)) != x).flatten(1).any(1)
    for happened, probability in ((flipped, 0.3), (greyed, 0.2), (changed, 0.8)):
        assert float(happened.float().mean()) == pytest.approx(probability, abs=0.035)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (48, 24), (20, 60)])
def test_crops_are_whole_pixel_boxes_inside_the_image_with_torchvisions_areas(width: int, height: int) -> None:
    """At 20×60 most proposals of a large area fit nowhere: then both take the largest central box of a ratio."""
    corner, size = crop_boxes(Draws(0, "a", keys(4000)), (0.2, 1.0), (3 / 4, 4 / 3), (width, height))
    for values in (size, corner):
        assert torch.equal(values, values.round())
    assert float(corner.min()) >= 0
    assert bool((corner + size <= torch.tensor([width, height])).all())
    area = size.prod(1) / (width * height)
    transforms = pytest.importorskip("torchvision.transforms")
    image, generator_state = torch.zeros(1, height, width), torch.get_rng_state()
    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3))[2:] for _ in range(4000)]
    torch.set_rng_state(generator_state)
    expected = torch.tensor([float(h * w) for h, w in theirs]) / (width * height)
    assert float(area.mean()) == pytest.approx(float(expected.mean()), abs=0.015)
    assert float(area.std()) == pytest.approx(float(expected.std()), abs=0.015)


@pytest.mark.parametrize(("full_height", "full_width"), [(16, 16), (32, 32), (24, 48), (60, 20)])
def test_a_crop_is_torchvisions_crop_of_the_box_it_drew_up_to_its_edge(full_height: int, full_width: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = torch.rand(60, 3, full_height, full_width, generator=torch.Generator().manual_seed(0))
    draws, extent = Draws(0, "a", keys(60)), (full_width, full_height)
    corner, size = (found.int() for found in crop_boxes(draws, (0.2, 1.0), (3 / 4, 4 / 3), extent))
    inside = (corner > 0).all(1) & (corner + size < torch.tensor(extent)).all(1)
    assert int(inside.sum()) >= 10  # boxes that touch no edge of the image show what lies beyond their own edge
    views = random_view(x, draws, Views(crop=(0.2, 1.0)))
    for image, (left, top), (width, height), view in zip(x, corner.tolist(), size.tolist(), views, strict=True):
        expected = functional.resized_crop(image, top, left, height, width, list(x.shape[2:]), antialias=True)
        torch.testing.assert_close(view, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", ["rotate", "pad"])
def test_images_that_are_not_square_are_turned_and_moved_in_pixels(name: str) -> None:
    """A linear ramp tells where each pixel comes from: turned, distances stay; moved, it moves by whole pixels."""
    height, width = 40, 80
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ramp = torch.stack([x, y]).float()[None].repeat(6, 1, 1, 1)
    seen = random_view(ramp, Draws(0, "a", keys(6)), Views(rotate=12) if name == "rotate" else Views(pad=3))
    middle = seen[:, :, 18:22, 38:42]
    across, down = middle[..., 1:] - middle[..., :-1], middle[..., 1:, :] - middle[..., :-1, :]
    assert torch.allclose(across.square().sum(1).sqrt(), torch.ones(1), atol=1e-3)
    assert torch.allclose(down.square().sum(1).sqrt(), torch.ones(1), atol=1e-3)
    assert torch.allclose((across[:, :, 1:] * down[..., 1:]).sum(1), torch.zeros(1), atol=1e-3)
    moved = (middle[:, :, 2, 2] - ramp[:, :, 20, 40]).abs()
    if name == "pad":
        assert torch.allclose(moved, moved.round(), atol=1e-3)
    assert 0 < float(moved.max()) < 3.1


def test_what_lies_outside_the_box_never_shows() -> None:
    draws = Draws(0, "a", keys(40))
    corner, size = (found.int().tolist() for found in crop_boxes(draws, (0.2, 0.6), (3 / 4, 4 / 3), (12, 12)))
    x = torch.ones(40, 1, 12, 12)
    for image, (left, top), (width, height) in zip(x, corner, size, strict=True):
        image[:, top : top + height, left : left + width] = 0.5
    views = random_view(x, draws, Views(crop=(0.2, 0.6)))
    torch.testing.assert_close(views, torch.full((40, 1, 12, 12), 0.5), rtol=0, atol=1e-6)


def test_a_crop_comes_before_other_moves() -> None:
    x, draws = images(20, side=12), Draws(0, "a", keys(20))
    cropped = random_view(x, draws, Views(crop=(0.2, 0.6)))
    both = random_view(x, draws, Views(crop=(0.2, 0.6), rotate=20, pad=2))
    torch.testing.assert_close(both, random_view(cropped, draws, Views(rotate=20, pad=2)), rtol=0, atol=0)


def test_pad_and_crop_moves_by_whole_pixels_and_fills_with_black() -> None:
    x, draws = images(50, side=8), Draws(0, "a", keys(50))
    views, offsets = random_view(x, draws, Views(pad=2)), torch.floor(draws.unit("pad", 2) * 5) - 2
    assert set(offsets.flatten().tolist()) == {-2, -1, 0, 1, 2}
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    for image, view, (dx, dy) in zip(padded, views, offsets.int().tolist(), strict=True):
        torch.testing.assert_close(view, image[:, 2 + dy : 10 + dy, 2 + dx : 10 + dx], rtol=0, atol=1e-5)


def test_a_quarter_turn_by_hand() -> None:
    """With a limit of 90° / |draw| the drawn angle is ±90°: for a positive one, what was right comes to the top."""
    x, names = images(1, side=6), keys(40)
    draws = Draws(0, "a", names).between("rotate", -1, 1)
    for row in (draws.abs() > 0.5).nonzero()[:6, 0].tolist():
        angle = float(draws[row])
        view = random_view(x, Draws(0, "a", names[row : row + 1]), Views(rotate=90 / abs(angle)))
        turned = torch.rot90(x, 1 if angle > 0 else -1, (-2, -1))
        torch.testing.assert_close(view, turned, rtol=0, atol=1e-4)


def test_masked_view_by_hand() -> None:
    """Map 0, 1 / 2, 4 → min-max 0, .25 / .5, 1; cut-off .5 keeps what is larger: the last pixel alone."""
    image = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]])
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    expected = torch.tensor([[[[0.0, 0.0], [0.0, -4.0]]]])
    assert torch.equal(masked_view(image, maps, 0.5), expected)
    assert torch.equal(masked_view(image, maps * 7 - 3, 0.5), expected)
    assert torch.equal(masked_view(image, torch.zeros_like(maps), 0.5), torch.zeros_like(image))


def test_masked_view_masks_all_channels_and_upsamples() -> None:
    image = torch.ones(1, 3, 4, 4)
    view = masked_view(image, torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]), 0.5)
    assert torch.equal(view, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 4, 4))
