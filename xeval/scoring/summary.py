"""Summarises per-image values as ``scores.json``: means over defined values only, with n wherever n < N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.models.reading import CLASSES, Meaning
from xeval.runtime.loggers import numbers
from xeval.runtime.provenance import provenance
from xeval.scoring.completeness import missing_values
from xeval.scoring.plan import Plan, Task
from xeval.scoring.store import Series, Store
from xeval.statistics.clusters import means_of_runs

SCHEMA = "xeval.scores/1"
BINS = 15
ACCURACY_GAP = 0.05
Floats = NDArray[np.float64]
CURVES = {"insertion.curve": "keep", "deletion.curve": "deletion"}


def summarize(store: Store, plan: Plan, cam_size: tuple[int, int], cost: dict[str, Any]) -> dict[str, Any]:
    """Return the whole content of ``scores.json``, derived from the store, the plan and the cost of the run."""
    model = {name: store.read(cell_id) for name, cell_id in _ids(store, plan.model_cells()).items()}
    lengths, meaning = plan.lengths, plan.loaded.meaning
    correct = by_image(model["correct"].values, lengths) > 0.5
    confidence, p0 = (by_image(model[name].values, lengths) for name in ("confidence", "p0"))
    known = np.isfinite(confidence)
    ids = [plan.split.ids[i] for i in plan.chosen]
    problems = [_left_out(plan), missing_values(model["confidence"], "the network", ids)]
    scores: dict[str, dict[str, Any]] = {name: {} for name in plan.rows}
    curves: dict[str, Any] = {}
    for task in plan.tasks:
        for (row, name), cell_id in _ids(store, plan.cells(task)).items():
            series = store.read(cell_id)
            if row not in CONTROLS:
                problems.append(missing_values(series, f"{name} of {row}", ids))
            if name in task.metric.curves:
                curves.setdefault(CURVES[name], {})[row] = _curve(series, lengths)
            else:
                scores[row][name] = cell(series, correct, lengths)
    found = [problem for problem in problems if problem is not None]
    return {
        "schema": SCHEMA,
        "status": "partial" if found else "complete",
        "problems": found,
        "checkpoint": _checkpoint(plan),
        "dataset": _dataset(plan),
        "protocol": {
            "name": plan.protocol.name,
            "version": plan.protocol.version,
            "hash": plan.protocol.hash(),
            "subset": plan.protocol.subset,
            "primary": list(plan.protocol.primary),
            "settings": plan.protocol.definition(),
        },
        "explained": {"layer": plan.layer, "cam_size": list(cam_size), "target": plan.protocol.target},
        "model": model_numbers(confidence[known], p0[known], correct[known], meaning),
        "columns": {name: about for task in plan.tasks for name, about in _columns(task).items()},
        "conventions": plan.conventions,
        "explainers": {name: {**_explainer(plan, name), **_code(plan.code, name)} for name in plan.rows},
        "scores": scores,
        "curves": {"fractions": _fractions(curves), **curves},
        "reliability": reliability(confidence[known], correct[known]) if meaning.calibrated else {},
        "cost": cost,
        "warnings": _warnings(plan, float(correct[known].mean()) if known.any() else 0.0, cam_size),
        "provenance": provenance(),
    }


def headline(summary: dict[str, Any]) -> dict[str, float]:
    """Return the means by which a checkpoint is judged: accuracy, p0, calibration, the protocol's primary columns."""
    means = {
        f"{row}/{name}": columns[name]["mean"]
        for row, columns in summary["scores"].items()
        for name in summary["protocol"]["primary"]
        if name in columns
    }
    return numbers({**{f"model.{name}": value for name, value in summary["model"].items()}, **means})


def _ids(store: Store, cells: dict[Any, Any]) -> dict[Any, int]:
    ids = store.ids(list(cells.values()))
    return {key: ids[cell] for key, cell in cells.items()}


def by_image(values: Floats, lengths: Sequence[int] | None) -> Floats:
    """Return values of rows as values of images: the means over each image's rows, where it may have several."""
    return values if lengths is None else means_of_runs(values, lengths)


def cell(series: Series, correct: NDArray[np.bool_], lengths: Sequence[int] | None = None) -> dict[str, Any]:
    """Return mean, standard error over images and n of the defined values; also mean and n over correct images only.

    ``lengths`` are the numbers of rows of the images, where these may have several: their means are the values.
    Reasons and errors are counted in rows.
    """
    values = by_image(series.values, lengths)
    defined = series.ok if lengths is None else np.isfinite(values)
    ok, right = values[defined], values[defined & correct]
    return {
        "mean": _mean(ok),
        "se": float(ok.std(ddof=1) / len(ok) ** 0.5) if len(ok) > 1 else None,
        "n": len(ok),
        "mean_correct": _mean(right),
        "n_correct": len(right),
        "undefined": series.counts("undefined"),
        "errors": series.counts("error"),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _curve(series: Series, lengths: Sequence[int] | None) -> list[float]:
    if not series.ok.any():
        return []
    values = series.values[series.ok] if lengths is None else _defined(means_of_runs(series.values, lengths))
    return [float(value) for value in values.mean(0)]


def _defined(values: Floats) -> Floats:
    return values[np.isfinite(values).all(1)]


def _fractions(curves: dict[str, Any]) -> list[float]:
    """Return the common grid of the curves: j / steps."""
    steps = max((len(curve) for rows in curves.values() for curve in rows.values()), default=1) - 1
    return [j / steps for j in range(steps + 1)] if steps else []


def model_numbers(
    confidence: Floats, p0: Floats, correct: NDArray[np.bool_], meaning: Meaning = CLASSES
) -> dict[str, float | None]:
    """Return accuracy, mean clean probability of the explained class, and expected calibration error.

    There is no accuracy where nothing is predicted, and no error of the likeliest class where it is not one of several.
    """
    predicted = meaning.several or not meaning.fixed
    return {
        "accuracy": _mean(correct.astype(np.float64)) if predicted else None,
        "p0": _mean(p0),
        "ece": expected_calibration_error(confidence, correct) if meaning.calibrated else None,
    }


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> dict[str, list[Any]]:
    """Return mean confidence and accuracy in equally wide bins (left-open); None in empty ones."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    inside = [place == j for j in range(bins)]
    return {
        "edges": [float(edge) for edge in edges],
        "confidence": [float(confidence[m].mean()) if m.any() else None for m in inside],
        "accuracy": [float(correct[m].mean()) if m.any() else None for m in inside],
        "count": [int(m.sum()) for m in inside],
    }


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS
) -> float | None:
    """Return Σ_b n_b/N · |accuracy_b − confidence_b| over equally wide bins (C. Guo et al., ICML 2017).

    None where there is no image.
    """
    if not len(confidence):
        return None
    table = reliability(confidence, correct, bins)
    filled = [j for j, count in enumerate(table["count"]) if count]
    gaps = [table["count"][j] * abs(table["accuracy"][j] - table["confidence"][j]) for j in filled]
    return float(sum(gaps) / len(confidence))


def _checkpoint(plan: Plan) -> dict[str, Any]:
    loaded, card = plan.loaded, plan.loaded.card
    return {
        **asdict(plan.label),
        "recipe": card.recipe_name if card else None,
        "recipe_hash": card.recipe_hash if card else None,
        "arch": loaded.spec.arch if loaded.spec else type(loaded.model).__name__,
        "weights": loaded.weights,
        "sha256": loaded.sha256,
        "notes": list(loaded.notes),
    }


def _dataset(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.info.name,
        "split": plan.split.name,
        **_counted(plan),
        "selection": plan.selection,
        "manifest": plan.split.manifest(),
        "key": plan.data_key,
        "classes": list(plan.info.classes),
        "size": plan.info.size,
        "channels": plan.info.channels,
        **({"objects": plan.objects} if plan.objects else {}),
        **({"notes": list(plan.data_notes)} if plan.data_notes else {}),
    }


def _counted(plan: Plan) -> dict[str, Any]:
    """Return how many images are scored, of how many, and the rows of each where there may be several."""
    if plan.lengths is None:
        return {"n": len(plan.chosen), "of": len(plan.split)}
    return {"n": len(plan.lengths), "of": len(set(plan.split.images)), "rows": list(plan.lengths)}


def _columns(task: Task) -> dict[str, dict[str, Any]]:
    return {
        column.name: {
            "metric": task.metric.name,
            "definition": task.definition,
            "family": task.metric.family,
            "direction": column.direction,
            "unit": column.unit,
            "range": [column.low, column.high],
            "title": column.title,
            "citation": task.metric.citation,
        }
        for column in task.columns
    }


def _explainer(plan: Plan, name: str) -> dict[str, Any]:
    if name in CONTROLS:
        return {"control": True, "units": "location", "draws": plan.protocol.draws(name)}
    return {"control": False, "units": EXPLAINERS[name].units, "citation": EXPLAINERS[name].citation}


def _code(code: dict[str, str], name: str) -> dict[str, str]:
    return {"code": code[name]} if name in code else {}


def _left_out(plan: Plan) -> str | None:
    """Return a sentence about the images that cannot be read and were left out, None where all can be read."""
    lost, total = len(plan.unreadable), len(plan.unreadable) + len(plan.split)
    return f"{lost:,} of {total:,} images cannot be read, first: {plan.unreadable[0]}" if lost else None


def _warnings(plan: Plan, accuracy: float, cam_size: tuple[int, int]) -> list[str]:
    found: list[str] = []
    if cam_size == (1, 1):
        found.append(f"CAM resolution 1×1 at {plan.layer}: every map is constant, choose an earlier --layer")
    card = plan.loaded.card
    recorded = (
        None
        if card is None
        else card.selection.best_accuracy
        if plan.loaded.weights == "best"
        else card.selection.last_accuracy
    )
    if recorded is not None and accuracy < recorded - ACCURACY_GAP:
        found.append(
            f"accuracy {accuracy:.3f} is more than 5 points below the {recorded:.3f} recorded in training: "
            "check normalisation and label order"
        )
    if card is not None and plan.split.manifest() == card.train_manifest:
        found.append(
            "these are the images of the training split: image hashes overlap the training manifest, and unseen images "
            "may score otherwise"
        )
    if accuracy <= 1.5 / len(plan.info.classes) and plan.loaded.meaning.calibrated:
        found.append(f"accuracy {accuracy:.3f} is at the level of chance")
    return found
