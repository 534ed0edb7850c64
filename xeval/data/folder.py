"""Read ``folder:PATH``: your own images, with one folder per class (the layout of torchvision's ImageFolder).

PATH/train/<class>/… and PATH/test/<class>/… are the two splits, each with the same class folders; they may be called
``training``, ``testing``, ``val``, ``valid`` or ``validation`` too, in any case. A PATH that holds the class folders
directly is one split called ``test``: it can be scored, and cannot be trained on by mistake. Image files at any depth
below a class folder count; other files are passed over and counted in the notes of their split. PATH may be a zip file
of such a folder, which is read in place. Objects may be marked by PATH/masks or PATH/boxes.csv (see
:mod:`xeval.data.objects`); masks and boxes are resized and cut as the images are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from xeval.data.base import Dataset, DatasetInfo, Index, Ints, Pixels, Size, as_size, height_and_width, moments
from xeval.data.files import FolderTree, Tree, ZipTree
from xeval.data.images import METHODS, FileSplit, decode, fitted, fitted_mask, is_image_name
from xeval.data.objects import BOXES, Objects, find_objects, masks_folder
from xeval.data.sources import reader
from xeval.data.subsets import stratified
from xeval.errors import DataError

if TYPE_CHECKING:
    import torch

SAMPLE, SAMPLE_SEED = 256, 0
SIDE = 224
LARGEST = 512  # pixels a side up to which images that are not square are read in their own size
NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
"""Folders that are splits, in any case and in this order; a folder of such a name is never a class."""
KINDS = 5
"""So many kinds of passed-over files are named."""


class FolderSplit(FileSplit):
    """A split of a user's image files, with a mask of the object for some of them, or for none."""

    own_objects = True

    def __init__(
        self,
        info: DatasetInfo,
        name: str,
        tree: Tree,
        objects: Objects,
        ids: list[str],
        labels: Ints,
        notes: tuple[str, ...],
    ) -> None:
        super().__init__(info, name, tree, ids, labels, notes)
        self._objects = objects if objects.among(ids) else None

    def masks(self, index: Index) -> torch.Tensor | None:
        """Return the objects, bool (n, 1, H, W), empty where an image has none; None if no image of the split has."""
        import torch

        positions = self._positions(index)
        if self._objects is None:
            return None
        masks = np.zeros((len(positions), 1, *self.info.shape[1:]), dtype=np.bool_)
        for row, position in enumerate(positions):
            own = self._objects.of(self.ids[position])
            if own is not None:
                masks[row, 0] = fitted_mask(own, self.info.size)
        return torch.from_numpy(masks)


@reader("folder", "folder:PATH, your images in one folder a class", any_shape=True)
def read(path: Path, size: Size | None) -> Dataset:
    """Classes are the sorted folder names; mean and standard deviation come from the training images.

    They are measured on the readable images of a seeded, stratified sample of 256, at the size that is read. Without
    ``size``, that is the images' own size if the whole sample has one size, square or at most 512 pixels a side, else
    224 a side.
    """
    tree = _tree(path)
    folders, unread = _splits(tree)
    masks = masks_folder(tree, folders.values())
    listed = {name: _list(tree, folder, masks, unread[name]) for name, folder in folders.items()}
    classes = _classes(tree, folders, masks)
    objects = find_objects(tree, masks, [image for images, *_ in listed.values() for image in images])
    ids, labels, _ = listed["train" if "train" in listed else "test"]
    images = _decoded(tree, [ids[row] for row in stratified(labels, SAMPLE, SAMPLE_SEED)])
    native = _common_size(images)
    size = size or _usual_size(native)
    pixels: Pixels = np.stack([np.asarray(fitted(image, size)).transpose(2, 0, 1) for image in images])
    info = DatasetInfo(f"folder:{path}", classes, *moments(pixels), channels=3, size=size, native=native)
    splits = {name: partial(FolderSplit, info, name, tree, objects, *rows) for name, rows in listed.items()}
    return Dataset(info, splits, measured=True, interpolations=frozenset(METHODS))


def _tree(path: Path) -> Tree:
    """Open a folder, or a zip file at the folder that everything in it lies in."""
    if path.is_dir():
        return FolderTree(path)
    if not path.is_file():
        raise DataError(f"the folder {path} does not exist", "write folder:PATH with the path of a folder or zip file")
    tree = ZipTree(path)
    while wrapper := _wrapper(tree):
        tree = ZipTree(path, f"{tree.prefix}{wrapper}/")
    return tree


def _wrapper(tree: Tree) -> str | None:
    """Return the only folder at the top if it is no split and has folders of its own, as in a zip file of a folder."""
    found = [name for name in tree.folders("") if name != "__MACOSX"]
    alone = len(found) == 1 and found[0].lower() not in (name for names in NAMES.values() for name in names)
    return found[0] if alone and tree.folders(found[0]) else None


def _splits(tree: Tree) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the folder of each split by its name, relative to the tree, and those of its other names, unread."""
    present = {folder.lower(): folder for folder in tree.folders("")}
    found = {split: [present[name] for name in names if name in present] for split, names in NAMES.items()}
    folders = {split: places[0] for split, places in found.items() if places} or {"test": ""}
    return folders, {split: places[1:] for split, places in found.items()}


def _class_folders(tree: Tree, folder: str, masks: str | None) -> list[str]:
    return [name for name in tree.folders(folder) if folder or name != masks]


def _classes(tree: Tree, folders: dict[str, str], masks: str | None) -> tuple[str, ...]:
    names = {name: _class_folders(tree, folder, masks) for name, folder in folders.items()}
    train, test = set(names.get("train", names.get("test", []))), set(names.get("test", names.get("train", [])))
    if train != test:
        only = [", ".join(sorted(names)) or "none" for names in (train - test, test - train)]
        raise DataError(
            f"{tree.describe('')}: the class folders differ; only in train: {only[0]}; only in test: {only[1]}",
            "give both splits the same class folders",
        )
    return tuple(sorted(train))


def _list(tree: Tree, folder: str, masks: str | None, unread: list[str]) -> tuple[list[str], Ints, tuple[str, ...]]:
    """Return all images below the class folders, sorted, their labels and notes on what is passed over.

    Raises:
        DataError: there is no class folder, or one holds no images.
    """
    start = f"{folder}/" if folder else ""
    classes = {name: tree.below(f"{start}{name}") for name in _class_folders(tree, folder, masks)}
    if not classes:
        raise DataError(f"{tree.describe(folder)} holds no class folders", "put the images of each class in a folder")
    images = [_images(tree.describe(start + name), files) for name, files in classes.items()]
    ids = [file for files in images for file in files]
    labels = np.repeat(np.arange(len(images)), [len(files) for files in images])
    left = Counter(_kind(file) for file in tree.files(folder) if file != BOXES) + _left(*classes.values())
    return ids, labels, tuple(_notes(left, folder, unread))


def _notes(left: Counter[str], folder: str, unread: list[str]) -> Iterator[str]:
    if left:
        yield f"files passed over: {_counted(left)}"
    if unread:
        yield f"the images are those of the folder {folder}; not read: {', '.join(unread)}"


def _images(folder: str, files: list[str]) -> list[str]:
    """Return the images among the files of a class folder; raise DataError where there is none."""
    images = [file for file in files if is_image_name(file)]
    if not images:
        others = f", but {_counted(_left(files))}" if files else ""
        raise DataError(f"the class folder {folder} holds no images{others}", "fill or remove it")
    return images


def _left(*folders: list[str]) -> Counter[str]:
    """Count the files that are no images by their kinds."""
    return Counter(_kind(file) for files in folders for file in files if not is_image_name(file))


def _kind(file: str) -> str:
    """Return what a file that is passed over is called in a note: its suffix where that is short and plain."""
    name = file.rpartition("/")[2]
    suffix = re.fullmatch(r".+(\.[a-z0-9]{1,9})", name.lower(), re.ASCII)
    if name.startswith("."):
        return "hidden"
    if is_image_name(name):
        return "outside the class folders"
    return suffix[1] if suffix else "without a suffix" if "." not in name else "of another suffix"


def _counted(kinds: Counter[str]) -> str:
    """Return the kinds with their counts, the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    more = sum(count for _, count in ordered[KINDS:])
    return ", ".join([f"{count:,} {kind}" for kind, count in ordered[:KINDS]] + [f"{more:,} others"] * (more > 0))


def _common_size(images: list[Image.Image]) -> Size | None:
    """Return the size of the images if all have the same one, else None."""
    sizes = {as_size(image.height, image.width) for image in images}
    return sizes.pop() if len(sizes) == 1 else None


def _usual_size(native: Size | None) -> Size:
    """Return the size in which images are read if nobody says another one."""
    fits = native is not None and (isinstance(native, int) or max(height_and_width(native)) <= LARGEST)
    return native if native is not None and fits else SIDE


def _decoded(tree: Tree, names: list[str]) -> list[Image.Image]:
    """Return those images that can be decoded; a damaged one raises its error later, when its split reads it."""
    images: list[Image.Image] = []
    problems: list[DataError] = []
    for name in names:
        try:
            images.append(decode(tree.read(name), tree.describe(name)))
        except DataError as fault:
            problems.append(fault)
    if not images:
        raise DataError(f"none of the images can be read; {problems[0].problem}", problems[0].remedy)
    return images
