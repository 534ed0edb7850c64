"""Data sets: each has a reader in a file of its own, all use the same two classes; :func:`open_dataset` finds them."""

from xeval.data.base import Dataset, DatasetInfo, Split, normalize
from xeval.data.sources import open_dataset
from xeval.data.subsets import holdout, stratified
from xeval.registry import import_modules

__all__ = ["Dataset", "DatasetInfo", "Split", "holdout", "normalize", "open_dataset", "stratified"]

import_modules(__name__)
