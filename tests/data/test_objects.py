"""Masks and boxes of a user's own images: read, resized and cut as the images are, and every mistake named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import here
from tests.data import makers
from xeval.data import Split, open_dataset
from xeval.data.damaged import without_damaged
from xeval.data.manage import check
from xeval.errors import DataError

HEIGHT, WIDTH = 48, 96
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, HEIGHT, WIDTH), dtype=np.uint8)
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[5:20, 30:71] = 7
BOX = "30,5,70,19"
"""The same rectangle as the mask: first and last pixel across and down."""


def files(start: str = "") -> dict[str, bytes]:
    names = ("ant/0", "ant/1", "bee/2", "bee/x/3")
    return {f"{start}{name}.png": makers.png(image) for name, image in zip(names, IMAGES, strict=True)}


def boxes(*lines: str, head: str = "path,x0,y0,x1,y1") -> bytes:
    return "\n".join([head, *lines]).encode()


def split_of(root: Path, content: dict[str, bytes], size: object = None, packed: bool = False) -> Split:
    place = makers.zip_of(root / "my.zip", content) if packed else makers.write_tree(root / "my", content)
    return open_dataset(f"folder:{place}", size=size).split("test")  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("start", ["", "test/", "Val/"])
def test_masks_mirror_the_images(start: str, packed: bool, tmp_path: Path) -> None:
    content = {
        **files(start),
        f"masks/{start}ant/1.png": makers.png(MASK),
        f"masks/{start}bee/x/3.png": makers.png(MASK),
    }
    split = split_of(tmp_path, content, packed=packed)
    assert split.info.classes == ("ant", "bee")
    assert split.notes == ()
    assert split.info.size == (HEIGHT, WIDTH)
    found = split.masks([0, 1, 3])
    assert found is not None
    assert found.shape == (3, 1, HEIGHT, WIDTH)
    assert found.dtype == torch.bool
    assert not found[0].any()  # without a mask, no object
    for mask in found[1:, 0].numpy():
        assert np.array_equal(mask, MASK > 0)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        # 96×192: every pixel becomes four. 24×24: the centre 48×48, columns 24 to 71, at half the size.
        ((96, 192), {(y, x) for y in range(10, 40) for x in range(60, 142)}),
        (24, {(y, x) for y in range(24) for x in range(24) if 5 <= 2 * y + 1 < 20 and 30 <= 24 + 2 * x + 1 < 71}),
    ],
)
def test_masks_and_boxes_follow_the_images(size: object, pixels: set[tuple[int, int]], tmp_path: Path) -> None:
    """The image is its mask in grey, so where the image is bright the mask must be; then the places by hand."""
    lit = np.repeat((MASK[None] > 0).astype(np.uint8) * 255, 3, axis=0)
    content = {**files(), "ant/0.png": makers.png(lit), "bee/2.png": makers.png(lit)}
    content |= {"masks/ant/0.png": makers.png(MASK), "boxes.csv": boxes(f"bee/2.png,{BOX}")}
    split = split_of(tmp_path, content, size)
    drawn, found = split.read([0]), split.masks([0, 2])
    assert found is not None
    assert {(int(y), int(x)) for y, x in found[0, 0].nonzero()} == pixels
    assert torch.equal(found[0], found[1])
    bright = drawn[0, 0] > 127
    assert (bright ^ found[0, 0]).sum() <= sum(found.shape[2:])  # but for the rounding at the edges


def test_several_boxes_are_one_object_and_a_mask_comes_first(tmp_path: Path) -> None:
    lines = ("ant/0.png,0,0,1,1", "ant/0.png,94,46,96,48", "ant/1.png,0,0,95,47", "bee/2.png,5,6,5,6")
    content = {**files(), "masks/ant/1.png": makers.png(MASK), "boxes.csv": boxes(*lines)}
    split = split_of(tmp_path, content)
    found = split.masks(range(4))
    assert found is not None
    first = {(int(y), int(x)) for y, x in found[0, 0].nonzero()}
    assert first == {(y, x) for y in (0, 1) for x in (0, 1)} | {(y, x) for y in (46, 47) for x in (94, 95)}
    assert np.array_equal(found[1, 0].numpy(), MASK > 0)
    assert found[2, 0].nonzero().tolist() == [[6, 5]]
    assert not found[3].any()
    assert split.notes == ()  # boxes.csv is no file that is passed over


def test_columns_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([("label", "y1", "x1", "y0", "x0", "path"), ("a, b", 19, 70, 5, 30, "ant/0.png")])
    split = split_of(tmp_path, {**files(), "boxes.csv": b"\xef\xbb\xbf" + table.getvalue().encode()})
    found = split.masks([0])
    assert found is not None
    assert np.array_equal(found[0, 0].numpy(), MASK > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_what_is_not_zero_is_the_object_in_every_kind_of_png(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        picture = Image.fromarray((MASK > 0).astype(np.uint16))  # 1 of 65,535: 0 once it is an 8-bit picture
    else:
        picture = Image.fromarray(MASK if mode != "1" else MASK * 36)
        picture = picture.convert("1", dither=Image.Dither.NONE) if mode == "1" else picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    found = split_of(tmp_path, {**files(), "masks/ant/0.png": buffer.getvalue()}).masks([0])
    assert found is not None
    assert np.array_equal(found[0, 0].numpy(), MASK > 0)


def test_an_image_that_is_turned_upright_has_an_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = makers.png(IMAGES[0], format="JPEG", exif=exif)  # shown as 48 wide, 96 high
    content = {f"{name}/{number}.jpg": turned for name in ("ant", "bee") for number in range(2)}
    split = split_of(tmp_path, {**content, "boxes.csv": boxes("ant/0.jpg,10,90,40,95")})
    assert split.info.size == (96, 48)
    found = split.masks([0])
    assert found is not None
    assert {(int(y), int(x)) for y, x in found[0, 0].nonzero()} == {
        (y, x) for y in range(90, 96) for x in range(10, 41)
    }


def test_a_class_that_is_called_masks(tmp_path: Path) -> None:
    content = {f"{name}/{number}.png": makers.png(IMAGES[number]) for name in ("masks", "none") for number in range(2)}
    split = split_of(tmp_path, content)
    assert split.info.classes == ("masks", "none")
    assert split.masks([0]) is None
    inside = {f"{part}/{name}": data for part in ("train", "test") for name, data in content.items()}
    assert open_dataset(f"folder:{makers.write_tree(tmp_path / 'b', inside)}").info.classes == ("masks", "none")


def test_the_other_split_has_none(tmp_path: Path) -> None:
    content = {**files("train/"), **files("test/"), "masks/train/ant/0.png": makers.png(MASK)}
    dataset = open_dataset(f"folder:{makers.write_tree(tmp_path, content)}")
    assert dataset.split("test").masks([0]) is None
    assert dataset.split("train").masks([0]) is not None


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("D23")
@pytest.mark.parametrize(
    ("more", "problem", "remedy"),
    [
        (
            {"masks/ant/9.png": makers.png(MASK)},
            r"the mask .*ant/9\.png belongs to no image",
            "path of its image below",
        ),
        ({"masks/ant/0.jpg": makers.png(MASK)}, r"the mask .*ant/0\.jpg is no PNG file", "save masks as PNG"),
        ({"boxes.csv": boxes("ant/9.png,0,0,1,1")}, r"line 2: 'ant/9\.png' is none of the images", "path,x0,y0,x1,y1"),
        ({"boxes.csv": boxes("ant/0.png,0,0,1")}, "line 2: the box .* is not four whole numbers", "first and the last"),
        ({"boxes.csv": boxes("ant/0.png,0,0,1.5,1")}, "line 2: the box .* is not four whole numbers", "path,x0"),
        ({"boxes.csv": boxes("ant/0.png,0,0,9,9", "ant/0.png,5,0,4,1")}, "line 3: the box .* is empty", "path,x0"),
        ({"boxes.csv": boxes("ant/0.png,-1,0,4,1")}, "line 2: the box .* outside the image", "path,x0"),
        ({"boxes.csv": boxes("ant/0.png,0,0,1,1", head="file,x0,y0,x1,y1")}, "line 1: there is no column path", "path"),
        ({"boxes.csv": b""}, "line 1: there is no column path, x0, y0, x1, y1", "path"),
        ({"boxes.csv": b"\xff\xfe\0"}, "is not UTF-8 text", "replace"),
        ({"boxes.csv": boxes("a" * 200_000 + ",1,1,1,1")}, "it is no line of a table", "path"),
    ],
)
def test_mistakes_in_the_lists_are_named_at_once(
    more: dict[str, bytes], problem: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=problem) as told:
        split_of(tmp_path, {**files(), "masks/ant/1.png": makers.png(MASK), **more})
    assert remedy in told.value.remedy
    assert told.value.exit_code == 3


DAMAGE = {
    "another size": (
        {"masks/ant/0.png": makers.png(MASK[:40])},
        r"the mask .* is 96×40, its image .* is 96×48",
    ),
    "no image": ({"masks/ant/0.png": b"text"}, r"masks/ant/0\.png is not an image that can be read"),
    "cut": ({"masks/ant/0.png": makers.png(IMAGES[0])[:900]}, r"masks/ant/0\.png is damaged"),
    "outside": ({"boxes.csv": boxes("ant/0.png,0,0,97,5")}, r"line 2: the box 0,0,97,5 lies outside ant/0\.png, 96×48"),
    "beyond": ({"boxes.csv": boxes("ant/0.png,96,0,96,5")}, r"line 2: the box 96,0,96,5 lies outside ant/0\.png"),
}


@pytest.mark.fault("D23")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_mask_or_box_that_does_not_fit_its_image(kind: str, tmp_path: Path) -> None:
    more, problem = DAMAGE[kind]
    split = split_of(tmp_path, {**files(), "masks/ant/1.png": makers.png(MASK), **more})
    assert split.masks([1, 2, 3]) is not None
    with pytest.raises(DataError, match=problem):
        split.masks([0])
    left, damaged = without_damaged(split)
    assert (len(left), list(damaged)) == (3, [0])
    assert left.own_objects
    audit = check(f"folder:{tmp_path / 'my'}")["splits"]["test"]
    assert len(audit["damaged"]) == 1


@pytest.mark.fault("D23")
def test_a_mask_of_another_size_names_both(tmp_path: Path) -> None:
    split = split_of(tmp_path, {**files(), "masks/ant/0.png": makers.png(MASK[:40])})
    with pytest.raises(DataError, match=r"the mask .*masks/ant/0\.png is 96×40, its image ant/0\.png is 96×48") as told:
        split.masks([0])
    assert told.value.remedy == "save it in the size of the image file"


@pytest.mark.fault("D23")
def test_the_command_ends_with_exit_3_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more, _ = DAMAGE["outside"]
    root = makers.write_tree(tmp_path / "my", {**files(), **more})
    left, _, last = here(capsys, "data", "check", f"folder:{root}")
    assert left == 3
    assert "the box 0,0,97,5 lies outside" in last
    (root / "boxes.csv").write_bytes(boxes("no.png,1,1,1,1"))
    left, _, last = here(capsys, "--json-errors", "data", "check", f"folder:{root}")
    assert left == 3
    assert "is none of the images" in json.loads(last.splitlines()[-1])["error"]["problem"]
