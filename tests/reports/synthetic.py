"""Scored runs with planted values, in the exact layout that training and scoring leave behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from xeval.scoring.store import Block, Cell, Store

COST = {
    "seconds": 12.3,
    "passes": 123456,
    "batch_size": 128,
    "device": "cpu",
    "images": 100,
    "memory": "resident in the process",
    "explainers": {"grad-cam": {"seconds": 0.2, "passes": 100, "peak_bytes": 2**29}},
    "metrics": {
        "drop": {
            "shared": {"seconds": 0.0, "passes": 0, "peak_bytes": None},
            "rows": {"grad-cam": {"seconds": 1.5, "passes": 300, "peak_bytes": 2**30}},
        },
        "infidelity": {"shared": {"seconds": 3.0, "passes": 6400, "peak_bytes": None}, "rows": {}},
    },
}
Tables = Mapping[tuple[str, str], NDArray[np.float64]]
PRIMARY = ("drop.mag@0.45", "infidelity.skill", "deletion.gain")
THRESHOLDS = ("0.15", "0.3", "0.45")
CONTROLS = ("random", "random-cam", "centre", "edge", "constant", "inverse")
DIRECTIONS = {
    "drop.rate": "lower",
    "drop.mag": "lower",
    "increase.rate": "higher",
    "increase.mag": "higher",
    "drop.tie": None,
    "infidelity.raw": None,
    "infidelity.beta": None,
    "infidelity.skill": "higher",
    "deletion.auc": "lower",
    "deletion.gain": "higher",
    "insertion.auc": "higher",
    "faithcorr.value": "higher",
    "complexity.entropy": "lower",
    "complexity.area": "lower",
    "complexity.gini": "higher",
    "ssim.value": "higher",
    "sensitivity.max": "lower",
    "sensitivity.avg": "lower",
}
FAMILIES = {"complexity": "complexity", "ssim": "continuity", "sensitivity": "continuity"}
#: Planted drop.mag@0.45 of Grad-CAM by method and seed; everything else follows from it.
DROPS = {"supcon": (0.30, 0.40, 0.50), "excon": (0.10, 0.12, 0.14), "exconb": (0.20, 0.20, 0.20)}


def columns() -> dict[str, dict[str, Any]]:
    """Every column of the default protocol."""
    keys = [f"{name}@{q}" for q in THRESHOLDS for name in DIRECTIONS if name.startswith(("drop", "increase"))]
    keys += [name for name in DIRECTIONS if not name.startswith(("drop", "increase"))]
    return {key: _column(key) for key in keys}


def _column(key: str) -> dict[str, Any]:
    metric = key.partition(".")[0]
    direction = DIRECTIONS[key.partition("@")[0]]
    return column_of(key, direction, FAMILIES.get(metric, "faithfulness"))


def column_of(key: str, direction: str | None, family: str) -> dict[str, Any]:
    """What scores.json says of a column."""
    metric = key.partition(".")[0]
    return {
        "metric": metric,
        "definition": _hash(key),
        "family": family,
        "direction": direction,
        "unit": "",
        "range": [0, 1],
        "title": f"{key} in words",
        "citation": "Yeh et al., NeurIPS 2019",
    }


def score(mean: float | None, n: int = 360, undefined: Mapping[str, int] | None = None) -> dict[str, Any]:
    """One cell of scores.json."""
    return {
        "mean": mean,
        "se": 0.004,
        "n": n,
        "undefined": dict(undefined or {}),
        "errors": {},
        "mean_correct": mean,
        "n_correct": max(0, n - 4),
    }


def explainer_scores(quality: float) -> dict[str, Any]:
    """Scores of a map whose drop.mag@0.45 is ``quality``; lower is better, so the others follow its complement."""
    found = {}
    for key, column in columns().items():
        value = quality if column["direction"] == "lower" else 1 - quality
        found[key] = score(round(value, 6))
    found["drop.mag@0.45"] = score(quality)
    return found


def scores(
    method: str, seed: int | None, quality: float, *, dataset: str = "digits", recipe: str = "digits"
) -> dict[str, Any]:
    """A whole scores.json."""
    name = f"{dataset}-{method}-s{seed}"
    grid = [j / 32 for j in range(33)]
    keep = {
        e: [float(1 - (1 - f) ** 2 * (q + 0.4)) for f in grid] for e, q in [("grad-cam", quality), ("random-cam", 0.6)]
    }
    deletion = {
        e: [float((1 - f) ** (2 / (q + 0.3))) for f in grid] for e, q in [("grad-cam", quality), ("random-cam", 0.9)]
    }
    return {
        "schema": "xeval.scores/1",
        "status": "complete",
        "checkpoint": {
            "name": name,
            "method": method,
            "seed": seed,
            "recipe": recipe,
            "recipe_hash": _hash(method),
            "arch": "resnet-small",
            "weights": "best",
            "sha256": _hash(f"{name}-{recipe}"),
        },
        "dataset": {
            "name": dataset,
            "split": "test",
            "n": 360,
            "of": 360,
            "selection": "all",
            "manifest": _hash(dataset),
            "classes": [str(i) for i in range(10)],
            "size": 16,
            "channels": 1,
        },
        "protocol": {
            "name": "xeval",
            "version": 1,
            "hash": _hash("protocol"),
            "subset": "all",
            "primary": list(PRIMARY),
            "settings": {"fill": "mean"},
        },
        "explained": {"layer": "backbone.stage3", "cam_size": [4, 4], "target": "predicted class"},
        "model": {"accuracy": 0.98, "p0": 0.95, "ece": 0.02},
        "columns": columns(),
        "conventions": ["drop/increase: k = ⌊q·H·W⌋ pixels with the largest signed map value kept"],
        "explainers": {
            "grad-cam": {"control": False, "units": "location"},
            **{c: {"control": True, "units": "location"} for c in CONTROLS},
        },
        "scores": {
            "grad-cam": explainer_scores(quality),
            **{c: explainer_scores(0.6 + 0.02 * i) for i, c in enumerate(CONTROLS)},
        },
        "curves": {"fractions": grid, "keep": keep, "deletion": deletion},
        "reliability": {
            "edges": [i / 10 for i in range(11)],
            "confidence": [None] * 5 + [0.55, 0.65, 0.75, 0.85, 0.97],
            "accuracy": [None] * 5 + [0.5, 0.7, 0.8, 0.8, 0.99],
            "count": [0] * 5 + [8, 9, 12, 31, 300],
        },
        "cost": COST,
        "warnings": [],
        "provenance": {
            "xeval": "0.1.0",
            "torch": "2.14.0",
            "python": "3.12.1",
            "platform": "Linux",
            "commit": _hash("commit")[:12],
        },
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def card(found: dict[str, Any]) -> dict[str, Any]:
    """The run.json beside a scores.json."""
    checkpoint = found["checkpoint"]
    return {
        "schema": "xeval.run/1",
        "name": checkpoint["name"],
        "method": checkpoint["method"],
        "seed": checkpoint["seed"],
        "recipe": {},
        "recipe_hash": checkpoint["recipe_hash"],
        "train_manifest": _hash("train"),
        "layer": None,
        "selection": {"select_on": "heldout", "best_epoch": 12, "best_accuracy": 0.99, "last_accuracy": 0.98},
        "provenance": {"xeval": "0.1.0", "seconds": 20.5},
    }


def write_run(
    root: Path, found: dict[str, Any], accuracies: Sequence[float] = (0.5, 0.9), folder: str | None = None
) -> Path:
    """A complete run directory; ``accuracies`` becomes the validation curve."""
    run = root / (
        folder or f"{found['dataset']['name']}-{found['checkpoint']['method']}-s{found['checkpoint']['seed']}"
    )
    run.mkdir(parents=True)
    (run / "scores.json").write_text(json.dumps(found), encoding="utf-8")
    (run / "run.json").write_text(json.dumps(card(found)), encoding="utf-8")
    lines = ["epoch,loss,head_loss,train_accuracy,val_accuracy,val_loss,lr,masked_share,collapse_gap,seconds"]
    lines += [f"{i + 1},1.0,0.5,{a},{a},{1.5 - a},0.1,,,1.0" for i, a in enumerate(accuracies)]
    (run / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def write_images(
    run: Path,
    found: dict[str, Any],
    correct: Sequence[bool],
    values: Sequence[float],
    rows: Tables | None = None,
) -> None:
    """``scores.sqlite`` of a run: which images are right, and ``values``, NaN = undefined, in every other column, or
    there the row of ``rows`` by (explainer, column)."""
    checkpoint, key = found["checkpoint"]["sha256"], found["dataset"]["key"]

    def cell(explainer: str, metric: str, name: str, definition: str) -> Cell:
        return Cell(checkpoint, key, explainer, metric, name, definition)

    columns = {cell("", "model", "correct", found["explained"]["target"]): np.array(correct, float)}
    for explainer, (name, about) in product(found["explainers"], found["columns"].items()):
        own = np.array(values if rows is None else rows[explainer, name], float)
        # an older definition of the same column must not be read in its place
        columns[cell(explainer, about["metric"], name, "older")] = np.full(len(own), 99.0)
        columns[cell(explainer, about["metric"], name, about["definition"])] = own
    with Store(run / "scores.sqlite") as store:
        ids = store.ids(list(columns))
        store.put(0, {ids[c]: Block(v, {("undefined", "empty map"): np.isnan(v)}) for c, v in columns.items()})


def write_tables(root: Path, method: str, tables: Tables, correct: NDArray[np.bool_] | None = None) -> None:
    """One run a seed from tables of seeds × images by (explainer, column); nothing else is scored."""
    seeds, images = next(iter(tables.values())).shape
    explainers, keys = (list(dict.fromkeys(pair[i] for pair in tables)) for i in (0, 1))
    for seed in range(seeds):
        found = scores(method, seed, 0.4)
        found["dataset"].update(n=images, of=images, key="tables")
        found["explainers"] = {name: {"control": name in CONTROLS, "units": "location"} for name in explainers}
        found["columns"] = {key: found["columns"][key] for key in keys}
        rows = {pair: table[seed] for pair, table in tables.items()}
        found["scores"] = {name: {key: _mean(rows[name, key]) for key in keys} for name in explainers}
        run, right = write_run(root, found), np.ones(images, bool) if correct is None else correct
        found["model"]["accuracy"] = float(right.mean())
        (run / "scores.json").write_text(json.dumps(found), encoding="utf-8")
        write_images(run, found, list(right), (), rows)


def _mean(row: NDArray[np.float64]) -> dict[str, Any]:
    known = row[np.isfinite(row)]
    return score(float(known.mean()) if len(known) else None, len(known), {"empty map": len(row) - len(known)})


def write_artifacts(
    run: Path, seed: int, classes: Sequence[str] = ("0", "2", "4", "6", "8"), per_class: int = 12
) -> None:
    """An embedding with separate classes and masked points near their originals."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(len(classes)), per_class), 2)
    angle = 2 * np.pi * labels / len(classes)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * 20 + rng.normal(0, 2, (len(labels), 2))
    masked = np.repeat([0, 1], len(labels) // 2).astype(np.uint8)
    arrays: dict[str, Any] = {
        "tsne.points": points.astype(np.float32),
        "tsne.labels": labels.astype(np.int64),
        "tsne.masked": masked,
    }
    save_file(arrays, run / "artifacts.safetensors")
    found = {
        "classes": list(classes),
        "tsne": {"perplexity": 30, "seed": 0, "init": "pca", "library": "scikit-learn 1.9"},
        "mask_keep": 0.6,
        "image_ids": [str(i) for i in range(len(labels) // 2)],
        "embedding": {"separation_ratio": 0.2 + 0.1 * seed, "knn_accuracy": 0.97, "silhouette": 0.6},
    }
    (run / "artifacts.json").write_text(json.dumps(found), encoding="utf-8")


def write_study(
    root: Path, drops: Mapping[str, Sequence[float]] = DROPS, *, artifacts: bool = True, epochs: int = 12, **more: Any
) -> Path:
    """Methods × seeds, as ``xeval demo`` leaves them."""
    for m, (method, qualities) in enumerate(drops.items()):
        for seed, quality in enumerate(qualities):
            curve = [round(0.98 - 0.6 / (e + 1 + m / 3) + 0.01 * seed, 6) for e in range(epochs)]
            run = write_run(root, scores(method, seed, quality, **more), curve)
            if artifacts:
                write_artifacts(run, seed)
    return root
