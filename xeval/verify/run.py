"""Runs the comparisons of ``xeval verify`` on the user's checkpoint, and prints and judges them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import frozen_eval
from xeval.runtime.progress import Progress, Silent
from xeval.runtime.provenance import package_version
from xeval.runtime.tables import markdown_lines
from xeval.scoring.options import validated
from xeval.scoring.plan import make_plan
from xeval.scoring.scorer import VERSIONS, make_scorer
from xeval.verify.cams import CAMS
from xeval.verify.check import Check, Subject
from xeval.verify.curves import CURVES
from xeval.verify.quantus import QUANTUS

Verdict: TypeAlias = Literal["equal", "DIFFERS", "not installed", "no masks", "refused"]
PACKAGES = {"quantus": "quantus", "captum": "captum", "torchcam": "torchcam", "pytorch_grad_cam": "grad-cam"}
INSTALL = "pip install 'xeval-explanations[verify]'"


@dataclass(frozen=True)
class Verified:
    """The result that a check gives: the largest |a − b| / max(1, |b|) over ``n`` values, and both sides' seconds."""

    name: str
    oracle: str
    tolerance: float
    verdict: Verdict
    difference: float | None = None
    n: int = 0
    native_seconds: float | None = None
    oracle_seconds: float | None = None


def checks() -> list[Check]:
    """Return all checks in the order in which they are printed, without those of unregistered explainers."""
    return [*QUANTUS, *CURVES, *[check for name, check in CAMS if name in EXPLAINERS]]


def verify(checkpoint: Path | str, progress: Progress | None = None, *, n: int = 64, **options: Any) -> list[Verified]:
    """Compare native metrics and maps with other libraries on ``n`` images of a checkpoint's own data.

    ``options`` are those of :class:`~xeval.scoring.options.ScoreOptions`. What is not installed is reported as such.
    """
    chosen = validated(**{**options, "limit": n})
    plan = make_plan(Path(checkpoint), chosen)
    scorer = make_scorer(plan, chosen)
    with frozen_eval(scorer.engine.model):
        scorer.tune(chosen, VERSIONS * len(plan.chosen))
        scene, _ = scorer.scene([int(position) for position in plan.chosen])
        subject = Subject(scene, plan.layer, EXPLAINERS["grad-cam"])
        wanted = checks()
        return [compare(check, subject) for check in (progress or Silent()).track(wanted, len(wanted), "comparing")]


def compare(check: Check, subject: Subject) -> Verified:
    """Compute and time both sides of one check."""
    if check.package and find_spec(check.package) is None:
        return Verified(check.name, check.oracle, check.tolerance, "not installed")
    if check.needs_masks and subject.scene.masks is None:
        return Verified(check.name, check.oracle, check.tolerance, "no masks")
    try:
        native, native_seconds = _timed(check.native, subject)
        other, oracle_seconds = _timed(check.other, subject)
    except UsageError:  # one side is not for this network, such as guided backpropagation without ReLUs
        return Verified(check.name, check.oracle, check.tolerance, "refused")
    largest, n = difference(native, other)
    verdict: Verdict = "equal" if largest <= check.tolerance else "DIFFERS"
    return Verified(check.name, check.oracle, check.tolerance, verdict, largest, n, native_seconds, oracle_seconds)


def difference(native: Tensor, other: Tensor) -> tuple[float, int]:
    """Return the largest |a − b| / max(1, |b|) over the values that are defined natively, and how many these are.

    It is infinite where shapes differ or the other side has no number. Values that are undefined natively are left out.
    """
    if native.shape != other.shape:
        return float("inf"), 0
    a, b = native.double(), other.double().to(native.device)
    apart = ((a - b).abs() / b.abs().clamp_min(1))[~a.isnan()].nan_to_num(nan=torch.inf)
    return (float(apart.max()) if len(apart) else float("inf")), len(apart)


def _timed(side: Callable[[Subject], Tensor], subject: Subject) -> tuple[Tensor, float]:
    started = time.perf_counter()
    found = side(subject)
    return found, time.perf_counter() - started


def versions() -> str:
    """Return the installed versions of the other libraries."""
    return ", ".join(f"{package} {package_version(package) or 'not installed'}" for package in PACKAGES.values())


def table(rows: list[Verified]) -> list[str]:
    """Return a Markdown table with one line per comparison, and what to install where something is missing."""
    header = ("native", "other", "values", "largest difference", "tolerance", "verdict", "seconds", "other's seconds")
    text = markdown_lines(header, map(_cells, rows))
    if any(row.verdict == "not installed" for row in rows):
        text += ["", f"not installed: {INSTALL}"]
    return text


def _cells(row: Verified) -> tuple[str, ...]:
    measured = ("–",) * 4
    if row.difference is not None and row.native_seconds is not None and row.oracle_seconds is not None:
        measured = (str(row.n), f"{row.difference:.1e}", f"{row.native_seconds:.3f}", f"{row.oracle_seconds:.3f}")
    count, largest, native, other = measured
    return row.name, row.oracle, count, largest, f"{row.tolerance:.0e}", row.verdict, native, other


def as_json(rows: list[Verified]) -> list[dict[str, Any]]:
    """Return the rows as plain objects."""
    return [asdict(row) for row in rows]


def require_agreement(rows: list[Verified]) -> None:
    """Raise :class:`DataError` where a comparison lies outside its tolerance."""
    outside = [f"{row.name} ({row.oracle})" for row in rows if row.verdict == "DIFFERS"]
    if outside:
        raise DataError(
            f"{len(outside)} of {len(rows)} comparisons fell outside their tolerance: {', '.join(outside)}",
            "compare the versions with those in docs/parity.md",
        )
