"""Returns scores as data frames: the summary of a checkpoint or a module, and the values of every image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from xeval.checkpoints.folder import Weights
from xeval.checkpoints.load import LoadedModel
from xeval.checkpoints.normalization import NormalizeName
from xeval.data import DatasetInfo, Split
from xeval.data.base import Size
from xeval.errors import DataError, UsageError
from xeval.models.answers import as_logits
from xeval.models.layout import Grid, reshaped_by
from xeval.models.reading import Reading
from xeval.models.watch import bare, uncompiled
from xeval.perturb.thresholds import Mask
from xeval.runtime.files import read_json
from xeval.runtime.precisions import Precision
from xeval.runtime.progress import Silent
from xeval.scoring import run as scoring
from xeval.scoring.lent import OwnExplainer, OwnMetric, explainers_lent, metrics_lent
from xeval.scoring.module import Normalization, Pair, adapt
from xeval.scoring.options import EngineName, ScoreOptions, Switch, Target, validated
from xeval.scoring.plan import plan_for
from xeval.scoring.precomputed import PrecomputedMaps
from xeval.scoring.store import Store, definition_of_model, definition_of_row
from xeval.scoring.summary import SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def score(
    checkpoint: Path | str | nn.Module,
    data: Any = None,
    *,
    normalization: Normalization | Pair | None = None,
    classes: Sequence[str] | None = None,
    output: str = "logits",
    similar_to: Any = None,
    allow_stochastic: bool = False,
    reshape: Grid | None = None,
    dataset: str | None = None,
    split: str = "test",
    size: Size | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalize: NormalizeName | None = None,
    normalize_from_ckpt: bool = False,
    name: str | None = None,
    method: str | None = None,
    training_seed: int | None = None,
    protocol: str = "xeval",
    explainers: str | Sequence[str | OwnExplainer | PrecomputedMaps] | None = None,
    metrics: str | Sequence[str | OwnMetric] | None = None,
    thresholds: Sequence[float] | None = None,
    engine: EngineName = "native",
    arch: str | None = None,
    weights: Weights = "best",
    layer: str | None = None,
    target: Target | None = None,
    fill: str | None = None,
    mask: Mask | None = None,
    control_draws: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    precision: Precision | None = None,
    compile: Switch = "off",  # noqa: A002 - named after the option
    out: Path | str | None = None,
    save_maps: bool = False,
    allow_partial: bool = False,
    rehash: bool = False,
    recompute: bool = False,
) -> pd.DataFrame:
    """Score a checkpoint, or a module with its data; return mean, standard error and n of every explainer and column.

    A checkpoint (run directory, exported file, state dict) is scored on its data set, whose folder ``data`` may name;
    scores are stored beside it, or in ``out``, and found again by the next call. A module needs ``data``, a loader of
    (images N×C×H×W, labels N), with masks or boxes of the objects as a third item or without: see
    :func:`xeval.scoring.module.adapt` for ``normalization``, ``classes`` and ``allow_stochastic``; its scores are kept
    only if ``out`` is given, and :func:`xeval.compare` takes that folder as a run of ``method`` with ``training_seed``
    on the data set called ``dataset``. DataParallel and torch.compile around a module count for nothing. ``output``
    says how its answers are read, as ``KIND``, ``KEY`` or ``KEY:KIND``: kinds are logits, probabilities, multilabel and
    multilabel-probabilities, and the key is the part of a dictionary, an object or a tuple that holds them
    (:mod:`xeval.models.reading`). ``similar_to`` is for encoders without a head: the cosine of an image's embedding to
    its own clean one (``"itself"``), to vectors D or V×D, or to the classes of another loader is explained
    (:mod:`xeval.scoring.similarity`).
    ``reshape`` is a function that slices, transposes and reshapes the output of the named ``layer`` to N×K×h×w, where
    evidence does not tell how it lies. ``explainers`` and ``metrics`` take names and functions of your own:
    ``(model, images, targets) -> maps`` N×1×h×w, and ``(model, images, maps, targets) -> values`` N
    (:mod:`xeval.scoring.lent`); ``explainers`` takes maps that were made elsewhere too, as :class:`PrecomputedMaps`.
    The other keywords are the options of ``xeval score``, whose help and
    :class:`~xeval.scoring.options.ScoreOptions` say what they mean; ``size`` is a side or (height, width). The
    ``attrs`` of the frame hold the whole summary with conventions and provenance.
    """
    given = locals()
    with explainers_lent(explainers) as rows, metrics_lent(metrics) as columns:
        named = {"explainers": rows, "metrics": columns}
        options = {field: {**given, **named}[field] for field in ScoreOptions.model_fields}
        own = _Own(normalization, classes, Reading.of(output), similar_to, allow_stochastic, reshape)
        if isinstance(checkpoint, nn.Module):
            return _of_module(checkpoint, data, own, options)
        return _of_checkpoint(checkpoint, data, own, options)


@dataclass(frozen=True)
class _Own:
    """What a call says of a module and of its loader; a checkpoint says it itself."""

    normalization: Normalization | Pair | None
    classes: Sequence[str] | None
    reading: Reading
    similar_to: Any
    allow_stochastic: bool
    reshape: Grid | None


def _is_folder(data: Any) -> bool:
    return data is None or isinstance(data, str | Path)


def _of_checkpoint(checkpoint: Path | str, data: Any, own: _Own, options: dict[str, Any]) -> pd.DataFrame:
    if not _is_folder(data):
        raise UsageError("a checkpoint is scored on its data set", "give data= the folder of the data, or nothing")
    if own.normalization is not None:
        raise UsageError("normalization= is that of a module's loader", "give mean= and std=, or normalize=")
    if own.reshape is not None:
        raise UsageError("reshape= is for a module, not for a checkpoint", "load it and score it with its data")
    if own.similar_to is not None:
        raise UsageError("similar_to= is for a module, not for a checkpoint", "load it and score it with its data")
    return _frame(scoring.score(checkpoint, **options))


def _of_module(module: nn.Module, data: Any, own: _Own, options: dict[str, Any]) -> pd.DataFrame:
    if _is_folder(data):
        raise UsageError("a module needs data to be scored on", "give batches of (images, labels)")
    chosen = validated(**{**options, "data": None})
    if chosen.size is not None:
        raise UsageError("size= is for checkpoints", "resize the images in the loader")
    if chosen.normalization.given:
        raise UsageError(
            "mean=, std= and normalize= are for checkpoints", "give normalization= of the loader's transform"
        )
    module = bare(module)
    with torch.inference_mode(False), uncompiled(module), reshaped_by(own.reshape, chosen.layer):
        adapted = adapt(
            module,
            data,
            normalization=own.normalization,
            classes=own.classes,
            reading=own.reading,
            similar_to=own.similar_to,
            allow_stochastic=own.allow_stochastic,
            reshape=own.reshape,
            name=chosen.dataset or "model",
        )
        with as_logits(module, adapted[0].reading):
            return _in_memory(chosen, *adapted)


def _in_memory(options: ScoreOptions, loaded: LoadedModel, info: DatasetInfo, split: Split) -> pd.DataFrame:
    """Score a module that is in memory; warn of what was accepted with a doubt."""
    plan = plan_for(loaded, info, split, options)
    for note in plan.loaded.notes:
        if note.startswith("warning: "):
            warnings.warn(note.removeprefix("warning: "), stacklevel=4)
    with TemporaryDirectory() as scratch:
        session = scoring.Session(plan, options, options.out or Path(scratch), Silent())
        return _frame(scoring.execute(session).accepted())


def _types(model: dict[str, NDArray[np.float64]]) -> dict[str, str]:
    """The types of the columns that are no scores; where the network has no answer to an image they have a gap."""
    whole = bool(np.isfinite(model["predicted"]).all())
    return {"label": "int64", "predicted": "int64" if whole else "Int64", "correct": "bool" if whole else "boolean"}


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
    precision = summary["protocol"]["settings"].get("precision", "float32")
    of_model = definition_of_model(summary["explained"]["target"], precision)
    code = {row: about.get("code") for row, about in summary["explainers"].items()}
    with Store(folder / scoring.STORE, read_only=True) as store:
        series = {
            (cell.explainer, cell.name): store.read(number)
            for number, cell in store.cells()
            if (cell.checkpoint, cell.data) == wanted
            and cell.definition == definition_of_row(definitions.get(cell.name, of_model), code.get(cell.explainer))
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
    return pd.concat(frames, ignore_index=True).astype(_types(model))
