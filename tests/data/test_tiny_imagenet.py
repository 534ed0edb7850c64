"""Tiny ImageNet: exact pixels, labels and boxes back from zip and folder; every mistake in the lists named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data import makers
from xeval.data import open_dataset
from xeval.data.base import unreadable
from xeval.data.tiny_imagenet import scale_boxes
from xeval.errors import CheckpointError, DataError

pytestmark = pytest.mark.usefixtures("any_checksum")

IMAGES = makers.noise(9, 64, seed=2)
FILES = makers.tiny_imagenet(IMAGES)
VAL = "val/val_annotations.txt"


def tree(root: Path, **changes: bytes | None) -> Path:
    """The data set as a folder with some files replaced or, with None, left out."""
    files = {**FILES, **{name.replace("__", "/"): data for name, data in changes.items()}}
    return makers.write_tree(root / "tiny", {name: data for name, data in files.items() if data is not None})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prefix", ["", "tiny-imagenet-200/", "deep/er/"])
def test_round_trip(packed: bool, prefix: str, tmp_path: Path) -> None:
    files = makers.tiny_imagenet(IMAGES, prefix)
    root = makers.zip_of(tmp_path / "any.zip", files) if packed else makers.write_tree(tmp_path, files) / prefix
    dataset = open_dataset("tiny-imagenet", root)
    assert dataset.info.classes == ("goldfish", "crane (n02000001)", "crane (n03000003)")
    assert dataset.info.size == 64
    train, test = dataset.split("train"), dataset.split("test")
    assert np.array_equal(train.read(range(6)).numpy(), IMAGES[[0, 1, 3, 4, 6, 7]])
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.ids[0] == "train/n01000002/images/n01000002_0.JPEG"
    boxes = makers.BOXES
    assert train.boxes(range(6)).tolist() == [list(boxes[i]) for i in (0, 1, 1, 2, 2, 3)]  # type: ignore[union-attr]
    assert np.array_equal(test.read(range(3)).numpy(), IMAGES[[8, 5, 2]])  # in the order of the annotations
    assert test.labels.tolist() == [2, 1, 0]
    assert test.ids == tuple(f"val/images/val_{row}.JPEG" for row in (2, 1, 0))
    assert test.boxes([2, 0]).tolist() == [list(boxes[0]), list(boxes[2])]  # type: ignore[union-attr]


def test_folder_and_zip_have_one_manifest(tmp_path: Path) -> None:
    places = [tree(tmp_path), makers.zip_of(tmp_path / "a.zip", FILES)]
    assert len({open_dataset("tiny-imagenet", place).split("train").manifest() for place in places}) == 1


def test_one_subset_is_found_and_two_are_ambiguous(tmp_path: Path) -> None:
    makers.zip_of(tmp_path / "tiny-imagenet-a20.zip", FILES)
    assert len(open_dataset("tiny-imagenet", tmp_path).split("test")) == 3
    makers.write_tree(tmp_path / "tiny-imagenet-b20", FILES)
    with pytest.raises(DataError, match=r"several subsets of Tiny ImageNet: tiny-imagenet-a20\.zip, tiny-imagenet-b20"):
        open_dataset("tiny-imagenet", tmp_path)
    makers.zip_of(tmp_path / "tiny-imagenet-200.zip", FILES)  # the official name wins
    assert len(open_dataset("tiny-imagenet", tmp_path).split("test")) == 3


@given(
    st.lists(st.tuples(*[st.integers(0, 63)] * 4), min_size=1, max_size=5), st.sampled_from([16, 32, 48, 64, 100, 224])
)
def test_scaled_boxes_cover_exactly_the_touched_pixels(corners: list[tuple[int, ...]], side: int) -> None:
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners])
    for (x0, _, x1, _), (u0, _, u1, _) in zip(boxes, scale_boxes(boxes, 64, side), strict=True):
        touched = [u for u in range(side) if (u + 1) * 64 > x0 * side and u * 64 < (x1 + 1) * side]
        assert [u0, u1] == [touched[0], touched[-1]]


@pytest.mark.fault("D8")
def test_grey_files_become_rgb(tmp_path: Path) -> None:
    root = tree(tmp_path, **{"val/images/val_0.JPEG": makers.png(IMAGES[0, 0])})
    assert torch.equal(
        open_dataset("tiny-imagenet", root).split("test").read([2])[0],
        torch.from_numpy(IMAGES[0, :1]).expand(3, -1, -1),
    )


@pytest.mark.fault("D11")
def test_crlf_and_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    root = tree(tmp_path, **{VAL: b"\xef\xbb\xbf" + FILES[VAL].replace(b"\n", b"\r\n")})
    assert open_dataset("tiny-imagenet", root).split("test").labels.tolist() == [2, 1, 0]


# ---- val in class folders --------------------------------------------------------------------------------------------

SORTED = sorted(makers.WNIDS)
LAYOUTS = ("{wnid}/{file}", "{wnid}/images/{file}")


def rearranged(layout: str, prefix: str = "", **changes: bytes | None) -> dict[str, bytes]:
    """The data set after a script has moved its validation images to class folders."""
    files = {**makers.tiny_imagenet(IMAGES), **{name: data for name, data in changes.items() if data}}
    for row, wnid in enumerate(SORTED):
        file = f"val_{row}.JPEG"
        files[f"val/{layout.format(wnid=wnid, file=file)}"] = files.pop(f"val/images/{file}")
    return {prefix + name: data for name, data in files.items() if changes.get(name, b"") is not None}


@pytest.mark.fault("D21")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_val_in_class_folders_is_the_official_val(layout: str, packed: bool, tmp_path: Path) -> None:
    files = rearranged(layout, "top/")
    root = makers.zip_of(tmp_path / "a.zip", files) if packed else makers.write_tree(tmp_path, files) / "top"
    if not packed:
        (root / "val" / "images").mkdir(exist_ok=True)  # many scripts leave it there, empty
    official = open_dataset("tiny-imagenet", tree(tmp_path)).split("test")
    dataset = open_dataset("tiny-imagenet", root)
    moved = dataset.split("test")
    assert np.array_equal(moved.read(range(3)).numpy(), IMAGES[[8, 5, 2]])
    assert moved.ids == official.ids == tuple(f"val/images/val_{row}.JPEG" for row in (2, 1, 0))
    assert moved.labels.tolist() == official.labels.tolist() == [2, 1, 0]
    assert torch.equal(moved.boxes(range(3)), official.boxes(range(3)))  # type: ignore[arg-type]
    content = b"(3, 3, 64, 64)" + np.array([2, 1, 0], dtype="<i8").tobytes() + IMAGES[[8, 5, 2]].tobytes()
    assert moved.manifest() == official.manifest() == hashlib.sha256(content).hexdigest()
    assert moved.notes == official.notes == ()
    assert len(dataset.split("train")) == 6


@pytest.mark.fault("D21")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_val_in_class_folders_without_annotations(layout: str, packed: bool, tmp_path: Path) -> None:
    """The folder is the label; 10 comes after 9; no boxes, which is said."""
    more = {f"val/{layout.format(wnid=SORTED[1], file=f'val_{n}.JPEG')}": makers.png(IMAGES[n - 6]) for n in (9, 10)}
    files = {**rearranged(layout, **{VAL: None}), **more}
    root = makers.zip_of(tmp_path / "a.zip", files) if packed else makers.write_tree(tmp_path / "a", files)
    split = open_dataset("tiny-imagenet", root).split("test")
    assert split.ids == tuple(f"val/images/val_{n}.JPEG" for n in (0, 1, 2, 9, 10))
    assert split.labels.tolist() == [0, 1, 2, 1, 1]
    assert np.array_equal(split.read(range(5)).numpy(), IMAGES[[2, 5, 8, 3, 4]])
    assert split.boxes([0]) is None
    assert split.notes == (
        "val/val_annotations.txt is missing: labels are those of the class folders, and there are no boxes",
    )


@pytest.mark.fault("D10", "D21")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            rearranged(LAYOUTS[0], **{VAL: FILES[VAL].replace(b"val_1.JPEG\tn02000001", b"val_1.JPEG\tn03000003")}),
            "line 2: val_1.JPEG is of the class n03000003, but it lies in val/n02000001/val_1.JPEG",
        ),
        (
            {**rearranged(LAYOUTS[0]), "val/n01000002/images/val_1.JPEG": makers.png(IMAGES[5])},
            "holds one image twice, val/n01000002/images/val_1.JPEG and val/n02000001/val_1.JPEG",
        ),
        (
            {**rearranged(LAYOUTS[1]), "val/n01000002/images/val_9.JPEG": makers.png(IMAGES[5])},
            r"val does not match its lists \(1 not listed: val/images/val_9.JPEG",
        ),
        (
            {name: data for name, data in rearranged(LAYOUTS[1]).items() if "val_2" not in name},
            r"val does not match its lists \(1 missing: val/images/val_2.JPEG",
        ),
        (
            {**rearranged(LAYOUTS[0], **{VAL: None}), "val/n09000009/val_9.JPEG": makers.png(IMAGES[5])},
            r"val does not match its lists \(1 not listed: n09000009",
        ),
        (
            {name: data for name, data in rearranged(LAYOUTS[0], **{VAL: None}).items() if "val_2" not in name},
            r"val does not match its lists \(1 missing: n03000003",
        ),
        (
            {**rearranged(LAYOUTS[0]), "val/images/val_1.JPEG": makers.png(IMAGES[5])},
            r"val/images does not match its lists \(2 missing: val/images/val_0.JPEG, val/images/val_2.JPEG",
        ),
    ],
)
def test_folders_and_lists_that_contradict_each_other(
    files: dict[str, bytes], message: str, packed: bool, tmp_path: Path
) -> None:
    root = makers.zip_of(tmp_path / "a.zip", files) if packed else makers.write_tree(tmp_path / "a", files)
    with pytest.raises(DataError, match=message):
        open_dataset("tiny-imagenet", root).split("test")


def test_a_damaged_image_is_named_where_it_lies(tmp_path: Path) -> None:
    files = {**rearranged(LAYOUTS[1]), "val/n02000001/images/val_1.JPEG": b""}
    split = open_dataset("tiny-imagenet", makers.write_tree(tmp_path, files)).split("test")
    with pytest.raises(DataError, match=r"val/n02000001/images/val_1\.JPEG is a 0-byte file"):
        split.read(range(3))


ROWS = FILES[VAL].splitlines(keepends=True)


@pytest.mark.fault("D11")
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"val_1.JPEG n02000001 1 2 3 4\n", "line 2: 1 fields instead of 6"),
        (b"\n", "line 2: 1 fields"),
        (b"val_1.JPEG\tn09999999\t1\t2\t3\t4\n", "line 2: the class 'n09999999' is not in wnids.txt"),
        (b"val_1.JPEG\tn02000001\t1\tx\t3\t4\n", "line 2: .* not four whole numbers"),
        (b"val_1.JPEG\tn02000001\t9\t2\t3\t4\n", "line 2: .* is empty or outside"),
        (b"val_1.JPEG\tn02000001\t-1\t2\t3\t4\n", "line 2: .* is empty or outside"),
        (
            b"val_7.JPEG\tn02000001\t1\t2\t3\t4\n",
            "1 missing: val/images/val_7.JPEG; 1 not listed: val/images/val_1.JPEG",
        ),
        (b"../../x.JPEG\tn02000001\t1\t2\t3\t4\n", "1 missing: val/images/../../x.JPEG"),
        (b"\xff\xfe\tn02000001\t1\t2\t3\t4\n", "not UTF-8"),
        (ROWS[0], "duplicate image ids|1 not listed"),
    ],
)
def test_malformed_rows_are_named_by_line(row: bytes, message: str, tmp_path: Path) -> None:
    dataset = open_dataset("tiny-imagenet", tree(tmp_path, **{VAL: ROWS[0] + row + ROWS[2]}))
    with pytest.raises(DataError, match=message):
        dataset.split("test")


@pytest.mark.fault("D16")
def test_a_row_that_comes_twice_is_named(tmp_path: Path) -> None:
    dataset = open_dataset("tiny-imagenet", tree(tmp_path, **{VAL: FILES[VAL] + ROWS[0]}))
    with pytest.raises(DataError, match=r"duplicate image ids: val/images/val_2\.JPEG"):
        dataset.split("test")


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wnids.txt": b"n01000002\nn02000001\n"}, "1 not listed: n03000003"),
        ({"wnids.txt": b"n01000002\nn02000001\nn03000003\nn04000004\n"}, "1 missing: n04000004"),
        ({"train/n05000005/images/a.JPEG": b"x"}, "1 not listed: n05000005"),
        ({"train/n02000001/images/extra.JPEG": b"x"}, "1 not listed: extra.JPEG"),
        ({"train/n02000001/images/n02000001_1.JPEG": None}, "1 missing: n02000001_1.JPEG"),
        ({"train/n02000001/n02000001_boxes.txt": None}, "n02000001_boxes.txt cannot be read"),
    ],
)
def test_lists_that_do_not_match_are_named(changes: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    dataset = open_dataset("tiny-imagenet", tree(tmp_path, **changes))
    with pytest.raises(DataError, match=message):
        dataset.split("train")


@pytest.mark.fault("D7")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0-byte"),
        (b"text", "not an image"),
        (makers.png(IMAGES[0])[:-60], "damaged"),
        (makers.png(IMAGES[0, :, :40]), "64×40"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_images_are_named_and_can_be_listed(data: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    name = "val/images/val_1.JPEG"
    root = makers.zip_of(tmp_path / "a.zip", {**FILES, name: data}) if packed else tree(tmp_path, **{name: data})
    split = open_dataset("tiny-imagenet", root).split("test")
    with pytest.raises(DataError, match=f"{name} .*{message}"):
        split.read(range(3))
    problems = unreadable(split, range(3))
    assert list(problems) == [1]
    assert name in problems[1]
    assert len(split.read([0, 2])) == 2


def test_corrupt_member_of_a_zip_is_named(tmp_path: Path) -> None:
    path = makers.zip_of(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(FILES["val/images/val_1.JPEG"]) + 500] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"val_1\.JPEG cannot be read \(Bad CRC-32"):
        open_dataset("tiny-imagenet", path).split("test").read([1])


@pytest.mark.parametrize("data", [b"", b"no zip"])
def test_no_zip_at_all(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or no zip"):
        open_dataset("tiny-imagenet", tmp_path)


def test_zip_without_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no wnids\.txt"):
        open_dataset("tiny-imagenet", makers.zip_of(tmp_path / "a.zip", {"a/b.txt": b"x"}))


def test_hostile_member_names_in_a_zip(tmp_path: Path) -> None:
    path = makers.zip_of(tmp_path / "a.zip", {**FILES, "val/images/../../../evil.JPEG": b"x"})
    with pytest.raises(CheckpointError, match="refused"):
        open_dataset("tiny-imagenet", path)
