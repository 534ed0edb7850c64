"""Scores of invented training methods whose true difference is known, and how often the intervals are right.

``python -m tests.simulated`` prints the table of docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from xeval.statistics.intervals import (
    Array,
    Estimate,
    compare_explainers,
    compare_methods,
    compare_scalars,
    mean_interval,
)

Generator = np.random.Generator
IMAGE, RATE = 0.3, 0.993


@dataclass(frozen=True)
class Scenario:
    """Draws the scores of one repetition and estimates; ``truth`` is what the interval should cover."""

    about: str
    estimate: Callable[[Generator], Estimate]
    truth: float = 0.0


@dataclass(frozen=True)
class Measured:
    coverage: float
    false_alarms: float  # share of p < 0.05; NaN where there is no p


def measure(scenario: Scenario, repetitions: int, seed: int = 0) -> Measured:
    rng = np.random.default_rng(seed)
    covered, alarms = [], []
    for _ in range(repetitions):
        found = scenario.estimate(rng)
        if found.interval is None:  # no claim is no false claim, but never coverage either
            covered.append(False)
            continue
        low, high = found.interval
        covered.append(low <= scenario.truth <= high)
        alarms += [found.p < 0.05] if found.p is not None else []
    return Measured(float(np.mean(covered)), float(np.mean(alarms)) if alarms else float("nan"))


def gaussian(
    rng: Generator, seeds: tuple[int, ...], images: int, spread: tuple[float, ...], own: float = 0.1, rest: float = 0.2
) -> list[Array]:
    """Common images, each method's own image effects, seed effects and residuals, all normal with mean 0."""
    common = rng.normal(0, IMAGE, images)
    return [
        common + rng.normal(0, own, images) + rng.normal(0, sd, (n, 1)) + rng.normal(0, rest, (n, images))
        for n, sd in zip(seeds, spread, strict=True)
    ]


def rates(rng: Generator, seeds: tuple[int, ...], images: int, spread: tuple[float, ...]) -> list[Array]:
    """Zeros and ones with expectation .993: a probit; image difficulty has SD 1, half of its variance is common."""
    common = rng.normal(0, 0.5**0.5, images)
    found = []
    for n, sd in zip(seeds, spread, strict=True):
        difficulty = common + rng.normal(0, 0.5**0.5, images)
        centre = ndtri(RATE) * (2 + sd**2) ** 0.5
        chance = ndtr(centre + difficulty + rng.normal(0, sd, (n, 1)))
        found.append((rng.random((n, images)) < chance).astype(float))
    return found


def methods(
    draw: Callable[..., list[Array]], seeds: tuple[int, int], images: int, spread: tuple[float, float]
) -> Scenario:
    kind = "scores" if draw is gaussian else "rates near .993"
    n = str(seeds[0]) if seeds[0] == seeds[1] else f"{seeds[0]} and {seeds[1]}"
    sd = f"{spread[0]:g}" if spread[0] == spread[1] else f"{spread[0]:g} and {spread[1]:g}"
    about = f"methods, {kind}, {n} seeds, {images} images, seed SD {sd}"
    return Scenario(about, lambda rng: compare_methods(*draw(rng, seeds, images, spread)))


def mean(seeds: int, images: int, spread: float) -> Scenario:
    about = f"one method's mean, {seeds} seeds, {images} images, seed SD {spread:g}"
    return Scenario(about, lambda rng: mean_interval(gaussian(rng, (seeds,), images, (spread,))[0]))


def explainers(seeds: int, images: int, spread: float) -> Scenario:
    """Two explainers share checkpoint effects of SD .1, which must cancel; ``spread`` is what remains."""

    def estimate(rng: Generator) -> Estimate:
        checkpoint = rng.normal(0, 0.1, (seeds, 1))
        a, b = gaussian(rng, (seeds, seeds), images, (spread, spread))
        return compare_explainers(a + checkpoint, b + checkpoint)

    return Scenario(f"explainers, {seeds} checkpoints, {images} images, seed SD {spread:g}", estimate)


def numbers(seeds: tuple[int, int], spread: tuple[float, float]) -> Scenario:
    def estimate(rng: Generator) -> Estimate:
        return compare_scalars(rng.normal(0, spread[0], seeds[0]), rng.normal(0, spread[1], seeds[1]))

    about = f"one number a seed, {seeds[0]} and {seeds[1]} seeds, seed SD {spread[0]:g} and {spread[1]:g}"
    return Scenario(about, estimate)


SCENARIOS = [
    methods(gaussian, (5, 5), 300, (0.02, 0.02)),
    methods(gaussian, (5, 5), 300, (0.0, 0.0)),
    methods(gaussian, (5, 5), 300, (0.05, 0.05)),
    methods(gaussian, (5, 5), 300, (0.05, 0.01)),
    methods(gaussian, (5, 5), 1000, (0.02, 0.02)),
    methods(gaussian, (3, 3), 300, (0.02, 0.02)),
    methods(gaussian, (10, 10), 300, (0.02, 0.02)),
    methods(gaussian, (5, 5), 2000, (0.11, 0.0011)),
    methods(gaussian, (3, 3), 300, (0.11, 0.0011)),
    methods(gaussian, (10, 5), 300, (0.02, 0.05)),
    methods(gaussian, (5, 5), 40, (0.02, 0.02)),
    methods(gaussian, (5, 5), 10, (0.0, 0.0)),
    methods(rates, (5, 5), 2000, (0.1, 0.1)),
    methods(rates, (5, 5), 2000, (0.0, 0.0)),
    methods(rates, (5, 5), 360, (0.1, 0.1)),
    methods(rates, (3, 3), 2000, (0.1, 0.1)),
    methods(rates, (10, 10), 2000, (0.1, 0.1)),
    methods(rates, (5, 5), 2000, (0.1, 0.001)),
    methods(rates, (5, 5), 10000, (0.1, 0.001)),
    mean(5, 300, 0.02),
    mean(5, 2000, 0.05),
    mean(3, 300, 0.02),
    explainers(5, 300, 0.02),
    explainers(5, 300, 0.0),
    explainers(10, 1000, 0.02),
    numbers((5, 5), (1, 1)),
    numbers((5, 5), (1, 0.01)),
]
#: Where t intervals of few seeds fall short: the noisier side has the fewest seeds, or its seed means are skewed.
LIMITS = [
    methods(gaussian, (3, 6), 300, (0.05, 0.02)),
    numbers((3, 6), (1, 0.3)),
    methods(rates, (5, 5), 10000, (0.2, 0.002)),
]

if __name__ == "__main__":
    for scenario in SCENARIOS + LIMITS:
        found = measure(scenario, 10_000)
        alarms = "–" if math.isnan(found.false_alarms) else f"{found.false_alarms:.3f}"
        print(f"| {scenario.about} | {found.coverage:.3f} | {alarms} |", flush=True)
