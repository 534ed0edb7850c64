"""Data sets: each has a reader in a file of its own, all use the same two classes; :func:`open_dataset` finds them."""

from xeval.data.base import ArraySplit, Dataset, DatasetInfo, Split, moments, normalize
from xeval.data.sources import READERS, open_dataset, reader
from xeval.data.subsets import holdout, stratified
from xeval.registry import import_modules

__all__ = [
    "READERS",
    "ArraySplit",
    "Dataset",
    "DatasetInfo",
    "Split",
    "holdout",
    "moments",
    "normalize",
    "open_dataset",
    "reader",
    "stratified",
]

import_modules(__name__)
