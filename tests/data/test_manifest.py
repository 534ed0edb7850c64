"""The manifest is the identity of pixels, labels and size; ids and places do not enter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.data.makers import noise, png, write_tree
from xeval.data import open_dataset
from xeval.data.base import ArraySplit, DatasetInfo, unreadable
from xeval.errors import DataError

INFO = DatasetInfo("toy", ("a", "b"), (0.5,) * 3, (0.25,) * 3, channels=3, size=8)
IMAGES, LABELS, IDS = noise(6, 8, seed=0), np.array([0, 1, 0, 1, 1, 0]), list("uvwxyz")


def manifest(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, info: DatasetInfo = INFO) -> str:
    return ArraySplit(info, "test", images, labels, IDS).manifest()


def test_by_definition() -> None:
    content = b"(6, 3, 8, 8)" + LABELS.astype("<i8").tobytes() + IMAGES.tobytes()
    assert manifest() == hashlib.sha256(content).hexdigest()


def test_one_pixel_one_label_order_and_size_each_change_it() -> None:
    pixel, label = IMAGES.copy(), LABELS.copy()
    pixel[5, 2, 7, 7] ^= 1
    label[3] = 0
    order = [1, 0, 2, 3, 4, 5]
    larger = DatasetInfo(**{**INFO.__dict__, "size": 9})
    others = [manifest(pixel), manifest(labels=label), manifest(IMAGES[order], LABELS[order]), manifest(info=larger)]
    assert len({manifest(), *others}) == 5


def test_names_do_not_change_it() -> None:
    renamed = DatasetInfo(**{**INFO.__dict__, "name": "folder:/elsewhere"})
    assert manifest(info=renamed) == manifest()


def test_chunks_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = manifest()
    monkeypatch.setattr("xeval.data.base.CHUNK", 4)
    assert manifest() == before


@pytest.mark.fault("D16")
@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        ([], [], "no images"),
        ([0, 1], ["u"], "2 labels for 1 images"),
        ([0, 2], ["u", "v"], "labels from 0 to 2 for 2 classes"),
        ([0, -1], ["u", "v"], "labels from -1"),
        ([0, 1], ["u", "u"], "duplicate image ids: u"),
        ([0], ["\udcff.png"], "no Unicode text"),
    ],
)
def test_rows_that_cannot_be(labels: list[int], ids: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArraySplit(INFO, "test", IMAGES[: len(labels)], np.array(labels, dtype=int), ids)


@pytest.mark.fault("D7")
def test_images_that_cannot_be_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xeval.data.base.CHUNK", 2)
    files = {f"a/{number}.png": png(image) for number, image in enumerate(IMAGES)}
    write_tree(tmp_path, {**files, "a/3.png": b"", "a/5.png": b"text"})
    split = open_dataset(f"folder:{tmp_path}").split("test")
    for _ in range(2):
        with pytest.raises(DataError, match=r"a/3\.png is a 0-byte file \(2 of 6 images of folder:.*/test cannot be"):
            split.manifest()
    assert list(unreadable(split, range(6))) == [3, 5]
