"""A test needs a number of images and events: below this floor an estimate has no p."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IMAGES_FOR_P = 30
EVENTS_FOR_P = 5


def shortage(*tables: NDArray[np.float64]) -> str:
    """Say why seeds × images tables on common images are too small for a test; empty where they are large enough.

    A column of zeros and ones needs events as well as images. It is one when a table holds nothing else and the others
    lie between 0 and 1. An image is an event where any row is above 0, and a non-event where any row is below 1.
    """
    stacked = np.concatenate(tables)
    if found := shortage_of_images(stacked.shape[1]):
        return found
    indicator = any(np.isin(table, (0.0, 1.0)).all() for table in tables)
    if not indicator or stacked.min() < 0 or stacked.max() > 1:
        return ""
    return _few(int((stacked > 0).any(0).sum()), EVENTS_FOR_P, "event") or _few(
        int((stacked < 1).any(0).sum()), EVENTS_FOR_P, "non-event"
    )


def shortage_of_images(images: int) -> str:
    """Say that ``images`` are too few for a test; empty where they are enough."""
    return _few(images, IMAGES_FOR_P, "image")


def _few(count: int, needed: int, noun: str) -> str:
    return "" if count >= needed else f"{count} {noun}{'' if count == 1 else 's'} < {needed}"
