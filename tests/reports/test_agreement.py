"""Whether measures agree: hand-computed τ, planted opposites, and the figures that show them."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.reports.synthetic import PRIMARY, scores, write_images, write_run, write_study
from xeval.reports.agreement import over_checkpoints, over_images, over_methods
from xeval.reports.collect import Group, collect
from xeval.reports.figures import figures
from xeval.reports.overview import ranks_of
from xeval.reports.rows import blocks_of
from xeval.reports.summary import column_measure
from xeval.reports.verdict import verdict
from xeval.statistics.agreement import kendall

DROP, SKILL = "drop.mag@0.45", "infidelity.skill"


def slow_tau(a: list[float], b: list[float]) -> float:
    """τ_b by counting pairs."""
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    top = sum(x * y for x, y in signs)
    return float(top / math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)))


def test_kendall_counts_pairs_and_leaves_out_what_is_undefined() -> None:
    a, b = [1.0, 2, 2, 4, 5, 3], [2.0, 1, 3, 5, 4, 4]
    assert kendall(a, b) == pytest.approx(slow_tau(a, b))
    assert kendall([*a, math.nan], [*b, 1.0]) == pytest.approx(slow_tau(a, b))
    assert math.isnan(kendall([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert math.isnan(kendall([1.0, math.nan], [1.0, 2.0]))


def group_of(runs: Path, **drops: tuple[float, ...]) -> Group:
    return collect(write_study(runs, drops, artifacts=False)).groups[0]


def test_directions_are_turned_before_measures_are_compared(runs: Path) -> None:
    """In the planted study a lower drop comes with a higher skill: the measures agree."""
    group = group_of(runs, supcon=(0.3, 0.4), excon=(0.1, 0.2))
    measures = [column_measure(group, key) for key in (DROP, SKILL, "infidelity.skill")]
    assert over_checkpoints(group, measures, "grad-cam") == pytest.approx(np.ones((3, 3)))
    assert over_methods(group, *measures[:2], "grad-cam") == 1


def test_opposite_rankings_are_a_threat(runs: Path) -> None:
    for number, (method, drop, skill) in enumerate((("supcon", 0.3, 0.8), ("excon", 0.1, 0.2), ("ce", 0.2, 0.5))):
        found = scores(method, number, 0.3)
        found["scores"]["grad-cam"][DROP]["mean"] = drop
        found["scores"]["grad-cam"][SKILL]["mean"] = skill
        write_run(runs, found)
    group = collect(runs).groups[0]
    threats = verdict(group, "supcon", (DROP, SKILL)).threats
    assert f"{DROP} and {SKILL} rank the methods against each other (Kendall τ −1.00)." in threats


def test_agreement_over_images_stays_within_a_checkpoint(runs: Path) -> None:
    values = (0.1, 0.4, 0.2, 0.3)
    found = scores("supcon", 0, 0.3)
    found["dataset"].update(n=4, of=4, key="four")
    for cell in found["scores"]["grad-cam"].values():
        cell.update(mean=float(np.mean(values)), n=4)
    write_images(write_run(runs, found), found, (True,) * 4, values)
    group = collect(runs).groups[0]
    measures = [column_measure(group, key) for key in (DROP, SKILL)]
    # the same numbers in a column where lower and one where higher is better: opposite orders
    assert over_images(group.methods["supcon"], measures, "grad-cam") == pytest.approx(np.array([[1, -1], [-1, 1]]))


def test_ranks_share_ties_and_turn_directions(runs: Path) -> None:
    group = group_of(runs, ce=(0.3,), supcon=(0.1,), excon=(0.3,))
    lines = blocks_of(group, "supcon", "methods")[""].lines
    assert ranks_of(lines, column_measure(group, DROP)) == {"ce": 2.5, "supcon": 1.0, "excon": 2.5}
    assert ranks_of(lines, column_measure(group, SKILL)) == {"ce": 2.5, "supcon": 1.0, "excon": 2.5}


def test_one_method_has_neither_ranks_nor_agreement(runs: Path) -> None:
    group = group_of(runs, supcon=(0.3, 0.4))
    slugs = {figure.slug for figure in figures(group, PRIMARY, "supcon")}
    assert not slugs & {"digits-ranks", "digits-forest", "digits-agreement"}
