"""The Python interface: what the commands do, with tensors and data frames instead of files and text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xeval import scoring
from xeval.checkpoints import LoadedModel, load_model
from xeval.data import DatasetInfo, open_dataset
from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.foreign import Normalization, adapt
from xeval.models import frozen_eval, last_conv_stage
from xeval.options import validated
from xeval.plan import plan_for
from xeval.progress import Silent
from xeval.rooms import part
from xeval.runs import read_json
from xeval.store import Store
from xeval.summary import SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def load(
    path: Path | str, *, weights: str = "best", arch: str | None = None, dataset: str | None = None
) -> LoadedModel:
    """Load a run directory, an exported file or a plain state dict (which needs ``dataset``).

    Raises :class:`~xeval.errors.CheckpointError` for a refused or unfit file, :class:`~xeval.errors.UsageError` for a
    missing description.
    """
    if weights not in ("best", "last"):
        raise UsageError(f"unknown weights {weights!r}", "use best or last")

    def described() -> DatasetInfo:
        if dataset is None:
            raise UsageError(f"{path} carries no description of its data set", "name one with dataset=")
        return open_dataset(dataset).info

    return load_model(Path(path), weights="last" if weights == "last" else "best", arch=arch, describe=described)


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    explainer: str = "grad-cam",
    layer: str | None = None,
) -> Tensor:
    """Signed maps N×1×h×w, on the explainer's own grid, of normalised ``images`` N×C×H×W.

    ``targets`` (N,) are the explained classes, by default the predicted ones; ``layer`` is a module's name, by default
    the last convolutional stage. The model is left as it was.
    """
    with frozen_eval(model):
        where = layer or last_conv_stage(model, images[:1])
        if targets is None:
            with torch.no_grad():
                targets = model(images).argmax(1)
        return EXPLAINERS[explainer].explain(model, where, images, targets)


def score(
    checkpoint: Path | str | nn.Module,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
    *,
    normalization: Normalization | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Score a checkpoint, or a module with its data: mean, standard error and n of every explainer and column.

    A checkpoint (run directory, exported file, state dict) is scored on its data set; scores are stored beside it, or
    in ``out``, and found again by the next call. A module needs ``data``, batches of (images N×C×H×W, labels N): see
    :func:`xeval.foreign.adapt` for ``normalization`` and ``classes``; its scores are kept only if ``out`` is given.
    ``options`` are those of ``xeval score`` with underscores (``limit=500``, ``thresholds=(0.15, 0.3)``). The frame's
    ``attrs`` hold the whole summary with conventions and provenance.
    """
    if not isinstance(checkpoint, nn.Module):
        return _frame(scoring.score(checkpoint, **options))
    if data is None:
        raise UsageError("a module needs data to be scored on", "give batches of (images, labels)")
    chosen = validated(**options)
    plan = plan_for(*adapt(checkpoint, data, normalization=normalization, classes=classes), chosen)
    with TemporaryDirectory() as scratch:
        return _frame(scoring.execute(plan, chosen, chosen.out or Path(scratch), Silent()).accepted())


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
    """Per-image values of a scored run: one row per explainer and image, one column per score; NaN = undefined.

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


def compare(runs: Path | str, out: Path | str | None = None, **options: Any) -> Any:
    """Compare all scored runs below ``runs``; the report goes to ``out``, by default ``runs/report``."""
    folder = Path(runs)
    return part("reports.compare").compare(folder, Path(out) if out else folder / "report", **options)
