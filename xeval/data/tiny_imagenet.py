"""Read Tiny ImageNet (Stanford CS231n, 2015) or a subset in its layout, from the zip file or the folder, in place.

The training images are train/<wnid>/images/*.JPEG, with boxes in train/<wnid>/<wnid>_boxes.txt; the validation images
are val/images/*.JPEG, with labels and boxes in val/val_annotations.txt. The official test images have no labels, so the
split ``test`` is the official val.

Many scripts move the validation images to val/<wnid>/*.JPEG or val/<wnid>/images/*.JPEG. They are read from there under
their official ids val/images/<file>, in the order of the annotations, and must lie where the annotations put them, so
that ids, labels, boxes and manifest are those of the official layout. Without the annotations, the class folder is the
label, the order is that of the numbers in the file names, as in the official list, and there are no boxes.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xeval.data.base import Dataset, DatasetInfo, Index, Ints
from xeval.data.download import Archive
from xeval.data.files import FolderTree, Tree, ZipTree, text_lines
from xeval.data.images import FileSplit, is_image_name, size_of
from xeval.data.sources import missing, reader, require_official
from xeval.errors import DataError

if TYPE_CHECKING:
    import torch

MEAN = (0.4802, 0.4481, 0.3975)
STD = (0.2302, 0.2265, 0.2262)  # as published: the mean of the images' own deviations; over all pixels it is .28
OFFICIAL = Archive(
    "tiny-imagenet-200.zip", "https://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
VAL, ANNOTATIONS = "val/images", "val/val_annotations.txt"


class BoxedSplit(FileSplit):
    """A split of image files with one box each, given in pixels of the file, returned in those of the image as read."""

    def __init__(
        self,
        info: DatasetInfo,
        name: str,
        tree: Tree,
        ids: list[str],
        labels: Ints,
        *,
        boxes: Ints,
        native: int,
        files: list[str] | None = None,
    ) -> None:
        super().__init__(info, name, tree, ids, labels, native=native, files=files)
        self._boxes = scale_boxes(boxes, native, info.shape[1])

    def boxes(self, index: Index) -> torch.Tensor | None:
        """Return the boxes, int64 (n, 4), inclusive."""
        import torch

        return torch.from_numpy(self._boxes[self._positions(index)])


def scale_boxes(boxes: Ints, native: int, side: int) -> Ints:
    """Resize inclusive boxes to every pixel that the old box touches: ⌊x0·s⌋ to ⌈(x1 + 1)·s⌉ - 1."""
    low = boxes[:, :2] * side // native
    high = -(-(boxes[:, 2:] + 1) * side // native) - 1
    return np.concatenate([low, high], axis=1).clip(0, side - 1)


def locate(root: Path) -> Path | None:
    """Return the zip file or folder: ``root``, an official name in it, or its only ``tiny-imagenet*``; or None."""
    if root.is_file() or (root / "wnids.txt").is_file():
        return root
    for name in ("tiny-imagenet-200", OFFICIAL.file):
        if (root / name).exists():
            return root / name
    others = sorted(
        path for path in root.glob("tiny-imagenet*") if path.suffix == ".zip" or (path / "wnids.txt").is_file()
    )
    if len(others) > 1:
        names = ", ".join(path.name for path in others)
        raise DataError(f"{root} holds several subsets of Tiny ImageNet: {names}", "give one of them as --data")
    return others[0] if others else None


@reader(
    "tiny-imagenet",
    "Tiny ImageNet or a subset in its layout, 64 px, colour, with boxes",
    archives=(OFFICIAL,),
    locate=locate,
)
def read(root: Path, size: int | None) -> Dataset:
    """Classes in the order of their sorted WordNet ids, named by the first word of words.txt; grey files become RGB."""
    place = locate(root)
    if place is None:
        raise missing("tiny-imagenet", f"{OFFICIAL.file} or a folder with wnids.txt", root)
    require_official(place, (OFFICIAL,))
    tree = open_tree(place)
    wnids = sorted(line.strip() for line in text_lines(tree, "wnids.txt") if line.strip())
    native = _native_side(tree)
    info = DatasetInfo(
        "tiny-imagenet", _class_names(tree, wnids), MEAN, STD, channels=3, size=size or native, native=native
    )
    return Dataset(
        info, {"train": partial(_train, info, tree, wnids, native), "test": partial(_test, info, tree, wnids, native)}
    )


def open_tree(place: Path) -> Tree:
    """Open the files of a folder or a zip file; their names are relative to the folder that holds wnids.txt."""
    return FolderTree(place) if place.is_dir() else ZipTree.around(place, "wnids.txt")


def _train(info: DatasetInfo, tree: Tree, wnids: list[str], native: int) -> BoxedSplit:
    _same_names(tree.describe("train"), set(wnids), set(tree.folders("train")))
    ids: list[str] = []
    labels: list[int] = []
    boxes: list[list[int]] = []
    for label, wnid in enumerate(wnids):
        table = _boxes_of(tree, f"train/{wnid}/{wnid}_boxes.txt", native)
        names = [name for name in tree.below(f"train/{wnid}/images") if is_image_name(name)]
        _same_names(tree.describe(f"train/{wnid}"), set(table), {name.rpartition("/")[2] for name in names})
        ids += names
        labels += [label] * len(names)
        boxes += [table[name.rpartition("/")[2]] for name in names]
    return BoxedSplit(info, "train", tree, ids, np.array(labels), boxes=np.array(boxes), native=native)


def _boxes_of(tree: Tree, name: str, native: int) -> dict[str, list[int]]:
    rows = (_fields(tree, name, number, line, 5) for number, line in enumerate(text_lines(tree, name), start=1))
    return {row[0]: _box(tree, name, number, row[1:], native) for number, row in enumerate(rows, start=1)}


def _test(info: DatasetInfo, tree: Tree, wnids: list[str], native: int) -> FileSplit:
    places = _val_images(tree)
    moved = any(_folder(place) != "images" for place in places.values())
    if moved and ANNOTATIONS not in tree.files("val"):
        return _by_folder(info, tree, wnids, native, places)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    ids: list[str] = []
    labels: list[int] = []
    boxes: list[list[int]] = []
    for number, line in enumerate(text_lines(tree, ANNOTATIONS), start=1):
        file, wnid, *corners = _fields(tree, ANNOTATIONS, number, line, 6)
        if wnid not in label_of:
            raise _bad_row(tree, ANNOTATIONS, number, f"the class {wnid!r} is not in wnids.txt")
        ids.append(f"{VAL}/{file}")
        place = places.get(ids[-1], ids[-1])
        if _folder(place) not in ("images", wnid):
            raise _bad_row(tree, ANNOTATIONS, number, f"{file} is of the class {wnid}, but it lies in {place}")
        labels.append(label_of[wnid])
        boxes.append(_box(tree, ANNOTATIONS, number, corners, native))
    _same_names(tree.describe("val" if moved else VAL), set(ids), set(places))
    files = [places[name] for name in ids]
    return BoxedSplit(info, "test", tree, ids, np.array(labels), boxes=np.array(boxes), native=native, files=files)


def _by_folder(info: DatasetInfo, tree: Tree, wnids: list[str], native: int, places: dict[str, str]) -> FileSplit:
    """Return the validation images with the labels of their class folders, in the order of their numbers."""
    _same_names(tree.describe("val"), set(wnids), {_folder(place) for place in places.values()})
    ids = sorted(places, key=_numbered)
    labels = np.array([wnids.index(_folder(places[name])) for name in ids])
    note = f"{ANNOTATIONS} is missing: labels are those of the class folders, and there are no boxes"
    return FileSplit(info, "test", tree, ids, labels, (note,), native=native, files=[places[name] for name in ids])


def _val_images(tree: Tree) -> dict[str, str]:
    """Return official name → place of the validation images; those of val/images, else those of the class folders."""
    official = {name: name for name in tree.below(VAL) if is_image_name(name)}
    if official:
        return official
    places: dict[str, str] = {}
    files = (name for folder in tree.folders("val") for name in tree.below(f"val/{folder}"))
    for place in filter(is_image_name, files):
        name = f"{VAL}/{place.rpartition('/')[2]}"
        if name in places:
            raise DataError(
                f"{tree.describe('val')} holds one image twice, {places[name]} and {place}", "remove one of them"
            )
        places[name] = place
    return places


def _folder(place: str) -> str:
    """Return the folder in val that an image lies in."""
    return place.split("/")[1]


def _numbered(name: str) -> list[int | str]:
    """Return a key that sorts val_10.JPEG behind val_9.JPEG."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _fields(tree: Tree, name: str, number: int, line: str, count: int) -> list[str]:
    fields = line.split("\t")
    if len(fields) != count:
        raise _bad_row(tree, name, number, f"{len(fields)} fields instead of {count}")
    return fields


def _box(tree: Tree, name: str, number: int, corners: list[str], native: int) -> list[int]:
    """Return x0, y0, x1, y1; a corner at the far edge, one past the last pixel, counts as the last pixel."""
    try:
        x0, y0, x1, y1 = (min(int(corner), native - 1) for corner in corners)
    except ValueError:
        raise _bad_row(tree, name, number, f"the box {corners} is not four whole numbers") from None
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
        raise _bad_row(tree, name, number, f"the box {corners} is empty or outside the image")
    return [x0, y0, x1, y1]


def _bad_row(tree: Tree, name: str, number: int, problem: str) -> DataError:
    return DataError(f"{tree.describe(name)}, line {number}: {problem}", "correct or replace the file")


def _same_names(where: str, expected: set[str], found: set[str]) -> None:
    """Raise DataError if files or folders are missing or too many, naming the first five of each."""
    if expected == found:
        return
    lists = {"missing": sorted(expected - found), "not listed": sorted(found - expected)}
    text = "; ".join(f"{len(names)} {kind}: {', '.join(names[:5])}" for kind, names in lists.items() if names)
    raise DataError(f"{where} does not match its lists ({text})", "fetch the data set again or correct the lists")


def _native_side(tree: Tree) -> int:
    """Return the side of the images, from the first of val, else of train."""
    names = (name for folder in (VAL, "train", "val") for name in tree.below(folder))
    first = next((name for name in names if is_image_name(name)), None)
    if first is None:
        raise DataError(f"{tree.describe('')} holds no images", "give Tiny ImageNet or a subset in its layout")
    return min(size_of(tree.read(first), tree.describe(first)))


def _class_names(tree: Tree, wnids: list[str]) -> tuple[str, ...]:
    """Return the first name of every class; a name that two classes share gets the WordNet id added."""
    rows = (line.partition("\t") for line in text_lines(tree, "words.txt"))
    words = {wnid: text.split(",")[0].strip() for wnid, _, text in rows}
    names = [words.get(wnid) or wnid for wnid in wnids]
    shared = Counter(names)
    return tuple(name if shared[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))
