"""``scores.sqlite`` of 10,000 images × 9 explainers × 44 columns: its size and the time to read a column."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.pairs import seconds
from benchmarks.rows import Claim, DisagreementError, Options, Target, main, row_of
from xeval.scoring.store import Block, Cell, Store

EXPLAINERS, COLUMNS, BLOCK = 9, 44, 64  # scoring writes blocks of 64 images
MEGABYTE = 1e6


def cells() -> list[Cell]:
    """Return one cell for each explainer and column."""
    return [
        Cell("checkpoint", "data", f"explainer-{one}", "metric", f"metric.column@{column}", "definition")
        for one, column in product(range(EXPLAINERS), range(COLUMNS))
    ]


def values(cell: int, first: int, count: int) -> np.ndarray:
    """Return seeded values that cannot be compressed."""
    return np.random.default_rng((cell, first)).normal(size=count)


def write(path: Path, images: int) -> list[int]:
    """Write a full store and return the numbers of its cells."""
    none = ("undefined", "empty map")
    with Store(path) as store:
        ids = list(store.ids(cells()).values())
        for first in range(0, images, BLOCK):
            count = min(BLOCK, images - first)
            blocks = {}
            for cell in ids:
                block = values(cell, first, count)
                blocks[cell] = Block(block, {none: block > 3})
            store.put(first, blocks)
    return ids


def read(path: Path, cell: int) -> None:
    """Read one column from a newly opened file; raise DisagreementError where it is not what was written."""
    with Store(path, read_only=True) as store:
        series = store.read(cell)
    expected = values(cell, 0, BLOCK)
    if not np.array_equal(series.values[: len(expected)], expected[: len(series.values)]):
        raise DisagreementError(f"column {cell} is not what was written")


def measure(options: Options) -> Iterator[Claim]:
    """Yield the file's size, and the median and spread of the time to read one of its columns."""
    images = options.pick("images", 10_000, 200)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "scores.sqlite"
        kept: list[int] = []
        written = seconds(lambda: kept.extend(write(path, images)))
        size = path.stat().st_size / MEGABYTE
        chosen = kept[:: max(1, len(kept) // options.pick("rounds", 40, 4))]
        times = [seconds(lambda cell=cell: read(path, cell)) for cell in chosen]  # type: ignore[misc]
    about = f"scores.sqlite, {images:,} images × {EXPLAINERS} explainers × {COLUMNS} columns"
    yield row_of(about, "MB", [size], Target("at most", 100), measurements={"write_seconds": written})
    yield row_of(
        f"{about}: reading one column",
        "s",
        times,
        Target("at most", 1),
        checked="each column read is what was written",
        measurements={"seconds": times},
    )


if __name__ == "__main__":
    main("store", __doc__, measure)
