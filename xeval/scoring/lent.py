"""Lend functions of a Python session to the registries for the length of one call.

An explainer of one's own is a function ``(model, images, targets) -> maps``, a metric ``(model, images, maps, targets)
-> values``; the rows and columns carry the names of the functions. What else a function reads cannot be seen, so its
rows are computed again in every call, and never taken from an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.explainers.base import Explainer, Units
from xeval.metrics import METRICS, Column, Explained, Scores, Settings, Values
from xeval.metrics.metric import ARROWS, Metric
from xeval.registry import Registry
from xeval.scoring.options import names as listed

OwnExplainer: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
OwnMetric: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
Lent: TypeAlias = AbstractContextManager[tuple[str, ...] | None]
T = TypeVar("T")


def explainers_lent(things: str | Sequence[str | OwnExplainer] | None) -> Lent:
    """Register the functions among explainers, and yield the names of all; ``units`` of a function says what it gives.

    Raises :class:`UsageError` for a function without a name, or with one that is taken.
    """
    return _lent(EXPLAINERS, things, _explainer)


def metrics_lent(things: str | Sequence[str | OwnMetric] | None) -> Lent:
    """Register the functions among metrics, and yield the names of all; their ``direction`` says what is better.

    Raises :class:`UsageError` for a function without a name, or with one that is taken.
    """
    return _lent(METRICS, things, _metric)


@contextmanager
def _lent(
    registry: Registry[T], things: str | Sequence[str | Callable[..., Any]] | None, made: Callable[[str, Any], T]
) -> Iterator[tuple[str, ...] | None]:
    with ExitStack() as lent:
        names = []
        for thing in listed(things) if isinstance(things, str) else things or ():
            if callable(thing):
                name = _name(registry.kind, thing)
                lent.enter_context(registry.lent(name, made(name, thing), thing))
            else:
                name = thing
            names.append(name)
        yield None if things is None else tuple(names)


def _name(kind: str, function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise UsageError(f"the {kind} {function!r:.80} has no name for its rows", "define it with def, or set __name__")
    return str(name)


def _explainer(name: str, function: OwnExplainer) -> Explainer:
    def explain(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
        return _as_maps(function(model, images, targets), images)

    units: Units = getattr(function, "units", "location")
    if units not in get_args(Units):
        raise UsageError(f"units of the explainer {name!r} are {units!r:.40}", "set gradient or location")
    return Explainer(name, explain, units, "a function of this session")


def _as_maps(maps: Any, images: Tensor) -> Tensor:
    """Return maps N×h×w or N×1×h×w as N×1×h×w."""
    if not isinstance(maps, Tensor):
        raise TypeError(f"it gives {type(maps).__name__}, not a tensor N×1×h×w")
    found: Tensor = maps.unsqueeze(1) if maps.ndim == 3 else maps
    if found.ndim != 4 or found.shape[:2] != (len(images), 1):
        raise TypeError(f"it gives {tuple(found.shape)} for {len(images)} images, not N×1×h×w")
    return found.detach().to(images)


def _metric(name: str, function: OwnMetric) -> Metric:
    direction = getattr(function, "direction", None)
    if direction not in ARROWS:
        raise UsageError(f"direction of the metric {name!r} is {direction!r:.40}", "set lower, higher or None")
    title = (function.__doc__ or name).strip().splitlines()[0]

    def score(explained: Explained, _settings: Any, _shared: None) -> Scores:
        scene = explained.scene
        found = function(scene.engine.model, scene.images, explained.maps, scene.targets)
        return {name: Values(torch.as_tensor(found, dtype=torch.float64))}

    return Metric(
        name=name,
        family="faithfulness",
        settings=Settings,
        columns=lambda _settings: (Column(name, title, direction),),
        score=score,
        convention=lambda _settings: f"{name}: a function of the session that scored; {title}",
        citation="a function of this session",
        prepare=lambda _scene, _settings: None,
        curves=(),
        gain_of={},
        needs=frozenset(),
        group=None,
        version=1,
        default=False,
    )
