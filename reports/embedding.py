"""The t-SNE panels: the same images of five classes under every method, and checks that they are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xeval.errors import DataError
from xeval.reports.collect import Group, Run
from xeval.reports.folders import ARTIFACTS
from xeval.runtime.files import require_regular


@dataclass(frozen=True)
class Panel:
    """One method's embedding of the shared images (arrays from ``artifacts.safetensors``)."""

    method: str
    seed: int | None
    points: Any  # float32 (M, 2)
    labels: Any  # int64 (M,), index into ``classes``
    masked: Any  # bool (M,), False = original, True = masked
    classes: tuple[str, ...]
    numbers: dict[str, float | None]
    settings: dict[str, Any]


def panels(group: Group) -> list[Panel]:
    """Make one panel a method, at the smallest seed that all have; empty where a method has no embedding.

    Raises DataError where the methods embedded different images or classes: such panels must not stand side by side.
    """
    shared = set.intersection(*({run.seed for run in runs} for runs in group.methods.values()))
    seed = min(shared, key=lambda s: s if s is not None else -1) if shared else None
    chosen = [next((r for r in runs if r.seed == seed), runs[0]) for runs in group.methods.values()]
    if any(run.artifacts is None or not (run.folder / "artifacts.safetensors").exists() for run in chosen):
        return []
    found = [_panel(run) for run in chosen]
    images = {(run.artifacts.image_ids, run.artifacts.classes) for run in chosen if run.artifacts}
    if len(images) > 1:
        raise DataError(
            f"the t-SNE panels of {group.dataset} show different images ({len(images)} sets)",
            "score all runs with the same version",
        )
    return [panel for panel in found if panel is not None]


def _panel(run: Run) -> Panel | None:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = run.folder / "artifacts.safetensors"
    require_regular(path)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})", "score the checkpoint again") from error
    if run.artifacts is None or "tsne.points" not in arrays:
        return None
    points, labels, masked = (arrays.get(f"tsne.{name}", np.empty(())) for name in ("points", "labels", "masked"))
    whole = labels.ndim == masked.ndim == 1 and {labels.dtype.kind, masked.dtype.kind} <= set("iub")
    fits = whole and points.shape == (len(labels), 2) and len(masked) == len(labels) and np.isfinite(points).all()
    if not fits or (len(labels) and not 0 <= labels.min() <= labels.max() < len(run.artifacts.classes)):
        raise DataError(f"{path} does not fit its {ARTIFACTS}", "score the checkpoint again")
    return Panel(
        run.method,
        run.seed,
        points,
        labels,
        masked.astype(bool),
        run.artifacts.classes,
        run.artifacts.embedding,
        run.artifacts.tsne,
    )


def note(panel: Panel) -> str:
    """Write the sentence under the panels: the settings, and what the picture does not say."""
    settings = ", ".join(f"{name} {_short(panel.settings[name])}" for name in sorted(panel.settings))
    seed = "" if panel.seed is None else f" of training seed {panel.seed}"
    return (
        f"t-SNE of the encoder's features{seed}: {len(panel.labels)} points of {len(panel.classes)} classes "
        f"({', '.join(panel.classes)}), the same images and settings for every method ({settings}). Dots are "
        "originals, crosses are masked. Distances between clusters carry no meaning here; the numbers below each panel "
        "are taken in the original feature space."
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
