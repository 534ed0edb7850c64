"""Lend functions of a Python session, and maps that were made elsewhere, to the registries for the length of one call.

An explainer of one's own is a function ``(model, images, targets) -> maps``, a metric ``(model, images, maps, targets)
-> values``; the rows and columns carry the names of the functions. What else a function reads cannot be seen, so its
rows are computed again in every call, and never taken from an earlier one. Maps are known by their content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NoReturn, TypeAlias, TypeVar, get_args
from uuid import uuid4

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.explainers.base import Explainer, Units
from xeval.metrics import METRICS, Column, Explained, Scores, Settings, Values
from xeval.metrics.metric import ARROWS, Metric
from xeval.registry import Origin, Registry
from xeval.runtime.files import digest
from xeval.scoring.options import names as listed
from xeval.scoring.plan import MODEL_COLUMNS
from xeval.scoring.precomputed import PrecomputedMaps
from xeval.scoring.protocols import PROTOCOLS

OwnExplainer: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
OwnMetric: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
Lent: TypeAlias = AbstractContextManager[tuple[str, ...] | None]
T = TypeVar("T")
Made: TypeAlias = tuple[str, T, Origin]
FRAME = frozenset({"explainer", "image", *MODEL_COLUMNS})
"""The names that :func:`xeval.results` has for other columns than scores."""


def explainers_lent(things: str | Sequence[str | OwnExplainer | PrecomputedMaps] | None) -> Lent:
    """Register functions and maps as explainers, and yield the names of all; ``units`` says what a function gives.

    Raises :class:`UsageError` for a function without a name, or with one that is taken, and what
    :meth:`PrecomputedMaps.read` raises.
    """
    return _lent(EXPLAINERS, things, lambda thing: (_maps if isinstance(thing, PrecomputedMaps) else _explainer)(thing))


def beside(
    explainers: Sequence[str] | None, maps: Sequence[PrecomputedMaps], protocol: str
) -> tuple[str | PrecomputedMaps, ...] | None:
    """Return the explainers with the maps among them: in the place of their name, else after those that are named.

    ``protocol`` says which explainers stand where none are named.
    """
    if not maps:
        return None if explainers is None else tuple(explainers)
    named = PROTOCOLS[protocol].explainers if explainers is None else tuple(explainers)
    made = {one.name: one for one in maps}
    return (*(made.get(name, name) for name in named), *(one for one in maps if one.name not in named))


def metrics_lent(things: str | Sequence[str | OwnMetric] | None) -> Lent:
    """Register the functions among metrics, and yield the names of all; their ``direction`` says what is better.

    Raises :class:`UsageError` for a function without a name, or with one that is taken.
    """
    return _lent(METRICS, things, _metric)


@contextmanager
def _lent(
    registry: Registry[T], things: str | Sequence[Any] | None, made: Callable[[Any], Made[T]]
) -> Iterator[tuple[str, ...] | None]:
    with ExitStack() as lent:
        names = []
        for thing in listed(things) if isinstance(things, str) else things or ():
            if isinstance(thing, str):
                name = thing
            else:
                name, made_of_it, origin = made(thing)
                lent.enter_context(registry.lent(name, made_of_it, origin))
            names.append(name)
        yield None if things is None else tuple(names)


def _name(kind: str, function: Callable[..., Any]) -> tuple[str, Origin]:
    """Return what a function is called, and a code that no other call has."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise UsageError(f"the {kind} {function!r:.80} has no name for its rows", "define it with def, or set __name__")
    return str(name), Origin(f"the function {function.__module__}.{name}", uuid4().hex)


def _maps(given: PrecomputedMaps) -> Made[Explainer]:
    held, units = given.read()
    code = digest([held.content, units])
    return given.name, Explainer(given.name, _looked_up, units, "made elsewhere", held), Origin(given.whose, code)


def _looked_up(*_: Any) -> NoReturn:
    raise TypeError("maps that were made elsewhere are looked up by image")


def _explainer(function: OwnExplainer) -> Made[Explainer]:
    name, origin = _name("explainer", function)

    def explain(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
        return _as_maps(function(model, images, targets), images)

    units: Units = getattr(function, "units", "location")
    if units not in get_args(Units):
        raise UsageError(f"units of the explainer {name!r} are {units!r:.40}", "set gradient or location")
    return name, Explainer(name, explain, units, "a function of this session"), origin


def _as_maps(maps: Any, images: Tensor) -> Tensor:
    """Return maps N×h×w or N×1×h×w as N×1×h×w."""
    if not isinstance(maps, Tensor):
        raise TypeError(f"it gives {type(maps).__name__}, not a tensor N×1×h×w")
    found: Tensor = maps.unsqueeze(1) if maps.ndim == 3 else maps
    if found.ndim != 4 or found.shape[:2] != (len(images), 1):
        raise TypeError(f"it gives {tuple(found.shape)} for {len(images)} images, not N×1×h×w")
    return found.detach().to(images)


def _metric(function: OwnMetric) -> Made[Metric]:
    name, origin = _name("metric", function)
    _require_free(name)
    direction = getattr(function, "direction", None)
    if direction not in ARROWS:
        raise UsageError(f"direction of the metric {name!r} is {direction!r:.40}", "set lower, higher or None")
    title = (function.__doc__ or name).strip().splitlines()[0]

    def score(explained: Explained, _settings: Any, _shared: None) -> Scores:
        scene = explained.scene
        found = function(scene.engine.model, scene.images, explained.maps, scene.targets)
        return {name: Values(torch.as_tensor(found, dtype=torch.float64))}

    made = Metric(
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
    return name, made, origin


def _require_free(name: str) -> None:
    """Raise :class:`UsageError` for a name that stands for several metrics, or for another column of the results."""
    if name in FRAME or name in {metric.group for _, metric in METRICS.items()}:
        raise UsageError(f"the name {name!r} of a metric means something else already", "rename yours")
