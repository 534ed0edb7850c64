"""Cut ten photographs into crops of 32 px; the task is to tell which photograph a crop comes from.

Each photograph is scaled to a height of 256 px. Crops for training lie in its left 55 %, crops for testing in its right
35 %; the gap keeps them from sharing pixels. Nothing is downloaded: all ten files ship with scikit-image and
scikit-learn.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from xeval.data.base import ArraySplit, Dataset, DatasetInfo, Pixels, moments, resized
from xeval.data.images import decode
from xeval.data.sources import reader
from xeval.data.subsets import shuffled
from xeval.errors import DataError

PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "grass": "skimage/data/grass.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "palace": "sklearn/datasets/images/china.jpg",
}
CROP, HEIGHT = 32, 256
LEFT, RIGHT = 0.55, 0.65
COUNTS = {"train": 100, "test": 30}


@reader("photo10", "crops of ten photographs, 32 px, colour (ship with scikit-image, -learn)")
def read(_root: Path, size: int | None) -> Dataset:
    """Ten classes, 100 crops each to train on and 30 to test on; grey photographs become RGB."""
    side = size or CROP
    mean, std = moments(resized(_crops("train")[0], side))
    info = DatasetInfo("photo10", tuple(PHOTOS), mean, std, channels=3, size=side)
    return Dataset(info, {name: partial(_split, info, name) for name in COUNTS})


def _split(info: DatasetInfo, name: str) -> ArraySplit:
    crops, ids = _crops(name)
    return ArraySplit(info, name, crops, np.repeat(np.arange(len(PHOTOS)), COUNTS[name]), ids)


@cache
def _crops(split: str) -> tuple[Pixels, tuple[str, ...]]:
    """Return all crops of a split, uint8 (N, 3, 32, 32), and their ids: photograph and left upper corner."""
    crops: list[Pixels] = []
    ids: list[str] = []
    for number, name in enumerate(PHOTOS):
        photo = _photo(name)
        start, stop = _region(split, photo.shape[2])
        rows, columns = HEIGHT - CROP + 1, stop - start - CROP + 1
        for place in shuffled(rows * columns, seed=number)[: COUNTS[split]]:
            y, x = int(place // columns), int(start + place % columns)
            crops.append(photo[:, y : y + CROP, x : x + CROP])
            ids.append(f"{name}/x{x:03d}-y{y:03d}")
    return np.stack(crops), tuple(ids)


def _region(split: str, width: int) -> tuple[int, int]:
    """Return the first and the past-the-last column that crops of this split may touch."""
    return (0, int(LEFT * width)) if split == "train" else (int(RIGHT * width), width)


def _photo(name: str) -> Pixels:
    """Return one photograph, uint8 (3, 256, width)."""
    package, _, path = PHOTOS[name].partition("/")
    spec = find_spec(package)  # finds the files without importing the package
    if spec is None or spec.origin is None:
        raise DataError(f"{package} is not installed and with it the photograph {path}", f"pip install {package}")
    image = decode((Path(spec.origin).parent / path).read_bytes(), PHOTOS[name])
    small = image.resize((round(image.width * HEIGHT / image.height), HEIGHT), resample=2)
    return np.asarray(small).transpose(2, 0, 1)
