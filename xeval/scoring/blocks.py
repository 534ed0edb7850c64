"""Divides the images of a plan into blocks: what is scored at a time, committed as a whole, and lost by a kill.

A block takes about half a minute at most, as far as the speed of the network tells beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xeval.metrics.metric import BLOCKS
from xeval.scoring.plan import Plan, Task
from xeval.scoring.store import Store

SIDE = 64  # of the images, up to which a block may hold most of them
MOST, FEWEST = 64, 16
SECONDS = 30.0


@dataclass(frozen=True)
class Chunk:
    """Consecutive chosen images that are scored together: the number of the first, and all positions in the split."""

    first: int
    positions: list[int]


Work: TypeAlias = list[tuple[Chunk, list[Task]]]
"""The blocks to score, each with the metrics that lack values there."""

Lacking: TypeAlias = list[tuple[Task | None, NDArray[np.bool_]]]
"""Which of the chosen images, bool (N,), a metric has no values of; None stands for what is known of every image."""


def largest_block(plan: Plan) -> int:
    """Return the number of images in a block unless they take too long: 64, or fewer where images are large."""
    _, height, width = plan.info.shape
    return max(FEWEST, MOST * SIDE**2 // max(height * width, SIDE**2))


def block_in_time(most: int, seconds: float) -> int:
    """Return ``most``, halved until so many images, of ``seconds`` each, take half a minute at most; 1 at least."""
    while most > 1 and most * seconds > SECONDS:
        most //= 2
    return most


def block_size(plan: Plan, seconds: float) -> int:
    """Return the number of images in a block where the passes of an image take ``seconds``.

    Where values depend on which images are scored together, as draws of another library do, blocks are the same for
    every network.
    """
    most = largest_block(plan)
    return most if any(task.metric.needs & BLOCKS for task in plan.tasks) else block_in_time(most, seconds)


def chunks(plan: Plan, size: int | None = None) -> list[Chunk]:
    """Return the chosen images in blocks of ``size``, the largest ones unless given."""
    size = size or largest_block(plan)
    positions = [int(i) for i in plan.chosen]
    return [Chunk(first, positions[first : first + size]) for first in range(0, len(positions), size)]


def lacking(store: Store, plan: Plan) -> Lacking:
    """Return for each metric where the store has no value or an error; what every metric needs comes first."""
    parts = [(None, list(plan.model_cells().values())), *((t, list(plan.cells(t).values())) for t in plan.tasks)]
    ids = store.ids([cell for _, cells in parts for cell in cells])
    done = store.done(ids.values())
    images = len(plan.chosen)
    return [(task, ~np.all([covered(done[ids[cell]], images) for cell in cells], 0)) for task, cells in parts]


def covered(extents: Sequence[tuple[int, int]], images: int) -> NDArray[np.bool_]:
    """Return which of the images (bool, N) lie in the extents, which are pairs of a first image and a number."""
    found = np.zeros(images, bool)
    for first, count in extents:
        found[first : first + count] = True
    return found


def work_of(plan: Plan, where: Lacking, size: int | None = None) -> Work:
    """Return the blocks in which anything is lacking, with the metrics that lack it."""
    work: Work = []
    for chunk in chunks(plan, size):
        part = slice(chunk.first, chunk.first + len(chunk.positions))
        tasks = [task for task, images in where if images[part].any()]
        if tasks:
            work.append((chunk, [task for task in tasks if task is not None]))
    return work


def images_of(work: Work) -> int:
    """Return the number of images in a list of work."""
    return sum(len(chunk.positions) for chunk, _ in work)
