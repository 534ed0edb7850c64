"""Registers ``quantus:<ClassName>`` for every metric of Quantus 0.6.0 that can be run; Quantus itself computes it.

:mod:`xeval.quantus_bridge.table` says what each metric is asked, what is repaired and what is refused.
:mod:`xeval.quantus_bridge.runtime` keeps Quantus from changing anything but its result. Quantus works on arrays on the
host, so these metrics are slower than our own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from xeval.errors import UsageError
from xeval.metrics import Column, Explained, Values
from xeval.metrics.localisation import MASKS
from xeval.metrics.metric import (
    BLOCKS,
    CONSTANT_MAP,
    EMPTY_MAP,
    EXPLAINER,
    LONE_IMAGE,
    NO_MASK,
    Scores,
    Settings,
    metric,
)
from xeval.quantus_bridge.runtime import QUIET, Array, Given, given, quantus_runtime, run
from xeval.quantus_bridge.table import ENTRIES, TABLE, Entry

__all__ = ["FACETS", "LONE_IMAGE", "call", "given", "maps_for", "quantus_runtime", "require_accepted"]

FACETS = tuple(
    TABLE[name].full_name
    for name in ("Complexity", "Sparseness", "FaithfulnessCorrelation", "PixelFlipping", "MaxSensitivity")
)
"""The metrics that ``--engine quantus`` computes."""


class NoSettings(Settings):
    """These metrics have no settings; their parameters stand in the table."""


def require_accepted(names: Iterable[str]) -> None:
    """Raise :class:`UsageError` with the reason for the first name in ``names`` that the bridge refuses."""
    for name in names:
        entry = TABLE.get(name.removeprefix("quantus:")) if name.startswith("quantus:") else None
        if entry is not None and entry.refused:
            raise UsageError(f"{name} is refused: {entry.refused}", "xeval list quantus shows what runs")


def call(entry: Entry, explained: Explained, maps: Tensor) -> Array:
    """Run one entry on one block of images with these maps N×1×H×W: float64 (N,), NaN where there is no value."""
    what = given(explained, maps)
    if entry.scope == "image":
        return np.concatenate([_once(entry, explained, what.image(number)) for number in range(len(what.x))])
    if entry.scope == "block" and len(what.x) < 2:
        return np.full(len(what.x), np.nan)
    return _once(entry, explained, what)


def _once(entry: Entry, explained: Explained, what: Given) -> Array:
    """Build one metric of Quantus, run it once and reduce its result to one value per image."""
    import quantus

    arguments = entry.arguments(what)
    found = run(getattr(quantus, entry.name)(**QUIET, **arguments), explained, what, smoothed=entry.smoothed)
    return entry.reduce(found, arguments, what)


def maps_for(entry: Entry, explained: Explained) -> Tensor:
    """Return the maps that an entry is given: N×1×H×W, or one copy per channel."""
    if entry.maps == "positive":
        return explained.positive
    if entry.maps == "scaled":
        largest = explained.maps.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
        return explained.maps / torch.where(largest > 0, largest, torch.ones_like(largest))
    if entry.maps == "channels":
        return explained.maps.expand_as(explained.scene.images)
    return explained.maps


def _undefined(entry: Entry, explained: Explained, maps: Tensor, value: Tensor) -> dict[str, Tensor]:
    """Return where a value is missing, by reason.

    Constant maps are found here, image by image, because Quantus itself refuses only a whole batch of them.
    """
    flat = maps.flatten(1)
    reasons = {CONSTANT_MAP: flat.amax(1) == flat.amin(1)}
    if entry.maps == "positive":
        reasons = {EMPTY_MAP: explained.empty, CONSTANT_MAP: reasons[CONSTANT_MAP] & ~explained.empty}
    if explained.scene.masks is not None and entry.masks:
        reasons[NO_MASK] = ~explained.scene.masks.flatten(1).any(1)
    known = torch.stack(list(reasons.values())).any(0)
    reason = LONE_IMAGE if entry.scope == "block" and len(value) < 2 else entry.nan
    reasons[reason] = reasons.get(reason, torch.zeros_like(known)) | (value.isnan() & ~known)
    return reasons


def _score(entry: Entry, explained: Explained) -> Scores:
    """Score one block of images with an entry; raise UsageError where it needs masks and the data set has none."""
    if entry.masks and explained.scene.masks is None:
        raise UsageError(f"{entry.full_name} needs object masks or boxes", "choose a data set that has them")
    maps = maps_for(entry, explained)
    value = torch.as_tensor(call(entry, explained, maps), device=explained.scene.images.device)
    return {f"{entry.full_name}.value": Values(value, _undefined(entry, explained, maps, value))}


def _register(entry: Entry) -> None:
    """Register an entry of the table as a metric."""

    @metric(
        entry.full_name,
        family=entry.family,
        settings=NoSettings,
        columns=lambda _s: (Column(f"{entry.full_name}.value", f"{entry.title} (Quantus)", entry.direction),),
        convention=lambda _s: (
            f"{entry.full_name}: {entry.about}; draws are Quantus's own, seeded for each block of images"
        ),
        citation="Hedström et al., JMLR 2023",
        needs=BLOCKS
        | {"softmax"}
        | (MASKS if entry.masks else frozenset())
        | (EXPLAINER if entry.again else frozenset()),
        default=False,
    )
    def score(explained: Explained, _settings: NoSettings, _shared: None) -> Scores:
        return _score(entry, explained)


for _entry in ENTRIES:
    if not _entry.refused:
        _register(_entry)
