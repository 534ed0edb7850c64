"""Read ImageNet-S50 from its official folder: 50 classes of ImageNet, with segmented validation images.

Source: S. Gao et al., "Large-scale unsupervised semantic segmentation", TPAMI 2022.

The training images are ImageNetS50/train/<wnid>/*.JPEG, the validation images validation/<wnid>/*.JPEG. Each validation
image has a segmentation validation-segmentation/<wnid>/*.png, whose pixels are R + 256·G: the number of the class, from
1 in the order of the sorted WordNet ids; 0 elsewhere; 1000 where the annotators did not decide. The official test
images have no labels, so the split ``test`` is the validation split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xeval.data.base import Dataset, DatasetInfo, Index, Ints, Size
from xeval.data.files import FolderTree
from xeval.data.images import FileSplit, decode, fitted_mask, is_image_name, size_of
from xeval.data.sources import missing, reader
from xeval.errors import DataError

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
IGNORED = 1000
FOLDERS = {"train": "train", "test": "validation"}
SEGMENTATION = "validation-segmentation"
REMEDY = "build it from ImageNet with the scripts of its authors (ImageNet-S), and give --data DIR"


class SegmentedSplit(FileSplit):
    """A split of image files with one segmentation each, which is cut and resized (nearest pixel) as the image is."""

    def masks(self, index: Index) -> torch.Tensor | None:
        """Return the pixels of the image's own class, bool (n, 1, H, W); undecided pixels are False."""
        import torch

        positions = self._positions(index)
        masks = np.empty((len(positions), 1, *self.info.shape[1:]), dtype=np.bool_)
        for row, position in enumerate(positions):
            masks[row, 0] = self._mask(int(position))
        return torch.from_numpy(masks)

    def _mask(self, position: int) -> NDArray[np.bool_]:
        name = segmentation_of(self.ids[position])
        numbers = class_numbers(self._tree.read(name), self._tree.describe(name))
        image = self.ids[position]
        expected = size_of(self._tree.read(image), self._tree.describe(image))
        if numbers.shape[::-1] != expected:
            raise DataError(
                f"{self._tree.describe(name)} is {numbers.shape[1]}×{numbers.shape[0]}, its image {expected[0]}×"
                f"{expected[1]}",
                "replace the file",
            )
        return fitted_mask(numbers == self.labels[position] + 1, self.info.size)


def segmentation_of(image: str) -> str:
    """Return the segmentation of an image: validation/<wnid>/x.JPEG → validation-segmentation/<wnid>/x.png."""
    return f"{SEGMENTATION}/{image.partition('/')[2].rpartition('.')[0]}.png"


def class_numbers(data: bytes, name: str) -> Ints:
    """Return R + 256·G of a segmentation, int64 (H, W); 0 where it is undecided."""
    pixels = np.asarray(decode(data, name)).astype(np.int64)
    numbers = pixels[..., 0] + 256 * pixels[..., 1]
    return np.where(numbers == IGNORED, 0, numbers)


def locate(root: Path) -> Path | None:
    """Return the folder of the data set, ``root`` itself or ImageNetS50 in it, or None."""
    return next((place for place in (root, root / "ImageNetS50") if (place / SEGMENTATION).is_dir()), None)


@reader(
    "imagenet-s50",
    "50 classes of ImageNet, 224 px, colour, with exact masks",
    locate=locate,
    remedy=REMEDY,
    any_shape=True,
)
def read(root: Path, size: Size | None) -> Dataset:
    """Classes are the sorted WordNet ids; images at 224 px unless ``size`` says otherwise."""
    place = locate(root)
    if place is None:
        raise missing("imagenet-s50", f"ImageNetS50 with the folders validation and {SEGMENTATION}", root, REMEDY)
    tree = FolderTree(place)
    wnids = tree.folders(FOLDERS["test"])
    info = DatasetInfo("imagenet-s50", tuple(wnids), MEAN, STD, channels=3, size=size or SIDE)
    present = {name: folder for name, folder in FOLDERS.items() if tree.folders(folder)}
    return Dataset(info, {name: partial(_split, info, tree, wnids, name) for name in present})


def _split(info: DatasetInfo, tree: FolderTree, wnids: list[str], name: str) -> FileSplit:
    folder = FOLDERS[name]
    if tree.folders(folder) != wnids:
        differing = sorted(set(tree.folders(folder)) ^ set(wnids))
        raise DataError(
            f"{tree.describe(folder)} and {FOLDERS['test']} differ in the classes {', '.join(differing[:5])}",
            "build the data set again",
        )
    images = [[file for file in tree.below(f"{folder}/{wnid}") if is_image_name(file)] for wnid in wnids]
    ids = [file for files in images for file in files]
    labels = np.repeat(np.arange(len(wnids)), [len(files) for files in images])
    if name == "train":
        return FileSplit(info, name, tree, ids, labels)
    without = sorted({segmentation_of(file) for file in ids} - set(tree.below(SEGMENTATION)))
    if without:
        raise DataError(
            f"{len(without)} segmentations are missing, first {tree.describe(without[0])}", "build it again"
        )
    return SegmentedSplit(info, name, tree, ids, labels)
