"""Returns scores as data frames: the summary of a checkpoint or a module, and the values of every image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from xeval.errors import DataError, UsageError
from xeval.runtime.files import read_json
from xeval.runtime.progress import Silent
from xeval.scoring import run as scoring
from xeval.scoring.module import Normalization, adapt
from xeval.scoring.options import validated
from xeval.scoring.plan import plan_for
from xeval.scoring.store import Store
from xeval.scoring.summary import SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def score(
    checkpoint: Path | str | nn.Module,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
    *,
    normalization: Normalization | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Score a checkpoint, or a module with its data; return mean, standard error and n of every explainer and column.

    A checkpoint (run directory, exported file, state dict) is scored on its data set. Its scores are stored beside it,
    or in ``out``, and the next call finds them again. A module needs ``data``, batches of (images N×C×H×W, labels N);
    see :func:`xeval.scoring.module.adapt` for ``normalization`` and ``classes``. Its scores are kept only if ``out`` is
    given. ``options`` are those of ``xeval score`` with underscores (``limit=500``, ``thresholds=(0.15, 0.3)``). The
    ``attrs`` of the frame hold the whole summary with conventions and provenance.
    """
    if not isinstance(checkpoint, nn.Module):
        return _frame(scoring.score(checkpoint, **options))
    if data is None:
        raise UsageError("a module needs data to be scored on", "give batches of (images, labels)")
    chosen = validated(**options)
    plan = plan_for(*adapt(checkpoint, data, normalization=normalization, classes=classes), chosen)
    with TemporaryDirectory() as scratch:
        return _frame(scoring.execute(scoring.Session(plan, chosen, chosen.out or Path(scratch), Silent())).accepted())


def _frame(scored: Path) -> pd.DataFrame:
    import pandas as pd

    summary = read_json(scored / scoring.SCORES, SCHEMA)
    rows = [
        {
            "explainer": explainer,
            "control": summary["explainers"][explainer]["control"],
            "column": column,
            "direction": summary["columns"][column]["direction"],
            "mean": found["mean"],
            "se": found["se"],
            "n": found["n"],
        }
        for explainer, columns in summary["scores"].items()
        for column, found in columns.items()
    ]
    frame = pd.DataFrame(rows)
    frame.attrs["summary"] = summary
    return frame


def results(run: Path | str) -> pd.DataFrame:
    """Return per-image values of a scored run: one row per explainer and image, one column per score; NaN = undefined.

    Curves are left out. ``image``, ``label``, ``predicted``, ``p0`` and ``correct`` identify the image.
    """
    import pandas as pd

    folder = Path(run)
    if not (folder / scoring.STORE).is_file():
        raise DataError(f"{folder} holds no scores", "score the checkpoint first")
    summary = read_json(folder / scoring.SCORES, SCHEMA)
    wanted = (summary["checkpoint"]["sha256"], summary["dataset"]["key"])
    definitions = {name: about["definition"] for name, about in summary["columns"].items()}
    target = summary["explained"]["target"]
    with Store(folder / scoring.STORE, read_only=True) as store:
        series = {
            (cell.explainer, cell.name): store.read(number)
            for number, cell in store.cells()
            if (cell.checkpoint, cell.data) == wanted and cell.definition == definitions.get(cell.name, target)
        }
        ids = store.images(summary["dataset"]["key"])
    model = {name: found.values for (explainer, name), found in series.items() if not explainer}
    frames = [
        pd.DataFrame(
            {
                "explainer": explainer,
                "image": ids,
                **{name: model[name] for name in ("label", "predicted", "p0", "correct")},
                **{name: series[explainer, name].values for name in summary["columns"] if (explainer, name) in series},
            }
        )
        for explainer in summary["scores"]
    ]
    return pd.concat(frames, ignore_index=True).astype({"label": int, "predicted": int, "correct": bool})
