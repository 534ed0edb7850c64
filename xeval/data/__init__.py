"""Data sets: each has a reader in a file of its own, all use the same two classes; :func:`open_dataset` finds them."""

from xeval.data.base import Dataset, DatasetInfo, Split, normalize, unreadable
from xeval.data.manage import check, get, listing, require_sound
from xeval.data.sources import READERS, Reader, Source, data_root, open_dataset
from xeval.data.subsets import holdout, stratified
from xeval.registry import import_modules

__all__ = [
    "READERS",
    "Dataset",
    "DatasetInfo",
    "Reader",
    "Source",
    "Split",
    "check",
    "data_root",
    "get",
    "holdout",
    "listing",
    "normalize",
    "open_dataset",
    "require_sound",
    "stratified",
    "unreadable",
]

import_modules(__name__)
