"""Measures what the precision of plain passes changes in the scores: a sample of images is scored in float32 too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from xeval.scoring.blocks import Chunk
from xeval.scoring.plan import Plan
from xeval.scoring.store import Series, Store

if TYPE_CHECKING:
    from xeval.scoring.scorer import Scorer

IMAGES = 32
SHARE = 0.25  # of its standard error over images, by which the mean of a column may move unmarked

Floats = NDArray[np.float64]


def compared(scorer: Scorer, store: Store) -> dict[str, Any] | None:
    """Score a seeded sample in float32 and compare it with the rows of the store; None for scores in float32.

    Gives the number of images of the sample and of those that overflowed, the ``jitter`` of probabilities, and for each
    row and column what :func:`differences` says.
    """
    plan = scorer.plan
    if scorer.precision == "float32":
        return None
    sample = _sample(plan)
    exact = scorer.score_in_float32(Chunk(0, [int(plan.chosen[i]) for i in sample]))
    cells = {key: cell for task in plan.tasks for key, cell in plan.cells(task).items()}
    ids = store.ids(list(cells.values()))
    rows: dict[str, dict[str, Any]] = {row: {} for row in plan.rows}
    for (row, name), cell in cells.items():
        series = store.read(ids[cell])
        if series.values.ndim == 1:
            rows[row][name] = differences(series, sample, exact[row, name].values)
    about = {"precision": scorer.precision, "images": len(sample), "overflowed": scorer.overflows}
    return {**about, "jitter": scorer.engine.jitter, "rows": rows}


def _sample(plan: Plan) -> NDArray[np.int64]:
    """Return the numbers of the sample's images among the chosen ones, in order."""
    images = len(plan.chosen)
    draw = np.random.default_rng(plan.protocol.seed)
    return np.sort(draw.choice(images, min(IMAGES, images), replace=False))


def differences(series: Series, sample: NDArray[np.int64], exact: Floats) -> dict[str, Any]:
    """Compare the values of a column on a sample with those in float32, x and y of the images that have both.

        shift = mean(x − y)    largest = max |x − y|    rank = Spearman's correlation of x and y
        moved = |shift| > s / 4,  s: the standard error of the column's mean over all images

    All are None without an image, ``rank`` also where either side is constant.
    """
    x = np.where(series.ok[sample], series.values[sample], np.nan)
    both = np.isfinite(x) & np.isfinite(exact)
    x, y, every = x[both], exact[both], series.values[series.ok]
    if not len(x):
        return {"n": 0, "shift": None, "largest": None, "rank": None, "moved": None}
    varies = np.ptp(x) > 0 < np.ptp(y)
    shift, error = float((x - y).mean()), float(every.std(ddof=1) / len(every) ** 0.5) if len(every) > 1 else 0.0
    return {
        "n": len(x),
        "shift": shift,
        "largest": float(np.abs(x - y).max()),
        "rank": float(stats.spearmanr(x, y).statistic) if varies else None,
        "moved": abs(shift) > SHARE * error,
    }


def sentence(found: dict[str, Any]) -> str:
    """Return what the comparison has found as one sentence."""
    known = [
        (row, name, cell)
        for row, cells in found["rows"].items()
        for name, cell in cells.items()
        if cell["shift"] is not None
    ]
    moved = [f"{name} of {row}" for row, name, cell in known if cell["moved"]]
    overflow = f"; {found['overflowed']:,} images overflowed and were scored in float32" if found["overflowed"] else ""
    start = f"{found['precision']} passes, {found['images']} images scored in float32 too"
    if not known:
        return f"{start}: no value to compare{overflow}"
    listed = f": {', '.join(moved[:3])}{', …' if len(moved) > 3 else ''}" if moved else ""
    return (
        f"{start}: {len(moved):,} of {len(known):,} means move by more than a quarter of their standard error{listed}; "
        f"changes of a probability up to {found['jitter']:.2g} count as ties{overflow}"
    )
