"""The report of 30 runs × 10,000 images: seconds and bytes, and the time to read one column of a store.

The runs are planted, in the layout and the blocks of 64 images that scoring leaves behind. Run from a checkout, whose
tests make the runs: ``python -m benchmarks.report``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.compare import compare
from tests.reports.synthetic import scores, write_run
from xeval.store import Block, Cell, Store

METHODS, SEEDS, BLOCK = ("ce", "triplet", "supcon-ori", "supcon", "excon", "exconb"), 5, 64


def write_store(run: Path, found: dict[str, Any], values: NDArray[np.float64]) -> None:
    """``scores.sqlite`` with the same values in every column, in blocks of 64 images."""
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
    """Six methods × five seeds, each with a shift of its own."""
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


def main(images: int = 10_000) -> None:
    """Write the runs, compare them once, and print one line of JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_study(root / "runs", images)
        store = next((root / "runs").rglob("scores.sqlite"))
        start = time.perf_counter()
        with Store(store, read_only=True) as opened:
            opened.read(opened.cells()[-1][0])
        read = time.perf_counter() - start
        start = time.perf_counter()
        made = compare(root / "runs", root / "report")
        found = {
            "claim": f"report of {len(METHODS) * SEEDS} runs × {images:,} images",
            "seconds": time.perf_counter() - start,
            "page_bytes": made.page.stat().st_size,
            "store_bytes": store.stat().st_size,
            "read_column_seconds": read,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
