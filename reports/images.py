"""The values of single images behind a run's means, read from its ``scores.sqlite`` when a table asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xeval.errors import DataError
from xeval.reports.schema import Score, Scores
from xeval.reports.text import clean
from xeval.scoring.store import Cell, Series, Store, definition_of_model, definition_of_row
from xeval.statistics.clusters import means_of_runs

STORE = "scores.sqlite"


@dataclass(frozen=True)
class Images:
    """The scored images of one run, in the order that all runs on the same images share."""

    path: Path
    scores: Scores

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Return which images the checkpoint classifies correctly (N,)."""
        definition = definition_of_model(self.scores.explained.target, self.scores.protocol.precision)
        return self._by_image(self._read("", "model", "correct", definition).values) > 0.5

    def values(self, explainer: str, column: str) -> NDArray[np.float64]:
        """Return one column of one explainer (N,), NaN where it is undefined."""
        about = self.scores.columns[column]
        definition = definition_of_row(about.definition, self.scores.explainers[explainer].code)
        series = self._read(explainer, about.metric, column, definition)
        return self._by_image(np.where(series.ok, series.values, np.nan))

    def require_agreement(self) -> None:
        """Compare the means of the competing explainers' ranked columns with their values; raises DataError."""
        for explainer, about in self.scores.explainers.items():
            for column, score in self.scores.scores.get(explainer, {}).items() if not about.control else ():
                if self.scores.columns[column].direction is not None:
                    self._agree(explainer, column, score)

    def _agree(self, explainer: str, column: str, score: Score) -> None:
        values = self.values(explainer, column)
        values = values[np.isfinite(values)]
        mean = float(values.mean()) if len(values) else None
        known = mean is not None and score.mean is not None
        same = math.isclose(score.mean, mean, rel_tol=1e-9) if known else score.mean == mean  # type: ignore[arg-type]
        if not same or score.n != len(values):
            raise DataError(
                f"{self.path.with_name('scores.json')} says {clean(column)} {score.mean} (n = {score.n}) for "
                f"{clean(explainer)}, its images give {mean} (n = {len(values)})",
                "restore it or score the checkpoint again",
            )

    def _by_image(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average the rows of an image, where there may be several: they are no independent draws."""
        rows = self.scores.dataset.rows
        return values if rows is None else means_of_runs(values, rows)

    @cached_property
    def _store(self) -> Store:
        return Store(self.path, read_only=True)

    @cached_property
    def _numbers(self) -> dict[Cell, int]:
        return {cell: number for number, cell in self._store.cells()}

    def _read(self, explainer: str, metric: str, column: str, definition: str) -> Series:
        key = self.scores.dataset.key or ""
        cell = Cell(self.scores.checkpoint.sha256, key, explainer, metric, column, definition)
        if cell not in self._numbers:
            raise DataError(f"{self.path} does not hold {column} of the scores beside it", "score the checkpoint again")
        series = self._store.read(self._numbers[cell])
        expected = sum(self.scores.dataset.rows or [self.scores.dataset.n])
        if len(series.values) != expected:
            raise DataError(
                f"{self.path} holds {len(series.values)} of {expected} images",
                "score the checkpoint again",
            )
        return series


def images_of(folder: Path, scores: Scores) -> Images | None:
    """Return the per-image values beside ``scores.json``, where they were kept."""
    path = folder / STORE
    return Images(path, scores) if path.exists() else None
