"""What a metric is: its columns, their directions, its settings, and the reasons why a value may be undefined.

A metric has two parts. ``prepare`` makes the passes that depend on the images only (random perturbations belong to the
image, not to the explainer); ``score`` turns the maps of one explainer into columns, one value an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from xeval.metrics.scene import Explained, Scene
from xeval.registry import Registry

Direction: TypeAlias = Literal["lower", "higher"]
Family: TypeAlias = Literal[
    "faithfulness", "localisation", "complexity", "continuity", "contrastivity", "randomisation", "model"
]
EMPTY_MAP = "empty map"
CONSTANT_MAP = "constant map"
NO_CHANGE = "no change in score"
EMPTY_OTHER = "empty map of the other class"
NO_MASK = "no object mask"
PREDICTION_CHANGED = "prediction changed"
LONE_IMAGE = "no other image to compare with"
EXPECTED_REASONS = frozenset({EMPTY_MAP, CONSTANT_MAP, NO_CHANGE, EMPTY_OTHER, NO_MASK, PREDICTION_CHANGED, LONE_IMAGE})


class Settings(BaseModel):
    """The parameters of a metric; immutable, hashed into every row."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Column:
    """One number per image: its name ``metric.column@param``, direction (None = neither is better), range and title."""

    name: str
    title: str
    direction: Direction | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Values:
    """A column's values, float64 (N,) or a curve (N, K), and where they are undefined and why."""

    value: Tensor
    undefined: Mapping[str, Tensor] = field(default_factory=dict)


Scores: TypeAlias = dict[str, Values]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    ``columns(settings)`` and ``curves`` declare what ``score`` returns; ``convention(settings)`` is the sentence shown
    with the table; ``gain_of`` names columns (gain → source) filled in as random control − value. ``needs`` says
    what the data must have (``masks``); ``group`` is a name under which several metrics can be asked for together.
    """

    name: str
    family: Family
    settings: type[Settings]
    columns: Callable[[Any], tuple[Column, ...]]
    score: Callable[[Explained, Any, Any], Scores]
    convention: Callable[[Any], str]
    citation: str
    prepare: Callable[[Scene, Any], Any]
    curves: tuple[str, ...] = ()
    gain_of: Mapping[str, str] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    group: str | None = None
    version: int = 1
    default: bool = True


METRICS: Registry[Metric] = Registry("metric")


def nothing(_scene: Scene, _settings: Any) -> None:
    """``prepare`` of a metric that needs no pass of its own."""


ARROWS = {"lower": "↓", "higher": "↑", None: " "}
