"""Read ``folder:PATH``: your own images, with one folder per class (the layout of torchvision's ImageFolder).

PATH/train/<class>/… and PATH/test/<class>/… are the two splits, each with the same class folders; they may be called
``training``, ``testing``, ``val``, ``valid`` or ``validation`` too, in any case. A PATH that holds the class folders
directly is one split called ``test``: it can be scored, and cannot be trained on by mistake. Image files at any depth
below a class folder count; other files are passed over and counted in the notes of their split. PATH may be a zip file
of such a folder, which is read in place.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from xeval.data.base import Dataset, DatasetInfo, Ints, Pixels, moments
from xeval.data.files import FolderTree, Tree, ZipTree
from xeval.data.images import FileSplit, decode, is_image_name, square
from xeval.data.sources import reader
from xeval.data.subsets import stratified
from xeval.errors import DataError

SAMPLE, SAMPLE_SEED = 256, 0
SIDE = 224
NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
"""Folders that are splits, in any case and in this order; a folder of such a name is never a class."""
KINDS = 5
"""So many kinds of passed-over files are named."""


@reader("folder", "folder:PATH, your images in one folder a class")
def read(path: Path, size: int | None) -> Dataset:
    """Classes are the sorted folder names; mean and standard deviation come from the training images.

    They are measured on the readable images of a seeded, stratified sample of 256, at the size that is read. Without
    ``size``, that is the images' own side if the whole sample is square and of one size, else 224.
    """
    tree = _tree(path)
    folders = _splits(tree)
    listed = {name: _list(tree, folder) for name, folder in folders.items()}
    classes = _classes(tree, folders)
    ids, labels, _ = listed["train" if "train" in listed else "test"]
    images = _decoded(tree, [ids[row] for row in stratified(labels, SAMPLE, SAMPLE_SEED)])
    native = _common_side(images)
    side = size or native or SIDE
    pixels: Pixels = np.stack([np.asarray(square(image, side)).transpose(2, 0, 1) for image in images])
    info = DatasetInfo(f"folder:{path}", classes, *moments(pixels), channels=3, size=side, native=native)
    splits = {name: partial(FileSplit, info, name, tree, *rows) for name, rows in listed.items()}
    return Dataset(info, splits, measured=True)


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


def _splits(tree: Tree) -> dict[str, str]:
    """Return the folder of each split by its name, relative to the tree."""
    present = {folder.lower(): folder for folder in tree.folders("")}
    found = {split: next((present[name] for name in names if name in present), None) for split, names in NAMES.items()}
    return {split: folder for split, folder in found.items() if folder} or {"test": ""}


def _classes(tree: Tree, folders: dict[str, str]) -> tuple[str, ...]:
    names = {name: tree.folders(folder) for name, folder in folders.items()}
    train, test = set(names.get("train", names.get("test", []))), set(names.get("test", names.get("train", [])))
    if train != test:
        only = [", ".join(sorted(names)) or "none" for names in (train - test, test - train)]
        raise DataError(
            f"{tree.describe('')}: the class folders differ; only in train: {only[0]}; only in test: {only[1]}",
            "give both splits the same class folders",
        )
    return tuple(sorted(train))


def _list(tree: Tree, folder: str) -> tuple[list[str], Ints, tuple[str, ...]]:
    """Return all images below the class folders, sorted, their labels and a note on the files that are passed over.

    Raises:
        DataError: there is no class folder, or one holds no images.
    """
    start = f"{folder}/" if folder else ""
    classes = {name: tree.below(f"{start}{name}") for name in tree.folders(folder)}
    if not classes:
        raise DataError(f"{tree.describe(folder)} holds no class folders", "put the images of each class in a folder")
    images = [_images(tree.describe(start + name), files) for name, files in classes.items()]
    ids = [file for files in images for file in files]
    labels = np.repeat(np.arange(len(images)), [len(files) for files in images])
    left = Counter(map(_kind, tree.files(folder))) + _left(*classes.values())
    return ids, labels, (f"files passed over: {_counted(left)}",) if left else ()


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


def _common_side(images: list[Image.Image]) -> int | None:
    """Return the side of the images if all are squares of one size, else None."""
    sides = {side for image in images for side in image.size}
    return sides.pop() if len(sides) == 1 else None


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
