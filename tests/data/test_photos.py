"""The reader of Tiny ImageNet on twenty classes of the real photographs."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xeval.data import Dataset, holdout, open_dataset, stratified

pytestmark = pytest.mark.photos


@pytest.fixture(scope="module")
def dataset(photos: Path) -> Dataset:
    return open_dataset("tiny-imagenet", photos)


def test_twenty_classes_in_the_order_of_their_ids(dataset: Dataset) -> None:
    assert len(dataset.info.classes) == 20
    assert dataset.info.classes[:2] == ("goldfish", "American alligator")
    assert dataset.info.size == 64
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(train.labels).tolist() == [500] * 20
    assert np.bincount(test.labels).tolist() == [50] * 20
    folders = [item.split("/")[1] for item in train.ids]
    assert folders == sorted(folders)


def test_ids_of_the_official_layout(dataset: Dataset) -> None:
    """Written out, and in the order of the annotations: per-image scores and draws are kept under them."""
    digest = hashlib.sha256("\n".join(dataset.split("test").ids).encode()).hexdigest()
    assert digest == "9b11bafab4cae0998d910c1768fb6e11ec8b4ea8a630fefb2dd8f8679a4af385"


@pytest.mark.parametrize("annotated", [True, False])
def test_val_in_class_folders_is_one_split(annotated: bool, dataset: Dataset, photos: Path, tmp_path: Path) -> None:
    """What the usual script leaves; without annotations the numbers of the files give the same order."""
    with zipfile.ZipFile(photos) as packed:
        start = next(name for name in packed.namelist() if name.endswith("wnids.txt")).removesuffix("wnids.txt")
        for name in ("wnids.txt", "words.txt", *(["val/val_annotations.txt"] if annotated else [])):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(packed.read(start + name))
        for line in packed.read(f"{start}val/val_annotations.txt").decode().splitlines():
            file, wnid, *_ = line.split("\t")
            place = tmp_path / "val" / wnid / "images" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(packed.read(f"{start}val/images/{file}"))
    official, moved = dataset.split("test"), open_dataset("tiny-imagenet", tmp_path).split("test")
    assert moved.ids == official.ids
    assert moved.manifest() == official.manifest()
    assert (moved.boxes([0]) is not None) == annotated


def test_boxes_lie_inside_at_every_size(photos: Path) -> None:
    for side in (32, 64, 224):
        split = open_dataset("tiny-imagenet", photos, side).split("train")
        boxes = split.boxes(range(len(split)))
        assert boxes is not None
        assert boxes.min() >= 0
        assert boxes.max() < side
        assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_a_grey_file_is_read_as_rgb(photos: Path, dataset: Dataset) -> None:
    split = dataset.split("test")
    with zipfile.ZipFile(photos) as packed:
        start = next(name for name in packed.namelist() if name.endswith("wnids.txt")).removesuffix("wnids.txt")
        modes = [Image.open(io.BytesIO(packed.read(start + name))).mode for name in split.ids]
    grey = [row for row, mode in enumerate(modes) if mode == "L"]
    assert grey
    images = split.read(grey)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_pixels_are_those_of_the_decoder(photos: Path, dataset: Dataset) -> None:
    split = dataset.split("test")
    small = open_dataset("tiny-imagenet", photos, 32).split("test")
    with zipfile.ZipFile(photos) as packed:
        start = next(name for name in packed.namelist() if name.endswith("wnids.txt")).removesuffix("wnids.txt")
        for row in (0, 500, 999):
            image = Image.open(io.BytesIO(packed.read(start + split.ids[row]))).convert("RGB")
            assert np.array_equal(split.read([row])[0].permute(1, 2, 0).numpy(), np.asarray(image))
            halved = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
            assert np.array_equal(small.read([row])[0].permute(1, 2, 0).numpy(), halved)


def test_constants_are_near_those_of_the_sample(dataset: Dataset) -> None:
    split = dataset.split("train")
    images = split.read(stratified(split.labels, 400, 0)).float() / 255
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(dataset.info.mean), atol=0.05)
    own = images.std((2, 3)).mean(0)  # the published figure is the mean of the images' own deviations
    assert torch.allclose(own, torch.tensor(dataset.info.std), atol=0.02)


def test_holdout_of_the_training_split(dataset: Dataset) -> None:
    labels = dataset.split("train").labels
    fit, held = holdout(labels, 0.2, 0)
    assert np.bincount(labels[held]).tolist() == [100] * 20
    assert np.bincount(labels[fit]).tolist() == [400] * 20
