"""The report of 30 runs × 10,000 images: seconds and bytes.

The runs are planted, in the layout and the blocks of 64 images that scoring leaves behind. Run from a checkout, whose
tests make the runs: ``python -m benchmarks.report``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Claim, Options, Target, main, row_of
from tests.reports.synthetic import scores, write_run
from xeval.reports.compare import compare
from xeval.scoring.store import Block, Cell, Store

METHODS, SEEDS, BLOCK, MEGABYTE = ("ce", "triplet", "supcon-ori", "supcon", "excon", "exconb"), 5, 64, 1e6


def write_store(run: Path, found: dict[str, Any], values: NDArray[np.float64]) -> None:
    """Write ``scores.sqlite`` with the same values in every column, in blocks of 64 images."""
    checkpoint, key = found["checkpoint"]["sha256"], found["dataset"]["key"]
    cells = [Cell(checkpoint, key, "", "model", "correct", found["explained"]["target"])]
    for explainer in found["explainers"]:
        for name, about in found["columns"].items():
            cells.append(Cell(checkpoint, key, explainer, about["metric"], name, about["definition"]))
    with Store(run / "scores.sqlite") as store:
        ids = list(store.ids(cells).values())
        for first in range(0, len(values), BLOCK):
            block = values[first : first + BLOCK]
            store.put(
                first,
                {ids[0]: Block((block > 0.3).astype(np.float64), {}), **{cell: Block(block, {}) for cell in ids[1:]}},
            )


def write_study(root: Path, images: int) -> None:
    """Write the runs of six methods × five seeds, each with a different shift."""
    for number, method in enumerate(METHODS):
        for seed in range(SEEDS):
            draws = np.random.default_rng(number * SEEDS + seed)
            values = draws.normal(0.5 + 0.01 * number + draws.normal(0, 0.01), 0.2, images)
            found = scores(method, seed, 0.4)
            found["dataset"].update(n=images, of=images, key="planted")
            for columns in found["scores"].values():
                for cell in columns.values():
                    cell.update(mean=float(values.mean()), n=images)
            write_store(write_run(root, found), found, values)


def measure(options: Options) -> Iterator[Claim]:
    """Write the runs, compare them, and measure how long that takes and how large the page is."""
    images = options.pick("images", 10_000, 200)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_study(root / "runs", images)
        for number in range(options.pick("rounds", 2, 1)):
            start = time.perf_counter()
            made = compare(root / "runs", root / f"report-{number}")
            times.append(time.perf_counter() - start)
        size = made.page.stat().st_size / MEGABYTE
    claim = f"report of {len(METHODS) * SEEDS} runs × {images:,} images, with all figures"
    yield row_of(claim, "s", times, Target("at most", 20), measurements={"seconds": times})
    yield row_of(f"{claim}: the page", "MB", [size], Target("at most", 8))


if __name__ == "__main__":
    main("report", __doc__, measure)
