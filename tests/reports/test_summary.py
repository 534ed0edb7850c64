from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from tests.reports.synthetic import DROPS, score, scores, write_run, write_study, write_tables
from xeval.reports.collect import Group, collect
from xeval.reports.summary import (
    Cell,
    best,
    cell,
    column_label,
    column_measure,
    decimal_places,
    gain_measure,
    stability,
)


@pytest.fixture
def group(runs: Path) -> Group:
    return collect(write_study(runs, artifacts=False)).groups[0]


@pytest.mark.parametrize("method", DROPS)
def test_mean_and_sample_deviation_over_seeds(group: Group, method: str) -> None:
    found = cell(group.methods[method], column_measure(group, "drop.mag@0.45"), "grad-cam")
    values = DROPS[method]
    mean = sum(values) / 3
    assert found.values == values
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2))
    assert found.n == 360


def test_gains_are_positive_when_better_whatever_the_direction(group: Group) -> None:
    runs = group.methods["excon"]
    lower = gain_measure(column_measure(group, "drop.mag@0.45"), "random-cam")
    higher = gain_measure(column_measure(group, "infidelity.skill"), "random-cam")
    # random-cam is planted at .62 (and 1 − .62 where higher is better), excon at .10, .12, .14
    assert cell(runs, lower, "grad-cam").values == pytest.approx((0.52, 0.50, 0.48))
    assert cell(runs, higher, "grad-cam").values == pytest.approx((0.52, 0.50, 0.48))


def test_the_fewest_images_are_reported_and_undefined_seeds_are_not_zeros(runs: Path) -> None:
    for seed, planted in enumerate(
        (score(0.2, 360), score(0.4, 350, {"empty map": 10}), score(None, 0, {"empty map": 360}))
    ):
        found = scores("ce", seed, 0.3)
        found["scores"]["grad-cam"]["drop.mag@0.45"] = planted
        write_run(runs, found)
    group = collect(runs).groups[0]
    found = cell(group.runs, column_measure(group, "drop.mag@0.45"), "grad-cam")
    assert found.mean == pytest.approx(0.3)
    assert (found.n, found.values[2]) == (0, None)


def test_one_seed_has_no_spread() -> None:
    assert Cell((0.5,)).std is None
    assert Cell(()).mean is None


@pytest.mark.parametrize(
    ("means", "direction", "expected"),
    [
        ((0.30, 0.20, 0.10), "lower", [False, False, True]),
        ((0.30, 0.20, 0.10), "higher", [True, False, False]),
        ((0.3000, 0.3001, 0.10), "higher", [True, True, False]),  # print alike
        ((0.30, 0.30, 0.30), "higher", [False, False, False]),
        ((0.30, None, 0.10), "higher", [True, False, False]),
        ((0.30,), "higher", [False]),
        ((0.30, 0.20), None, [False, False]),
    ],
)
def test_best(means: tuple[float | None, ...], direction: str | None, expected: list[bool]) -> None:
    assert best([Cell((mean,)) for mean in means], direction, 3) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("std", "places"), [(0.2, 2), (0.1, 3), (0.02, 3), (0.002, 4), (0.00001, 4), (5.0, 2), (0.0, 3)]
)
def test_two_significant_digits_of_the_standard_error(std: float, places: int) -> None:
    values = (0.5 - std, 0.5, 0.5 + std)
    assert statistics.stdev(values) == pytest.approx(std)
    assert decimal_places([Cell(values)]) == places


def test_one_seed_takes_its_decimals_from_the_images() -> None:
    assert decimal_places([Cell((0.5,), se=0.02)]) == 3


def test_stability_is_the_mean_over_epochs_of_the_deviation_over_seeds(runs: Path) -> None:
    curves = ((0.1, 0.5, 0.9), (0.3, 0.6, 0.9), (0.5, 0.7, 0.9, 1.0))
    for seed, curve in enumerate(curves):
        write_run(runs, scores("ce", seed, 0.3), curve)
    found = stability(collect(runs).runs, "val_accuracy")
    assert found == pytest.approx((0.2 + 0.1 + 0.0) / 3)  # the fourth epoch exists for one seed only
    assert stability(collect(runs).runs[:1], "val_accuracy") is None
    assert stability(collect(runs).runs, "masked_share") is None


def test_a_gain_is_over_the_images_on_which_both_are_defined(runs: Path) -> None:
    own, floor = np.array([[0.2, 0.4, np.nan, 0.3]]), np.array([[0.5, np.nan, 0.9, 0.7]])
    write_tables(runs, "ce", {("grad-cam", "drop.mag@0.45"): own, ("random-cam", "drop.mag@0.45"): floor})
    group = collect(runs).groups[0]
    found = cell(group.runs, gain_measure(column_measure(group, "drop.mag@0.45"), "random-cam"), "grad-cam")
    assert (found.mean, found.n) == (pytest.approx(((0.5 - 0.2) + (0.7 - 0.3)) / 2), 2)
    assert found.se == pytest.approx(statistics.stdev((0.3, 0.4)) / math.sqrt(2))


def test_labels() -> None:
    assert column_label("drop.mag@0.45") == "drop mag 45\u00a0%"
    assert column_label("ssim.value") == "ssim"
    assert column_label("lipschitz.max@l2") == "lipschitz max l2"
