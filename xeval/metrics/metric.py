"""What a metric is: its columns, their directions, its settings, and the reasons why a value may be undefined.

A metric has two parts. ``prepare`` makes the passes that depend on the images only (random perturbations belong to the
image, not to the explainer); ``score`` turns the maps of one explainer into columns, one value an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

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
S = TypeVar("S", bound=Settings)
Score: TypeAlias = Callable[[Explained, S, Any], Scores]


@dataclass(frozen=True)
class Metric:
    """A registered metric; :func:`metric` says what its fields mean."""

    name: str
    family: Family
    settings: type[Settings]
    columns: Callable[[Any], tuple[Column, ...]]
    score: Score[Any]
    convention: Callable[[Any], str]
    citation: str
    prepare: Callable[[Scene, Any], Any]
    curves: tuple[str, ...]
    gain_of: Mapping[str, str]
    needs: frozenset[str]
    group: str | None
    version: int
    default: bool


METRICS: Registry[Metric] = Registry("metric")


def _nothing(_scene: Scene, _settings: Any) -> None:
    """The ``prepare`` of a metric that needs no pass of its own."""


def metric(
    name: str,
    *,
    family: Family,
    settings: type[S],
    columns: Callable[[S], tuple[Column, ...]],
    convention: Callable[[S], str],
    citation: str,
    prepare: Callable[[Scene, S], Any] = _nothing,
    curves: tuple[str, ...] = (),
    gain_of: Mapping[str, str] = {},
    needs: frozenset[str] = frozenset(),
    group: str | None = None,
    version: int = 1,
    default: bool = True,
) -> Callable[[Score[S]], Score[S]]:
    """Register a function ``(explained, settings, shared) -> scores`` as a metric under ``name``.

    Args:
        name: what the command line calls it, and the first part of its columns' names.
        family: which question about a map it answers.
        settings: the class of its parameters.
        columns: what the function returns under given settings, curves left out.
        convention: the sentence that is shown with the table.
        citation: author, venue and year; the entry in references.bib is found by it.
        prepare: the passes that depend on the images only; what it returns is ``shared``.
        curves: names of what the function returns beside the columns, one curve an image.
        gain_of: columns that are filled in as random control − value, gain → source.
        needs: what the data must have (``masks``).
        group: a name under which several metrics can be asked for together.
        version: raised whenever numbers change.
        default: whether it is part of the protocol ``xeval``.
    """

    def decorate(score: Score[S]) -> Score[S]:
        about = Metric(
            name=name,
            family=family,
            settings=settings,
            columns=columns,
            score=score,
            convention=convention,
            citation=citation,
            prepare=prepare,
            curves=curves,
            gain_of=gain_of,
            needs=needs,
            group=group,
            version=version,
            default=default,
        )
        METRICS.add(name, about, score)
        return score

    return decorate


ARROWS = {"lower": "↓", "higher": "↑", None: " "}
