"""This module reads what an earlier comparison said, so that a new one can mark what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from xeval.errors import DataError
from xeval.reports.collect import Group, Run
from xeval.reports.summary import Measure
from xeval.runtime.files import parse_json, require_regular
from xeval.runtime.validation import first_mistake

SCHEMA = "xeval.comparison/1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Cell(_Part):
    mean: float | None


class _Method(_Part):
    model: dict[str, _Cell]
    explainers: dict[str, dict[str, _Cell]]


class _Section(_Part):
    dataset: str
    recipe: str
    arch: str | None = None  # unknown in a file of before, where a section held all
    methods: dict[str, _Method]


class _Results(_Part):
    schema_: str
    sections: tuple[_Section, ...]


def rounded(value: Any) -> Any:
    """Round every number of nested JSON as results.json holds it: to seven significant digits."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Earlier:
    """The means of an earlier ``results.json``; empty where there is none to compare with."""

    means: Mapping[tuple[str | None, ...], float | None] = field(default_factory=dict)

    def of(self, group: Group, run: Run, measure: Measure, explainer: str) -> float | None:
        """Return the earlier mean of a cell, None where it was not there or undefined."""
        source = "" if measure.family == "model" else explainer
        cell = (run.method, source, measure.key)
        found = self.means.get((*run.kind, *cell))
        return self.means.get((group.dataset, group.recipe, None, *cell)) if found is None else found


def read_earlier(path: Path | None) -> Earlier:
    """Read the means of the ``results.json`` at ``path``; raises DataError for anything else."""
    if path is None:
        return Earlier()
    require_regular(path)
    found = _parse(path)
    means: dict[tuple[str | None, ...], float | None] = {}
    for section in found.sections:
        for method, values in section.methods.items():
            for source, cells in (("", values.model), *values.explainers.items()):
                for key, cell in cells.items():
                    means[section.dataset, section.recipe, section.arch, method, source, key] = cell.mean
    return Earlier(means)


def _parse(path: Path) -> _Results:
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise DataError(f"{path} is not a results.json of xeval compare", f"give a file with schema {SCHEMA}")
        return _Results.model_validate({**content, "schema_": content["schema"]})
    except ValidationError as error:
        problem = first_mistake(error).key
    except (ValueError, OSError) as error:
        problem = str(error)
    raise DataError(f"{path} cannot be read ({problem})", "give a results.json that xeval compare wrote")
