"""Read ``folder:PATH``: your own images, with one folder per class (the layout of torchvision's ImageFolder).

PATH/train/<class>/… and PATH/test/<class>/… are the two splits, each with the same class folders; they may be called
``training``, ``testing``, ``val``, ``valid`` or ``validation`` too, in any case. A PATH that holds the class folders
directly is one split called ``test``: it can be scored, and cannot be trained on by mistake. Image files at any depth
below a class folder count; files with other endings are passed over.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from xeval.data.base import Dataset, DatasetInfo, Ints, Pixels, moments
from xeval.data.files import FolderTree
from xeval.data.images import FileSplit, decode, is_image_name, square
from xeval.data.sources import reader
from xeval.data.subsets import stratified
from xeval.errors import DataError

SAMPLE, SAMPLE_SEED = 256, 0
SIDE = 224
NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
"""Folders that are splits, in any case and in this order; a folder of such a name is never a class."""


@reader("folder", "folder:PATH, your images in one folder a class")
def read(path: Path, size: int | None) -> Dataset:
    """Classes are the sorted folder names; mean and standard deviation come from the training images.

    They are measured on the readable images of a seeded, stratified sample of 256, at the size that is read. Without
    ``size``, that is the images' own side if the whole sample is square and of one size, else 224.
    """
    if not path.is_dir():
        raise DataError(f"the folder {path} does not exist", "write folder:PATH with the path of a folder")
    tree = FolderTree(path)
    folders = _splits(tree)
    listed = {name: _list(tree, folder) for name, folder in folders.items()}
    classes = _classes(tree, folders)
    ids, labels = listed.get("train", listed["test"] if "test" in listed else ([], np.empty(0, np.int64)))
    images = _decoded(tree, [ids[row] for row in stratified(labels, SAMPLE, SAMPLE_SEED)])
    native = _common_side(images)
    side = size or native or SIDE
    pixels: Pixels = np.stack([np.asarray(square(image, side)).transpose(2, 0, 1) for image in images])
    info = DatasetInfo(f"folder:{path}", classes, *moments(pixels), channels=3, size=side, native=native)
    splits = {name: partial(FileSplit, info, name, tree, *rows) for name, rows in listed.items()}
    return Dataset(info, splits, measured=True)


def _splits(tree: FolderTree) -> dict[str, str]:
    """Return the folder of each split by its name, relative to the tree."""
    present = {folder.lower(): folder for folder in tree.folders("")}
    found = {split: next((present[name] for name in names if name in present), None) for split, names in NAMES.items()}
    return {split: folder for split, folder in found.items() if folder} or {"test": ""}


def _classes(tree: FolderTree, folders: dict[str, str]) -> tuple[str, ...]:
    names = {name: tree.folders(folder) for name, folder in folders.items()}
    train, test = set(names.get("train", names.get("test", []))), set(names.get("test", names.get("train", [])))
    if train != test:
        raise DataError(
            f"{tree.root}: the class folders differ; only in train: {', '.join(sorted(train - test)) or 'none'}; "
            f"only in test: {', '.join(sorted(test - train)) or 'none'}",
            "give both splits the same class folders",
        )
    return tuple(sorted(train))


def _list(tree: FolderTree, folder: str) -> tuple[list[str], Ints]:
    """Return all images below the class folders, sorted, and their labels; raise DataError for an empty class."""
    start = f"{folder}/" if folder else ""
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(tree.folders(folder)):
        images = [file for file in tree.below(f"{start}{name}") if is_image_name(file)]
        if not images:
            raise DataError(f"the class folder {tree.describe(start + name)} holds no images", "fill or remove it")
        ids += images
        labels += [label] * len(images)
    if not ids:
        raise DataError(f"{tree.describe(folder)} holds no class folders", "put the images of each class in a folder")
    return ids, np.array(labels, dtype=np.int64)


def _common_side(images: list[Image.Image]) -> int | None:
    """Return the side of the images if all are squares of one size, else None."""
    sides = {side for image in images for side in image.size}
    return sides.pop() if len(sides) == 1 else None


def _decoded(tree: FolderTree, names: list[str]) -> list[Image.Image]:
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
