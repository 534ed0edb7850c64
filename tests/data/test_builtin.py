"""The data sets that need no files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch

from xeval.data import holdout, open_dataset, photo10, shapes
from xeval.data.base import resized
from xeval.data.digits import _digits


def test_digits_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    dataset = open_dataset("digits", size=8)
    rows: list[int] = []
    for name in ("train", "test"):
        split = dataset.split(name)
        own = [int(item) for item in split.ids]
        assert np.array_equal(split.labels, source.target[own])
        expected = np.round(source.images[own] * 255 / 16)
        assert np.array_equal(split.read(range(len(split)))[:, 0].numpy(), expected)
        rows += own
    assert sorted(rows) == list(range(1797))
    assert len(dataset.split("test")) == 360


def test_digits_test_split_is_the_stratified_fifth() -> None:
    labels = _digits()[1]
    test = open_dataset("digits").split("test")
    assert [int(item) for item in test.ids] == holdout(labels, 0.2, 0)[1].tolist()
    shares = np.bincount(test.labels) / np.bincount(labels)
    assert abs(shares - 0.2).max() < 0.01


def test_digits_are_upsampled_bilinearly() -> None:
    small, large = (open_dataset("digits", size=side).split("test").read(range(5)).float() for side in (8, 16))
    centre = (small[..., 3, 3] * 9 + small[..., 3, 4] * 3 + small[..., 4, 3] * 3 + small[..., 4, 4]) / 16
    assert abs(large[..., 7, 7] - centre).max() <= 0.5  # rounding to whole grey levels
    assert open_dataset("digits").info.size == 16


def test_arrays_are_antialiased_where_they_shrink_and_untouched_at_their_own_size() -> None:
    stripes = np.zeros((1, 1, 32, 32), dtype=np.uint8)
    stripes[..., ::4, :] = 200  # rows that sampling between rows 1 and 2 of every four would miss
    assert abs(resized(stripes, 8).astype(int)[..., 1:-1, :] - 50).max() < 8
    assert resized(stripes, 32) is stripes


def test_constants_normalise_the_training_images() -> None:
    for name in ("digits", "photo10", "shapes"):
        dataset = open_dataset(name)
        split = dataset.split("train")
        images = split.read(range(len(split))).double() / 255
        assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(dataset.info.mean).double(), atol=5e-3)
        assert torch.allclose(images.std((0, 2, 3)), torch.tensor(dataset.info.std).double(), atol=5e-3)


def test_photographs_are_members_of_the_wheels_and_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {str(file) for name in ("scikit-image", "scikit-learn") for file in distribution(name).files or []}
    assert set(photo10.PHOTOS.values()) <= packed

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    photo10._crops.cache_clear()
    assert len(open_dataset("photo10").split("train")) == 1000


def test_photo_crops_of_train_and_test_share_no_pixel() -> None:
    for number, name in enumerate(photo10.PHOTOS):
        left = {int(item.split("/x")[1][:3]) for item in ids_of("train", name)}
        right = {int(item.split("/x")[1][:3]) for item in ids_of("test", name)}
        assert max(left) + photo10.CROP + 20 <= min(right), number


def ids_of(split: str, photo: str) -> list[str]:
    return [item for item in open_dataset("photo10").split(split).ids if item.startswith(f"{photo}/")]


def test_photo_crops_are_where_their_ids_say() -> None:
    split = open_dataset("photo10").split("test")
    for row in (0, 77, 299):
        name, _, corner = split.ids[row].partition("/")
        x, y = int(corner[1:4]), int(corner[6:9])
        expected = photo10._photo(name)[:, y : y + 32, x : x + 32]
        assert np.array_equal(split.read([row])[0].numpy(), expected)
        assert split.info.classes[split.labels[row]] == name


def test_grey_photographs_become_rgb() -> None:
    split = open_dataset("photo10").split("train")
    bricks = split.read(np.flatnonzero(split.labels == split.info.classes.index("brick")))
    assert (bricks[:, 0] == bricks[:, 1]).all()
    assert (bricks[:, 0] == bricks[:, 2]).all()


def test_shapes_masks_hold_the_shape_and_boxes_are_tight() -> None:
    split = open_dataset("shapes").split("test")
    images, masks, boxes = split.read(range(50)), split.masks(range(50)), split.boxes(range(50))
    assert masks is not None
    assert boxes is not None
    for image, mask, (x0, y0, x1, y1) in zip(images.float(), masks[:, 0], boxes.tolist(), strict=True):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        assert [int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())] == [x0, y0, x1, y1]
        assert image[:, mask].std(dim=1).max() < 25  # one colour and a little noise
        assert (image[:, mask].mean(1) - image[:, ~mask].mean(1)).abs().min() > 0.3 * 255 * 0.5
        assert 0.02 < mask.float().mean() < 0.4


def test_shapes_geometry_at_angle_zero() -> None:
    grid = (np.arange(200) + 0.5) / 100 - 1
    u, v = np.broadcast_to(grid[None, :], (200, 200)), np.broadcast_to(grid[:, None], (200, 200))
    areas = {name: shapes._inside(name, u, v).mean() * 4 for name in shapes.CLASSES}
    expected = {
        "circle": np.pi,
        "square": 1.7**2,
        "triangle": 1.7**2 / np.sqrt(3),
        "cross": 2 * 2 * 0.6 - 0.6**2,
        "ring": np.pi * (1 - 0.36),
    }
    for name, area in expected.items():
        assert areas[name] == pytest.approx(area, abs=0.05), name


def test_shapes_depend_on_split_and_position_alone() -> None:
    train, test = (open_dataset("shapes").split(name) for name in ("train", "test"))
    assert not torch.equal(train.read([3]), test.read([3]))
    assert torch.equal(open_dataset("shapes").split("train").read([1999]), train.read([1999]))
    assert np.bincount(test.labels).tolist() == [100] * 5


def test_import_is_light() -> None:
    code = "import sys, xeval.data; print(*{'torch', 'sklearn', 'skimage', 'pandas', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XEVAL_DATA": "/here", "XDG_CACHE_HOME": "/cache", "HOME": "/home/me"}, "/here"),
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/me"}, "/cache/xeval"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/xeval"),
        ({"HOME": "/home/me"}, "/home/me/.cache/xeval"),
    ],
)
def test_data_root(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from xeval.data.sources import data_root

    for name in ("XEVAL_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert data_root() == Path(expected)
    assert data_root(Path("given")) == Path("given")


def test_data_root_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    from xeval.data.sources import data_root

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XEVAL_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert data_root().name == "xeval"
    assert os.path.isabs(data_root())  # noqa: PTH117
