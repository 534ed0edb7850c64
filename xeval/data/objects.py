"""Find where the objects lie in a user's own images: a folder of masks that mirrors them, or a list of boxes.

* ``masks/<path of the image>.png``, the image's own ending replaced, has the size of its image, and 0 where there is no
  object. What counts as 0 is the colour; transparency does not.
* ``boxes.csv`` has the columns path, x0, y0, x1, y1 and a line for each box: the path of the image below the same
  folder, and the first and the last pixel across and down of the upright image file. Several lines an image are one
  object. A corner one past the last pixel counts as the last pixel.

An image with a mask needs no box: its mask counts. Errors in a list name its line; all others are found when the mask
of an image is read.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xeval.data.files import Tree, text_lines
from xeval.data.images import Mask, is_image_name, mask_of, size_of
from xeval.errors import DataError

MASKS, BOXES, SUFFIX = "masks", "boxes.csv", ".png"
COLUMNS = ("path", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Box:
    """A line of a list of boxes: the pixels from x0, y0 to x1, y1, all of which belong to it."""

    line: int
    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Objects:
    """The mask file and the boxes of those images that have any, by the images' names."""

    tree: Tree
    masks: Mapping[str, str]
    boxes: Mapping[str, Sequence[Box]]

    def among(self, images: Iterable[str]) -> bool:
        """Return whether any of these images has a mask or a box."""
        return any(image in self.masks or image in self.boxes for image in images)

    def of(self, image: str) -> Mask | None:
        """Return the pixels of an image's object, bool (H, W) in those of its file; None where it has none.

        Raises:
            DataError: the mask cannot be read or has another size, or a box lies outside.
        """
        if image not in self.masks and image not in self.boxes:
            return None
        width, height = size_of(self.tree.read(image), self.tree.describe(image))
        if image in self.masks:
            return self._mask(self.masks[image], image, (height, width))
        drawn = np.zeros((height, width), dtype=np.bool_)
        for box in self.boxes[image]:
            if box.x0 >= width or box.y0 >= height or box.x1 > width or box.y1 > height:
                corners = ",".join(map(str, (box.x0, box.y0, box.x1, box.y1)))
                raise _bad_line(self.tree, box.line, f"the box {corners} lies outside {image}, {width}×{height} pixels")
            drawn[box.y0 : box.y1 + 1, box.x0 : box.x1 + 1] = True
        return drawn

    def _mask(self, name: str, image: str, shape: tuple[int, int]) -> Mask:
        mask = mask_of(self.tree.read(name), self.tree.describe(name))
        if mask.shape != shape:
            sizes = [f"{width}×{height}" for height, width in (mask.shape, shape)]
            raise DataError(
                f"the mask {self.tree.describe(name)} is {sizes[0]}, its image {image} is {sizes[1]}",
                "save it in the size of the image file",
            )
        return mask


def masks_folder(tree: Tree, splits: Iterable[str]) -> str | None:
    """Return the folder of masks; None where there is none.

    Beside class folders it could be a class: it is the masks if it holds no images itself, but folders of other
    classes.
    """
    top = tree.folders("")
    name = next((folder for folder in top if folder.lower() == MASKS), None)
    if name is None or "" not in splits:
        return name
    mirrors = {*tree.folders(name)} & {*top} - {name}
    return name if mirrors and not any(map(is_image_name, tree.files(name))) else None


def find_objects(tree: Tree, masks: str | None, images: Sequence[str]) -> Objects:
    """Return what is known of the objects of ``images``, those of all splits; ``masks`` is the folder of masks.

    Raises:
        DataError: a mask or a line belongs to no image, or a line is no box.
    """
    boxes = _boxes(tree, set(images)) if BOXES in tree.files("") else {}
    return Objects(tree, _masks(tree, masks, images) if masks else {}, boxes)


def _masks(tree: Tree, folder: str, images: Sequence[str]) -> dict[str, str]:
    """Return image → mask file."""
    wanted: dict[str, list[str]] = defaultdict(list)  # two images may differ in their ending only
    for image in images:
        wanted[f"{folder}/{image.rpartition('.')[0]}"].append(image)
    found: dict[str, str] = {}
    for name in filter(is_image_name, tree.below(folder)):
        stem, suffix = name.rpartition(".")[0], name[name.rindex(".") :]
        if suffix.lower() != SUFFIX:
            raise DataError(f"the mask {tree.describe(name)} is no PNG file", "save masks as PNG")
        if stem not in wanted:
            raise DataError(
                f"the mask {tree.describe(name)} belongs to no image", f"give it the path of its image below {folder}"
            )
        found |= dict.fromkeys(wanted[stem], name)
    return found


def _boxes(tree: Tree, images: set[str]) -> dict[str, list[Box]]:
    """Return image → boxes."""
    reader = csv.DictReader(text_lines(tree, BOXES))
    lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if lacking:
        raise _bad_line(tree, 1, f"there is no column {', '.join(lacking)}")
    found: dict[str, list[Box]] = defaultdict(list)
    try:
        for row in reader:
            if row["path"] not in images:
                raise _bad_line(tree, reader.line_num, f"{row['path']!a} is none of the images")
            found[row["path"]].append(_box(tree, reader.line_num, [row[column] for column in COLUMNS[1:]]))
    except csv.Error as fault:
        raise _bad_line(tree, reader.line_num, f"it is no line of a table ({fault})") from None
    return found


def _box(tree: Tree, line: int, corners: list[str | None]) -> Box:
    try:
        x0, y0, x1, y1 = (int(corner or "") for corner in corners)
    except ValueError:
        raise _bad_line(tree, line, f"the box {corners} is not four whole numbers") from None
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
        raise _bad_line(tree, line, f"the box {corners} is empty or outside the image")
    return Box(line, x0, y0, x1, y1)


def _bad_line(tree: Tree, line: int, problem: str) -> DataError:
    return DataError(
        f"{tree.describe(BOXES)}, line {line}: {problem}",
        "write path,x0,y0,x1,y1: the path below the folder of the list, the first and the last pixel across and down",
    )
