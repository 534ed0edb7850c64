"""ImageNet-S50: exact pixels, labels and masks back from the official layout; every mistake named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import makers
from xeval.data import open_dataset
from xeval.data.imagenet_s import class_numbers
from xeval.data.manage import get, listing
from xeval.errors import DataError, UsageError

IMAGES = makers.noise(9, 64, seed=2)
NUMBERS = np.random.default_rng(3).choice([0, 1, 2, 3, 300, 1000], (3, 64, 64))
FILES = makers.imagenet_s50(IMAGES, NUMBERS)
SEGMENTATION = "validation-segmentation/n01000002/ILSVRC2012_val_00000000.png"


def tree(root: Path, **changes: bytes | None) -> Path:
    """The data set as a folder with some files replaced or, with None, left out."""
    files = {**FILES, **changes}
    return makers.write_tree(root / "ImageNetS50", {name: data for name, data in files.items() if data is not None})


@pytest.mark.parametrize("inside", [False, True])
def test_round_trip(inside: bool, tmp_path: Path) -> None:
    place = tree(tmp_path)
    dataset = open_dataset("imagenet-s50", place if inside else tmp_path, size=64)
    assert dataset.info.classes == ("n01000002", "n02000001", "n03000003")
    train, test = dataset.split("train"), dataset.split("test")
    assert np.array_equal(train.read(range(6)).numpy(), IMAGES[[0, 1, 3, 4, 6, 7]])
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.masks([0]) is None
    assert np.array_equal(test.read(range(3)).numpy(), IMAGES[[2, 5, 8]])
    assert test.labels.tolist() == [0, 1, 2]
    assert test.ids[0] == "validation/n01000002/ILSVRC2012_val_00000000.JPEG"
    masks = test.masks([2, 0, 1])
    assert masks is not None
    assert np.array_equal(masks[:, 0].numpy(), np.stack([NUMBERS[row] == row + 1 for row in (2, 0, 1)]))


def test_numbers_are_r_plus_256_g_and_undecided_pixels_nothing() -> None:
    numbers = np.array([[0, 1, 255], [256, 300, 1000]])
    coded = np.stack([numbers % 256, numbers // 256, np.full_like(numbers, 9)]).astype(np.uint8)
    assert class_numbers(makers.png(coded), "x").tolist() == [[0, 1, 255], [256, 300, 0]]


def test_images_are_read_at_224_and_masks_follow_their_cut(tmp_path: Path) -> None:
    """A wide picture: the middle square is cut out of image and mask alike; what is bright is the object."""
    numbers = np.zeros((60, 120), dtype=np.int64)
    numbers[10:50, 40:70] = 1
    image = np.broadcast_to((numbers * 255).astype(np.uint8), (3, 60, 120))
    coded = np.stack([numbers, 0 * numbers, 0 * numbers]).astype(np.uint8)
    name = "validation/n01000002/ILSVRC2012_val_00000000.JPEG"
    root = tree(tmp_path, **{name: makers.png(image), SEGMENTATION: makers.png(coded)})
    test = open_dataset("imagenet-s50", root).split("test")
    read, mask = test.read([0])[0, 0], test.masks([0])
    assert mask is not None
    assert read.shape == mask[0, 0].shape == (224, 224)
    assert ((read > 127) == mask[0, 0]).double().mean() > 0.99
    assert mask.double().mean().item() == pytest.approx(40 * 30 / 60**2, abs=0.01)


def test_masks_are_resized_by_the_nearest_pixel(tmp_path: Path) -> None:
    masks = open_dataset("imagenet-s50", tree(tmp_path), size=128).split("test").masks([1])
    assert masks is not None
    assert torch.equal(masks[0, 0, ::2, ::2], torch.from_numpy(NUMBERS[1] == 2))
    assert torch.equal(masks[0, 0, ::2, ::2], masks[0, 0, 1::2, 1::2])


def test_validation_alone_can_be_scored(tmp_path: Path) -> None:
    files = {name: data for name, data in FILES.items() if not name.startswith("train")}
    dataset = open_dataset("imagenet-s50", makers.write_tree(tmp_path, files))
    assert list(dataset.splits) == ["test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({SEGMENTATION: None}, r"1 segmentations are missing, first .*ILSVRC2012_val_00000000\.png"),
        ({"validation/n09999999/a.JPEG": makers.png(IMAGES[0])}, r"1 segmentations are missing"),
    ],
)
def test_a_missing_segmentation_is_named(changes: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset("imagenet-s50", tree(tmp_path, **changes)).split("test")


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path, **{"train/n09999999/a.JPEG": makers.png(IMAGES[0])})
    with pytest.raises(DataError, match="differ in the classes n09999999"):
        open_dataset("imagenet-s50", root).split("train")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "0-byte"), (b"text", "not an image"), (makers.png(IMAGES[0, :, :40]), r"is 64×40, its image 64×64")],
)
def test_damaged_segmentations_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    split = open_dataset("imagenet-s50", tree(tmp_path, **{SEGMENTATION: data})).split("test")
    with pytest.raises(DataError, match=f"ILSVRC2012_val_00000000.png .*{message}"):
        split.masks([0])
    assert split.masks([1, 2]) is not None


def test_what_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looked for ImageNetS50 .* build it from ImageNet"):
        open_dataset("imagenet-s50", tmp_path)
    state = {row["name"]: row["state"] for row in listing(tmp_path)}["imagenet-s50"]
    assert state.startswith("not here: build it from ImageNet")
    with pytest.raises(UsageError, match="nothing to download.*build it from ImageNet"):
        get("imagenet-s50", tmp_path)
    place = tree(tmp_path)
    assert {row["name"]: row["state"] for row in listing(tmp_path)}["imagenet-s50"] == str(place)
