"""folder:PATH, the layout of torchvision's ImageFolder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data import makers
from xeval.data import open_dataset
from xeval.errors import DataError, UsageError

IMAGES = makers.noise(5, 48, seed=2)
FILES = makers.image_folder(IMAGES)


def test_two_splits(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, {**FILES, "train/ant/notes.txt": b"x", "train/.cache/a.png": b"x"})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.info.name == f"folder:{tmp_path}"
    assert dataset.info.classes == ("ant", "bee")
    assert dataset.info.size == 48
    train, test = dataset.split("train"), dataset.split("test")
    assert train.ids == ("train/ant/0.png", "train/ant/1.png", "train/bee/x/2.png")
    assert train.labels.tolist() == [0, 0, 1]
    assert np.array_equal(train.read(range(3)).numpy(), IMAGES[:3])
    assert np.array_equal(test.read(range(2)).numpy(), IMAGES[3:])


def test_constants_are_those_of_the_training_images(tmp_path: Path) -> None:
    info = open_dataset(f"folder:{makers.write_tree(tmp_path, FILES)}").info
    scaled = IMAGES[:3].astype(float) / 255
    assert info.mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-4)
    assert info.std == pytest.approx(scaled.std((0, 2, 3)), abs=1e-4)


def test_same_classes_and_order_as_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    reference = ImageFolder(str(makers.write_tree(tmp_path, FILES) / "train"))
    split = open_dataset(f"folder:{tmp_path}").split("train")
    assert [Path(path).name for path, _ in reference.samples] == [Path(item).name for item in split.ids]
    for row, (image, label) in enumerate(reference):
        assert label == split.labels[row]
        assert np.array_equal(np.asarray(image).transpose(2, 0, 1), split.read([row])[0].numpy())


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "valid"), ("train", "Validation"), ("Training", "VAL")],
)
def test_splits_by_their_other_names_are_no_classes(train: str, test: str, tmp_path: Path) -> None:
    named = {name.replace("train/", f"{train}/").replace("val/", f"{test}/"): data for name, data in FILES.items()}
    dataset = open_dataset(f"folder:{makers.write_tree(tmp_path, named)}")
    assert dataset.info.classes == ("ant", "bee")
    assert len(dataset.split("train")) == 3
    assert dataset.split("test").ids[0].startswith(f"{test}/ant/")
    alone = {name: data for name, data in named.items() if name.startswith(test)}
    only = open_dataset(f"folder:{makers.write_tree(tmp_path / 'only', alone)}")
    assert (only.info.classes, list(only.splits)) == (("ant", "bee"), ["test"])


def test_class_folders_alone_are_a_test_split(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, FILES)
    dataset = open_dataset(f"folder:{tmp_path / 'train'}")
    assert dataset.split("test").ids == ("ant/0.png", "ant/1.png", "bee/x/2.png")
    with pytest.raises(UsageError, match="unknown split 'train'"):
        dataset.split("train")


def test_test_comes_before_val_and_train_alone_is_enough_to_train(tmp_path: Path) -> None:
    more = {name.replace("val", "test"): data for name, data in FILES.items() if name.startswith("val")}
    makers.write_tree(tmp_path, {**FILES, **more})
    assert open_dataset(f"folder:{tmp_path}").split("test").ids[0] == "test/ant/3.png"
    alone = makers.write_tree(tmp_path / "b", {name: data for name, data in FILES.items() if name.startswith("train")})
    assert list(open_dataset(f"folder:{alone}").splits) == ["train"]


def test_images_of_many_sizes_are_read_at_224(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, {**FILES, "train/ant/0.png": makers.png(makers.noise(1, 60, 0)[0][:, :40])})
    assert open_dataset(f"folder:{tmp_path}").info.size == 224
    assert open_dataset(f"folder:{tmp_path}", size=32).split("train").read([0]).shape == (1, 3, 32, 32)


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val/bee/4.png": None}, "class folders differ; only in train: bee; only in test: none"),
        ({"val/cow/5.png": makers.png(IMAGES[0])}, "only in train: none; only in test: cow"),
        ({"train/bee/x/2.png": None, "train/bee/a.txt": b"x"}, "bee holds no images"),
        (
            {f"train/{name}.png": b"" for name in ("ant/0", "ant/1", "bee/x/2")},
            "none of the images can be read; .*0.png is a 0-byte file",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    files = {name: data for name, data in {**FILES, **changes}.items() if data is not None}
    makers.write_tree(tmp_path, files)
    with pytest.raises(DataError, match=message):
        open_dataset(f"folder:{tmp_path}")


def test_one_damaged_file_does_not_close_the_others(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, {**FILES, "train/ant/1.png": b""})
    split = open_dataset(f"folder:{tmp_path}").split("train")
    assert np.array_equal(split.read([0, 2]).numpy(), IMAGES[[0, 2]])
    with pytest.raises(DataError, match=r"1\.png is a 0-byte file"):
        split.read([1])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders"):
        open_dataset(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(f"folder:{tmp_path / 'x'}")


def test_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, FILES)
    os.mkfifo(tmp_path / "train/ant/2.png")
    with pytest.raises(DataError, match=r"2\.png is not a regular file"):
        open_dataset(f"folder:{tmp_path}").split("train").read([2])


@pytest.mark.fault("D17", "D19")
@pytest.mark.parametrize("name", ["a b", "ünïcode", "-leading", "<img src=x onerror=alert(1)>", "$x$", "x" * 200])
def test_odd_paths_and_class_names(name: str, tmp_path: Path) -> None:
    files = {path.replace("ant", name): data for path, data in FILES.items()}
    dataset = open_dataset(f"folder:{makers.write_tree(tmp_path / name, files)}")
    assert name in dataset.info.classes
    assert len(dataset.split("train").read([0, 1, 2])) == 3
