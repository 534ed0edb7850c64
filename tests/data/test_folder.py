"""folder:PATH, the layout of torchvision's ImageFolder."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import makers
from tests.faults.foreign import Told
from xeval.data import open_dataset
from xeval.data.base import read_size
from xeval.data.damaged import without_damaged
from xeval.data.manage import check
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.scoring.run import score
from xeval.training.encoder import probe_encoder
from xeval.training.loop import train
from xeval.training.recipe import load_recipe

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


def test_pictures_are_resized_as_asked_and_remembered_apart(tmp_path: Path) -> None:
    path = f"folder:{makers.write_tree(tmp_path, FILES)}"
    plain = open_dataset(path, size=20)
    bicubic = plain.interpolated("bicubic")
    assert (plain.info.interpolation, bicubic.info.interpolation) == ("bilinear", "bicubic")
    pictures = [
        Image.fromarray(image.transpose(1, 2, 0)).resize((20, 20), Image.Resampling.BICUBIC) for image in IMAGES
    ]
    wanted = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])
    assert np.array_equal(bicubic.split("train").read(range(3)).numpy(), wanted[:3])
    assert np.array_equal(bicubic.split("test").read(range(2)).numpy(), wanted[3:])
    manifests = [
        one.split("test").manifest() for one in (plain, bicubic, plain, bicubic)
    ]  # the last two are remembered
    assert manifests[:2] == manifests[2:]
    assert manifests[0] != manifests[1]
    assert plain.interpolated("of another kind") is plain
    assert open_dataset("digits").interpolated("bicubic").info.interpolation == "bilinear"


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


def test_val_beside_test_is_not_read_and_said(tmp_path: Path) -> None:
    more = {name.replace("val", "Test"): data for name, data in FILES.items() if name.startswith("val")}
    odd = {"valid/ant/x.txt": b"x"}
    dataset = open_dataset(f"folder:{makers.write_tree(tmp_path, {**FILES, **more, **odd})}")
    assert dataset.split("test").notes == ("the images are those of the folder Test; not read: val, valid",)
    assert dataset.split("train").notes == ()


def wide(count: int, height: int, width: int) -> dict[str, bytes]:
    pictures = np.random.default_rng(4).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return {f"{'ab'[n % 2]}/{n}.png": makers.png(picture) for n, picture in enumerate(pictures)}


@pytest.mark.parametrize(
    ("shape", "native", "read"),
    [((48, 96), (48, 96), (48, 96)), ((96, 48), (96, 48), (96, 48)), ((20, 513), (20, 513), 224), ((20, 20), 20, 20)],
)
def test_images_of_one_size_are_read_in_it(
    shape: tuple[int, int], native: object, read: object, tmp_path: Path
) -> None:
    files = wide(4, *shape)
    dataset = open_dataset(f"folder:{makers.write_tree(tmp_path, files)}")
    assert (dataset.info.native, dataset.info.size) == (native, read)
    found = dataset.split("test").read([0])[0]
    assert tuple(found.shape) == dataset.info.shape
    if native == read:
        with Image.open(io.BytesIO(files["a/0.png"])) as image:
            assert np.array_equal(found.numpy(), np.asarray(image).transpose(2, 0, 1))


def test_another_shape_is_covered_and_cut(tmp_path: Path) -> None:
    """48×96 at 12×48: twice as small it is 24×48, of which the middle twelve rows are left: means of four pixels."""
    files = wide(4, 48, 96)
    found = open_dataset(f"folder:{makers.write_tree(tmp_path, files)}", size=(12, 48)).split("test").read([0])[0]
    with Image.open(io.BytesIO(files["a/0.png"])) as image:
        cut = np.asarray(image).astype(float)[12:36]
    assert found.shape == (3, 12, 48)
    low = cut.reshape(12, 2, 48, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.corrcoef(low.ravel(), found.numpy().ravel())[0, 1] > 0.85
    assert np.corrcoef(np.roll(low, 1, 1).ravel(), found.numpy().ravel())[0, 1] < 0.4


def test_only_folders_have_other_shapes_than_squares(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digits has square images, not 16×32"):
        open_dataset("digits", size=(16, 32))
    assert open_dataset("digits", size=(20, 20)).info.size == 20
    with pytest.raises(UsageError, match="3 and 40 pixels a side"):
        open_dataset(f"folder:{makers.write_tree(tmp_path, wide(2, 8, 8))}", size=(3, 40))


@pytest.mark.parametrize(("text", "size"), [("224", 224), ("48x96", (48, 96)), (" 48×96", (48, 96)), ("32X32", 32)])
def test_sizes_in_words(text: str, size: object) -> None:
    assert read_size(text) == size
    with pytest.raises(UsageError, match="is no size of images"):
        read_size(f"{text}x")


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val/bee/4.png": None}, "class folders differ; only in train: bee; only in test: none"),
        ({"val/cow/5.png": makers.png(IMAGES[0])}, "only in train: none; only in test: cow"),
        ({"train/bee/x/2.png": None, "train/bee/a.txt": b"x"}, "bee holds no images, but 1 .txt — fill or remove it"),
        ({"train/bee/x/2.png": None, "train/bee/x/y/A": b"x"}, "bee holds no images, but 1 without a suffix"),
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


# ---- what is passed over ---------------------------------------------------------------------------------------------

LEFT = {
    "train/ant/IMG_1.HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
    "train/ant/IMG_2.heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "train/bee/x/scan": makers.png(IMAGES[0]),
    "train/bee/.DS_Store": b"x",
    "train/bee/page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "train/bee/odd.<b>": b"x",
    "train/loose.png": makers.png(IMAGES[0]),
    "train/.cache/thumb.png": b"x",
}
TOLD = "files passed over: 2 .heic, 1 .eps, 1 hidden, 1 of another suffix, 1 outside the class folders, 1 others"


def place(packed: bool, tmp_path: Path, files: dict[str, bytes]) -> Path:
    """The files as a folder or as a zip file."""
    return makers.zip_of(tmp_path / "my.zip", files) if packed else makers.write_tree(tmp_path / "my", files)


@pytest.mark.fault("D20")
@pytest.mark.parametrize("packed", [False, True])
def test_files_passed_over_are_counted_by_suffix(packed: bool, tmp_path: Path) -> None:
    dataset = open_dataset(f"folder:{place(packed, tmp_path, {**FILES, **LEFT})}")
    train, test = dataset.split("train"), dataset.split("test")
    assert train.notes == (TOLD,)
    assert test.notes == ()
    assert train.ids == ("train/ant/0.png", "train/ant/1.png", "train/bee/x/2.png")
    few = makers.write_tree(tmp_path / "few", {**FILES, "val/ant/x": b"x", "val/ant/y": b"x", "val/bee/z.Json": b"{}"})
    found = open_dataset(f"folder:{few}").split("test")
    assert found.notes == ("files passed over: 2 without a suffix, 1 .json",)


@pytest.mark.parametrize("packed", [False, True])
def test_what_pillow_reads_is_read(packed: bool, tmp_path: Path) -> None:
    kinds = {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.avif": "AVIF", "d.jp2": "JPEG2000", "e.pbm": "PPM"}
    data = {name: makers.png(IMAGES[0], format=kind) for name, kind in kinds.items()}
    data["f.mpo"] = makers.png(IMAGES[1], format="MPO", save_all=True, append_images=[Image.new("RGB", (48, 48))])
    root = place(packed, tmp_path, {f"ant/{name}": content for name, content in data.items()})
    split = open_dataset(f"folder:{root}").split("test")
    assert split.ids == tuple(f"ant/{name}" for name in sorted(data, key=lambda name: f"ant/{name}"))
    assert split.notes == ()
    for row, name in enumerate(split.ids):
        with Image.open(io.BytesIO(data[name.removeprefix("ant/")])) as image:
            wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(split.read([row])[0].numpy(), wanted), name
        assert wanted.std() > 30, name


def test_ordinary_folders_keep_ids_and_manifest(tmp_path: Path) -> None:
    """Written out: shape, labels and pixels of the files with the suffixes that were read from the beginning."""
    names = [f"{label}/{n}{suffix}" for label in ("ant", "bee") for n, suffix in enumerate((".JPG", ".png", ".tif"))]
    kinds = {".JPG": "JPEG", ".png": "PNG", ".tif": "TIFF"}
    data = {name: makers.png(IMAGES[n % 5], format=kinds[Path(name).suffix]) for n, name in enumerate(names)}
    others = {"ant/notes.txt": b"x", "bee/.hidden.png": b"x", "bee/Thumbs.db": b"x"}
    split = open_dataset(f"folder:{makers.write_tree(tmp_path, {**data, **others})}").split("test")
    digest = hashlib.sha256(b"(6, 3, 48, 48)" + np.array([0, 0, 0, 1, 1, 1], dtype="<i8").tobytes())
    for name in names:
        with Image.open(io.BytesIO(data[name])) as image:
            digest.update(np.asarray(image).transpose(2, 0, 1).tobytes())
    assert split.ids == tuple(names)
    assert split.manifest() == digest.hexdigest()


def test_notes_survive_leaving_damaged_images_out(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, {**FILES, "val/bee/5.png": b"", "val/bee/6.heic": b"x"})
    kept, damaged = without_damaged(open_dataset(f"folder:{tmp_path}").split("test"))
    assert (len(kept), list(damaged)) == (2, [2])
    assert kept.notes == ("files passed over: 1 .heic",)


@pytest.mark.fault("D20")
def test_passed_over_files_are_said_and_stored(tmp_path: Path) -> None:
    """Training, probing and scoring say those of their split, once; the stored summary and the check hold them."""
    makers.write_tree(tmp_path / "my", {**FILES, **LEFT, "val/bee/5.heic": b"x", "val/bee/6.heic": b"x"})
    name, training, scoring = f"folder:{tmp_path / 'my'}", Told(), Told()
    settings = (f"dataset={name}", "image_size=32", "epochs=1", "arch=cnn-tiny")
    run = train(load_recipe("photo10", "ce", settings), seed=0, out=tmp_path, device="cpu", progress=training)
    assert [text for text in training.lines if "passed over" in text] == [f"note: {TOLD}"]
    score(run, scoring, metrics=("drop",), explainers=("grad-cam", "random"))
    assert [text for text in scoring.lines if "passed over" in text] == ["note: files passed over: 2 .heic"]
    assert json.loads((run / "scores.json").read_text())["dataset"]["notes"] == ["files passed over: 2 .heic"]
    probing = Told()
    chosen = {"head": "centroid", "image_size": 32, "method": "probed", "device": "cpu"}
    probe_encoder(run, name, out=tmp_path / "probed", progress=probing, **chosen)
    assert [text for text in probing.lines if "passed over" in text] == [f"note: {TOLD}"]
    notes = {split: part["notes"] for split, part in check(name)["splits"].items()}
    assert notes == {"train": [TOLD], "test": ["files passed over: 2 .heic"]}


# ---- zip files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "photos/", "a/b/"])
def test_a_zip_file_is_read_like_the_folder_in_it(top: str, tmp_path: Path) -> None:
    folder = open_dataset(f"folder:{makers.write_tree(tmp_path / 'my', FILES)}")
    apple = {"__MACOSX/photos/._0.png": b"x"} if top else {}
    packed = makers.zip_of(tmp_path / "my.zip", {**{top + name: data for name, data in FILES.items()}, **apple})
    dataset = open_dataset(f"folder:{packed}")
    assert dataset.info.classes == folder.info.classes
    assert (dataset.info.mean, dataset.info.std) == (folder.info.mean, folder.info.std)
    for name in ("train", "test"):
        assert dataset.split(name).ids == folder.split(name).ids
        assert dataset.split(name).manifest() == folder.split(name).manifest()
    alone = {f"{top}{name.removeprefix('train/')}": data for name, data in FILES.items() if name.startswith("train")}
    only = open_dataset(f"folder:{makers.zip_of(tmp_path / 'only.zip', alone)}")
    assert (only.info.classes, list(only.splits)) == (("ant", "bee"), ["test"])


@pytest.mark.fault("D2")
@pytest.mark.parametrize(
    ("files", "message"),
    [({**FILES, "train/../../evil.png": b"x"}, "a path to a parent"), ({"/etc/x.png": b"x"}, "an absolute path")],
)
def test_hostile_names_in_a_zip_file(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_dataset(f"folder:{makers.zip_of(tmp_path / 'my.zip', files)}")


def test_no_zip_file(tmp_path: Path) -> None:
    (tmp_path / "my.zip").write_bytes(b"text")
    with pytest.raises(CheckpointError, match="no zip file"):
        open_dataset(f"folder:{tmp_path / 'my.zip'}")
