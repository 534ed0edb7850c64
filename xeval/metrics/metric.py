"""What a metric is: its columns, their directions, its settings, and the reasons why a value may be undefined.

A metric has two parts. ``prepare`` makes the passes that depend on the images only, because random perturbations belong
to the image, not to the explainer. ``score`` turns the maps of one explainer into columns, one value per image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

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
NOT_POSITIVE = "clean score not positive"
EXPECTED_REASONS = frozenset(
    {EMPTY_MAP, CONSTANT_MAP, NO_CHANGE, EMPTY_OTHER, NO_MASK, PREDICTION_CHANGED, LONE_IMAGE, NOT_POSITIVE}
)


class Settings(BaseModel):
    """The parameters of a metric. They are immutable and are hashed into every row of scores.

    ``later`` names parameters that came after rows had been stored: they are hashed only where they differ from their
    default, so that older rows keep their definition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[frozenset[str]] = frozenset()

    def definition(self) -> dict[str, Any]:
        """Return the parameters that are hashed."""
        fields = type(self).model_fields
        unchanged = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude=unchanged)


@dataclass(frozen=True)
class Column:
    """One number per image, described by its name ``metric.column@param``, title, direction, range and unit.

    ``direction`` says which values are better; None means neither. ``low`` and ``high`` bound the range.
    """

    name: str
    title: str
    direction: Direction | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Values:
    """The values of a column, float64 (N,) or a curve (N, K), and per reason where they are undefined, bool (N,)."""

    value: Tensor
    undefined: Mapping[str, Tensor] = field(default_factory=dict)


Scores: TypeAlias = dict[str, Values]
S = TypeVar("S", bound=Settings)
Score: TypeAlias = Callable[[Explained, S, Any], Scores]


@dataclass(frozen=True)
class Metric:
    """One registered metric; :func:`metric` says what its fields mean."""

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
EXPLAINER = frozenset({"explainer"})
"""What a metric needs that calls :meth:`Explained.again` or :meth:`Explained.version`."""
BLOCKS = frozenset({"blocks"})
"""What a metric needs whose values depend on the images that are scored together."""


def _nothing(_scene: Scene, _settings: Any) -> None:
    """Prepare nothing, for a metric that needs no pass of its own."""


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
        name: the name on the command line, and the first part of its columns' names.
        family: which question about a map it answers.
        settings: the class of its parameters.
        columns: gives the columns that the function returns under given settings, without the curves.
        convention: gives the sentence that is shown with the table.
        citation: author, venue and year; the entry in references.bib is found by it.
        prepare: makes the passes that depend on the images only; its result is passed on as ``shared``.
        curves: names of the curves, one per image, that the function returns in addition to the columns.
        gain_of: name of each gain column → column it is made from; the gain is random control − value.
        needs: what there must be: ``masks`` in the data; of the network ``softmax``, probabilities that are the softmax
            over classes, ``one label``, images of one class, or ``other class``, a second class; an ``explainer``, for
            a metric that explains other images, classes or networks too: maps that were made elsewhere have no value of
            it; ``blocks``, where values depend on which images are scored together: these are the same in every run.
        group: a name under which several metrics can be asked for together.
        version: must be raised whenever the numbers change.
        default: whether the metric is part of the protocol ``xeval``.
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
