"""Read scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak, 1998), the default data set; it needs no files."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np

from xeval.data.base import ArraySplit, Dataset, DatasetInfo, Ints, Pixels, moments, resized
from xeval.data.sources import reader
from xeval.data.subsets import holdout

SIDE = 16
TEST_SHARE = 0.2
SPLIT_SEED = 0


@reader("digits", "1,797 real handwritten digits, 16 px, grey (ships with scikit-learn)")
def read(_root: Path, size: int | None) -> Dataset:
    """8×8 grey digits, bilinearly upsampled; a seeded, stratified fifth is the test split."""
    side = size or SIDE
    images, labels = _digits()
    train, test = holdout(labels, TEST_SHARE, SPLIT_SEED)
    mean, std = moments(resized(images[train], side))
    info = DatasetInfo("digits", tuple("0123456789"), mean, std, channels=1, size=side)

    def split(name: str, rows: Ints) -> ArraySplit:
        return ArraySplit(info, name, images[rows], labels[rows], [f"{row:04d}" for row in rows])

    return Dataset(info, {"train": partial(split, "train", train), "test": partial(split, "test", test)})


@cache
def _digits() -> tuple[Pixels, Ints]:
    """Return all digits, uint8 (1797, 1, 8, 8), and labels; the source has 17 grey levels, 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = (digits.images[:, None] * (255 / 16)).round()
    return levels.astype(np.uint8), digits.target.astype(np.int64)
