"""Measures what scoring costs: seconds, forward passes and peak memory of each explainer and metric."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from xeval.engine import Engine
from xeval.engine.devices import synchronize
from xeval.runtime.memory import memory_kind, peak_memory, reset_peak


@dataclass
class Spent:
    """A sum over blocks of images: seconds, passes, and the largest peak in bytes where the system reports it."""

    seconds: float = 0.0
    passes: int = 0
    peak: int | None = None

    def add(self, seconds: float, passes: int, peak: int | None) -> None:
        """Add one measurement."""
        self.seconds += seconds
        self.passes += passes
        if peak is not None:
            self.peak = max(peak, self.peak or 0)

    def record(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {"seconds": round(self.seconds, 4), "passes": self.passes, "peak_bytes": self.peak}


@dataclass
class Meter:
    """Measures parts of a scoring run under the names (explainer, metric).

    ``(row, "")`` are an explainer's maps of the clean images, ``("", metric)`` the passes that a metric makes once for
    all explainers, and ``(row, metric)`` the rest. What several metrics share is charged to the first one that needs
    it. The device is synchronised only at the start and the end of a part.
    """

    engine: Engine
    device: torch.device
    images: int = 0
    parts: dict[tuple[str, str], Spent] = field(default_factory=dict)

    @contextmanager
    def part(self, explainer: str = "", metric: str = "") -> Iterator[None]:
        """Measure what happens inside the block."""
        synchronize(self.device)
        reset_peak(self.device)
        started, before = time.perf_counter(), self.engine.passes
        yield
        synchronize(self.device)
        spent = self.parts.setdefault((explainer, metric), Spent())
        spent.add(time.perf_counter() - started, self.engine.passes - before, peak_memory(self.device))

    def count(self, images: int) -> None:
        """Add to the number of images that were scored."""
        self.images += images

    def clear(self) -> None:
        """Drop all measurements; this follows the rehearsal, which does not count."""
        self.images = 0
        self.parts.clear()

    def record(self) -> dict[str, Any]:
        """Return the explainers and metrics with the cost of ``images`` images."""
        explainers = {row: spent.record() for (row, metric), spent in self.parts.items() if not metric}
        metrics: dict[str, Any] = {}
        for (row, metric), spent in self.parts.items():
            if metric:
                about = metrics.setdefault(metric, {"shared": None, "rows": {}})
                about["rows" if row else "shared"] = {**about["rows"], row: spent.record()} if row else spent.record()
        return {
            "images": self.images,
            "memory": memory_kind(self.device),
            "explainers": explainers,
            "metrics": metrics,
        }
