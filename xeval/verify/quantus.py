"""Compares native metrics with Quantus, which gets the same draws where it would make its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xeval.metrics import Explained
from xeval.metrics.continuity import BallSettings, ball
from xeval.metrics.faithfulness import SubsetSettings, random_subsets
from xeval.metrics.pixelflip import FlipSettings, flipping_curve
from xeval.perturb.masks import kept
from xeval.quantus_bridge.arguments import divisor
from xeval.quantus_bridge.runtime import QUIET, Array, given, replaced, run
from xeval.verify.check import Check, Probabilities, Side, Subject


def _quantus(name: str, subject: Subject, maps: Tensor, one: Explained | None = None, **arguments: Any) -> Tensor:
    """Return the values of one Quantus class for these maps, not normalised; probabilities are the toolkit's."""
    import quantus

    metric = getattr(quantus, name)(**QUIET, **{"normalise": False, "abs": False, **arguments})
    explained = one or subject.one()
    found = run(metric, explained, given(explained, maps), model=_network(subject, name), softmax=False)
    return torch.as_tensor(np.asarray(found, dtype=np.float64), device=subject.images.device)


def _network(subject: Subject, name: str) -> Any:
    """Return the network itself for metrics that explain again, else the network with the float64 softmax."""
    explains = "Sensitivity" in name or "Lipschitz" in name
    return subject.model if explains else Probabilities(subject.model).eval()


# ---- complexity ------------------------------------------------------------------------------------------------------


def _complexity(name: str) -> Side:
    return lambda subject: _quantus(name, subject, subject.one().positive, abs=True)


# ---- faithfulness ----------------------------------------------------------------------------------------------------


def _correlation(subject: Subject) -> Tensor:
    """Compute Quantus's correlation on the native subsets of positions, which it gets as channel values."""
    scene, settings = subject.scene, SubsetSettings()
    channels, size = scene.images.shape[1], max(1, kept(settings.share, scene.pixels))
    masks = random_subsets(scene.seed, scene.keys, settings.n, size, scene.pixels).cpu().numpy()

    def draws() -> Iterator[Array]:
        for run_number in range(settings.n):
            for image in masks:
                positions = np.flatnonzero(image[run_number])
                yield np.concatenate([positions + channel * scene.pixels for channel in range(channels)])

    stream = draws()
    with replaced(np.random, "choice", lambda *_, **__: next(stream)):
        return _quantus(
            "FaithfulnessCorrelation",
            subject,
            subject.one().maps,
            nr_runs=settings.n,
            subset_size=size * channels,
            perturb_baseline=0.0,
            return_aggregate=False,
        )


def _step(subject: Subject) -> int:
    """Return the channel values per step of pixel flipping, for about 32 steps: Quantus requires a divisor of H·W."""
    return divisor(subject.scene.pixels, max(1, subject.images[0].numel() // 32))


def _flipping(subject: Subject) -> Tensor:
    """Return the native curve over channel values, ranked like the tie-free maps that Quantus gets."""
    return flipping_curve(subject.one(), FlipSettings(semantics="0.6", step=_step(subject)))


def _quantus_flipping(subject: Subject) -> Tensor:
    """Return Quantus's curve of the true class for maps with C channels and no two equal values."""
    maps = subject.tie_free(subject.images.shape[1])
    labelled = replace(subject, scene=replace(subject.scene, targets=subject.scene.labels))
    return _quantus("PixelFlipping", labelled, maps, features_in_step=_step(subject), perturb_baseline="black")


def _positions(subject: Subject) -> Tensor:
    """Return the native curve over positions, all channels at once."""
    return flipping_curve(subject.one(), FlipSettings(semantics="0.5", step=_step(subject)))


def _quantus_positions(subject: Subject) -> Tensor:
    """Return every C-th point of Quantus's curve.

    There ``step`` more positions have been flipped in all channels, because each step flips ``step`` channel values.
    """
    channels = subject.images.shape[1]
    return _quantus_flipping(subject)[:, channels - 1 :: channels]


# ---- continuity ------------------------------------------------------------------------------------------------------


def _versions(subject: Subject) -> tuple[int, Callable[..., Array]]:
    """Return the number of native draws and a perturbation for Quantus that gives them one after the other."""
    settings = BallSettings()
    versions = iter(ball(subject.scene, settings).unbind(1))
    return settings.n, lambda arr, **_: next(versions).cpu().numpy().reshape(arr.shape)


def _sensitivity(name: str) -> Side:
    def found(subject: Subject) -> Tensor:
        one, (samples, perturb) = subject.one(), _versions(subject)
        return _quantus(name, subject, one.maps, one, nr_samples=samples, perturb_func=perturb)

    return found


def _lipschitz(subject: Subject) -> Tensor:
    """Compute Quantus's estimate on maps divided by the largest magnitude of the clean map, as in the native metric."""
    one, (samples, perturb) = subject.one(), _versions(subject)
    largest = one.maps.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    scaled = Explained(
        subject.scene, one.native / unit, lambda images, number, **other: one.version(images, number, **other) / unit
    )
    return _quantus("LocalLipschitzEstimate", subject, scaled.maps, scaled, nr_samples=samples, perturb_func=perturb)


# ---- localisation ----------------------------------------------------------------------------------------------------


def _rank_accuracy(subject: Subject) -> Tensor:
    """Return the intersection over union of two sets of equal size from their overlap r: r / (2 − r)."""
    overlap = _quantus("RelevanceRankAccuracy", subject, subject.tie_free())
    return overlap / (2 - overlap)


def _value(column: str) -> Side:
    return lambda subject: subject.values(column.partition(".")[0], column)


QUANTUS = [
    Check(
        "complexity.entropy",
        "Quantus Complexity",
        "quantus",
        1e-6,
        _value("complexity.entropy"),
        _complexity("Complexity"),
    ),
    Check(
        "complexity.gini",
        "Quantus Sparseness",
        "quantus",
        1e-6,
        _value("complexity.gini"),
        _complexity("Sparseness"),
    ),
    Check("pixelflip 0.6, curve", "Quantus PixelFlipping", "quantus", 1e-5, _flipping, _quantus_flipping),
    Check(
        "pixelflip 0.5, curve",
        "Quantus PixelFlipping, whole positions",
        "quantus",
        1e-5,
        _positions,
        _quantus_positions,
    ),
    Check(
        "faithcorr.value",
        "Quantus FaithfulnessCorrelation, same subsets",
        "quantus",
        1e-5,
        _value("faithcorr.value"),
        _correlation,
    ),
    Check(
        "sensitivity.max",
        "Quantus MaxSensitivity, same noise",
        "quantus",
        1e-5,
        _value("sensitivity.max"),
        _sensitivity("MaxSensitivity"),
    ),
    Check(
        "sensitivity.avg",
        "Quantus AvgSensitivity, same noise",
        "quantus",
        1e-5,
        _value("sensitivity.avg"),
        _sensitivity("AvgSensitivity"),
    ),
    Check(
        "lipschitz.value",
        "Quantus LocalLipschitzEstimate, same noise",
        "quantus",
        1e-5,
        _value("lipschitz.value"),
        _lipschitz,
    ),
    Check(
        "pointing.hit",
        "Quantus PointingGame",
        "quantus",
        1e-6,
        _value("pointing.hit"),
        lambda subject: _quantus("PointingGame", subject, subject.tie_free()),
        needs_masks=True,
    ),
    Check(
        "relevance.mass",
        "Quantus RelevanceMassAccuracy",
        "quantus",
        1e-6,
        _value("relevance.mass"),
        lambda subject: _quantus("RelevanceMassAccuracy", subject, subject.one().positive),
        needs_masks=True,
    ),
    Check(
        "topk.iou",
        "Quantus RelevanceRankAccuracy",
        "quantus",
        1e-6,
        _value("topk.iou"),
        _rank_accuracy,
        needs_masks=True,
    ),
]
