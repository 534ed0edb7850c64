"""What every reader owes: shapes, ids, laziness in any order, manifests, errors; nothing written where data lie."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import makers
from xeval.data import Dataset, normalize, open_dataset
from xeval.data.sources import READERS
from xeval.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("any_checksum")

LABELS = np.array([3, 9, 3, 0, 1, 2, 9, 9, 8, 7, 6, 5])


def make(kind: str, root: Path) -> tuple[str, Path]:
    """A small data set of this kind below ``root``: the name to open it by, and the root."""
    small, large = makers.noise(12, 32, seed=1), makers.noise(9, 64, seed=2)
    name, _, form = kind.partition("/")
    root.mkdir(parents=True, exist_ok=True)
    if name == "folder":
        return f"folder:{makers.write_tree(root / 'mine', makers.image_folder(large))}", root
    if name.startswith("cifar"):
        files = getattr(makers, f"{name}_{form.split('-')[0]}")(small, LABELS)
        if form.endswith("archive"):
            folder = name.replace("cifar", "cifar-")
            (root / f"{folder}-{form.split('-')[0]}.tar.gz").write_bytes(makers.tar_of(files))
        else:
            makers.write_tree(root, files)
    elif name == "imagenet-s50":
        makers.write_tree(root / "ImageNetS50", makers.imagenet_s50(large))
    elif form == "zip":
        makers.zip_of(root / "tiny-imagenet-200.zip", makers.tiny_imagenet(large, "tiny-imagenet-200/"))
    elif form == "folder":
        makers.write_tree(root, makers.tiny_imagenet(large, "tiny-imagenet-200/"))
    return name, root


KINDS = [
    "digits",
    "photo10",
    "shapes",
    *(
        f"{name}/{form}"
        for name in ("cifar10", "cifar100")
        for form in ("binary", "binary-archive", "python", "python-archive")
    ),
    "tiny-imagenet/zip",
    "tiny-imagenet/folder",
    "imagenet-s50/folder",
    "folder",
]


@pytest.fixture(params=KINDS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    name, root = make(request.param, tmp_path)
    return open_dataset(name, root)


def test_every_registered_reader_is_tested_here() -> None:
    assert {kind.partition("/")[0] for kind in KINDS} == set(READERS)


def test_images_are_uint8_of_the_declared_shape(dataset: Dataset) -> None:
    info = dataset.info
    for name in ("train", "test"):
        split = dataset.split(name)
        images = split.read(range(len(split)))
        assert images.dtype == torch.uint8
        assert images.shape == (len(split), info.channels, info.size, info.size)
        assert split.labels.dtype == np.int64
        assert split.labels.shape == (len(split),)
        assert split.name == name
        assert split.info == info
    assert len(info.mean) == len(info.std) == info.channels
    assert min(info.std) > 0


def test_reading_is_lazy_and_order_independent(dataset: Dataset) -> None:
    split = dataset.split("train")
    count = min(len(split), 40)
    whole = split.read(range(count))
    order = np.random.default_rng(0).permutation(count)
    assert torch.equal(split.read(order), whole[order])
    assert torch.equal(split.read([0, 0]), whole[[0, 0]])
    assert split.read([]).shape == (0, *whole.shape[1:])


def test_reading_gives_a_copy(dataset: Dataset) -> None:
    split = dataset.split("test")
    before = split.read([0]).clone()
    split.read([0]).fill_(0)
    assert torch.equal(split.read([0]), before)


def test_ids_are_unique_and_relative(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("train", "test"):
        ids = dataset.split(name).ids
        assert len(set(ids)) == len(ids)
        assert not any(Path(item).is_absolute() or ".." in item or str(tmp_path) in item for item in ids)


def test_splits_travel_to_worker_processes(dataset: Dataset) -> None:
    split = dataset.split("test")
    expected = split.read([0])
    assert torch.equal(pickle.loads(pickle.dumps(split)).read([0]), expected)


def test_boxes_and_masks_agree_with_the_image(dataset: Dataset) -> None:
    split = dataset.split("test")
    boxes, masks = split.boxes([0, 1]), split.masks([0, 1])
    if boxes is not None:
        assert boxes.dtype == torch.int64
        assert boxes.shape == (2, 4)
        assert (boxes[:, :2] <= boxes[:, 2:]).all()
        assert boxes.min() >= 0
        assert boxes.max() < dataset.info.size
    if masks is not None:
        assert masks.dtype == torch.bool
        assert masks.shape == (2, 1, dataset.info.size, dataset.info.size)


@pytest.mark.parametrize("position", [-1, 10**6])
def test_a_position_outside_is_named(dataset: Dataset, position: int) -> None:
    with pytest.raises(UsageError, match=f"no image number {position}"):
        dataset.split("test").read([position])


def test_unknown_split_names_those_there_are(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="test, train"):
        dataset.split("validation")


@pytest.mark.parametrize("kind", KINDS)
def test_another_size(kind: str, tmp_path: Path) -> None:
    name, root = make(kind, tmp_path)
    dataset = open_dataset(name, root, size=20)
    assert dataset.info.size == 20
    assert dataset.split("test").read([0, 1]).shape[2:] == (20, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_ignores_the_place(kind: str, tmp_path: Path) -> None:
    first, second = (open_dataset(*make(kind, tmp_path / place)) for place in ("a", "b b"))
    assert first.split("test").manifest() == second.split("test").manifest()
    assert first.split("test").manifest() != first.split("train").manifest()
    assert len(first.split("test").manifest()) == 64


@pytest.mark.fault("D18")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_where_the_data_lie(kind: str, tmp_path: Path) -> None:
    name, root = make(kind, tmp_path)
    before = makers.snapshot(root)
    for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
        path.chmod(0o555)
    try:
        dataset = open_dataset(name, root)
        for split in (dataset.split("train"), dataset.split("test")):
            split.read(range(len(split)))
            split.manifest()
    finally:
        for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
            path.chmod(0o755)
    assert makers.snapshot(root) == before


@pytest.mark.parametrize("kind", ["cifar10/binary-archive", "cifar100/python-archive", "tiny-imagenet/zip"])
def test_the_archive_itself_may_be_the_root(kind: str, tmp_path: Path) -> None:
    name, root = make(kind, tmp_path)
    (archive,) = root.iterdir()
    assert len(open_dataset(name, archive).split("test")) > 0


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_missing_files_say_what_where_and_how(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XEVAL_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"xeval data get {name}") as caught:
        open_dataset(name)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["digit", "folder", "digits:x", "folder:"])
def test_names_that_are_not_understood(name: str) -> None:
    with pytest.raises(UsageError):
        open_dataset(name)


@pytest.mark.parametrize("size", [0, 3, 5000])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(UsageError, match="from 4 to 4096"):
        open_dataset("digits", size=size)


def test_normalize_by_hand() -> None:
    info = open_dataset("photo10").info
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    result = normalize(images, info)
    assert result.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - info.mean[channel]) / info.std[channel]
        assert torch.allclose(result[:, channel].double(), expected, atol=1e-6)
    assert torch.allclose(normalize(images.float() / 255, info), result)
