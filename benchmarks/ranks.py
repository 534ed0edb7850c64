"""Two ranks of one job against one process: the rows that scoring leaves, and the time it takes.

Both score the same network on ``digits`` into stores of their own; ``torchrun``'s start is part of the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from benchmarks.pairs import seconds
from benchmarks.rows import Claim, DisagreementError, Options, Target, main, row_of
from benchmarks.subjects import device_of
from xeval.models import ModelSpec, build
from xeval.scoring.store import Series, Store

TOLERANCE = 1e-5
METRICS = "drop,infidelity,deletion,ssim"
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
Rows = dict[tuple[str, str], Series]


def score(weights: Path, out: Path, options: Options, *, ranks: bool) -> Rows:
    """Score in separate processes and return every row that the store holds."""
    command = [sys.executable, *(LAUNCHER if ranks else ()), "-m", "xeval", "score", str(weights)]
    command += ["--dataset", "digits", "--metrics", "drop" if options.quick else METRICS, "--out", str(out)]
    command += ["--limit", str(options.pick("images", 360, 128)), "--recompute", "--batch-size", "128"]
    command += ["--device", device_of(options).type]
    root = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1", **root})
    with Store(out / "scores.sqlite", read_only=True) as store:
        return {(cell.explainer, cell.name): store.read(number) for number, cell in store.cells()}


def largest(one: Rows, two: Rows) -> float:
    """Return the largest difference of two stores; raise :class:`DisagreementError` where their contents differ."""
    if one.keys() != two.keys():
        raise DisagreementError("the stores hold different rows")
    for key, series in one.items():
        if not np.array_equal(series.status, two[key].status):
            raise DisagreementError(f"{key} has other undefined values")
    return max(float(np.abs(np.nan_to_num(series.values - two[key].values)).max()) for key, series in one.items())


def measure(options: Options) -> Iterator[Claim]:
    """Yield one row for the difference and one for the time."""
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "network.safetensors"
        spec = ModelSpec(arch="resnet-small", num_classes=10, in_channels=1, image_size=16)
        save_file(build(spec).state_dict(), weights)
        alone = partial(score, weights, Path(scratch) / "one", options, ranks=False)
        together = partial(score, weights, Path(scratch) / "two", options, ranks=True)
        expected, found = alone(), together()
        values = sum(len(series.values) for series in expected.values())
        yield row_of(
            f"rows of two ranks against one process, resnet-small, {options.pick('images', 360, 128)} digits",
            "largest difference",
            [largest(expected, found)],
            Target("at most", TOLERANCE),
            checked=f"{len(expected)} columns, {values:,} values, and which of them are undefined",
        )
        timed = [(seconds(alone), seconds(together)) for _ in range(options.pick("rounds", 2, 1))]
    yield row_of(
        "one process over two ranks, one thread each, start included",
        "×",
        [one / two for one, two in timed],
        measurements={"seconds": [one for one, _ in timed], "ranks_seconds": [two for _, two in timed]},
    )


if __name__ == "__main__":
    main("ranks", __doc__, measure)
