from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reports.synthetic import DROPS, PRIMARY, write_study
from xeval.reports.collect import Group, collect
from xeval.reports.provenance import origins
from xeval.reports.verdict import verdict


def group_of(runs: Path, drops: Any = DROPS, **more: Any) -> Group:
    return collect(write_study(runs, drops, artifacts=False, **more)).groups[0]


def test_names_the_best_method_beside_the_reference(runs: Path) -> None:
    said = verdict(group_of(runs), "supcon", PRIMARY).text
    assert "excon has the best mean on drop.mag@0.45 ↓ (0.120 ± 0.020, supcon 0.400 ± 0.100)" in said
    assert "infidelity.skill ↑ (0.880 ± 0.020, supcon 0.600 ± 0.100)" in said
    assert "With fewer than 5 seeds no difference can be tested" in said


@pytest.mark.parametrize(
    ("drops", "ordering", "words"),
    [
        (DROPS, "holds", "holds for every seed"),
        ({"supcon": (0.1, 0.1), "excon": (0.2, 0.2), "exconb": (0.3, 0.1)}, "fails", "fails for every seed"),
        ({"supcon": (0.2, 0.2), "excon": (0.1, 0.3)}, "mixed", "excon has the lower drop in 1 of 2"),
    ],
)
def test_the_expected_ordering_is_computed_seed_by_seed(runs: Path, drops: Any, ordering: str, words: str) -> None:
    found = verdict(group_of(runs, drops), "supcon", PRIMARY)
    assert found.ordering == ordering
    assert found.badge == (ordering, ordering)
    assert words in found.text


def test_no_ordering_without_both_sides(runs: Path) -> None:
    found = verdict(group_of(runs, {"ce": (0.1,), "supcon": (0.2,)}), "supcon", PRIMARY)
    assert found.ordering is None
    assert "ordering" not in found.text
    assert "With one seed" in found.text


def test_one_method_is_described_and_not_ranked(runs: Path) -> None:
    said = verdict(group_of(runs, {"ce": (0.3, 0.4)}), "ce", PRIMARY).text
    assert "ce has drop.mag@0.45 ↓ (0.350 ± 0.071)" in said
    assert "best" not in said


@pytest.mark.parametrize(
    ("drops", "words"),
    [
        ({"supcon": (0.3, 0.3), "excon": (0.3, 0.3)}, "No method stands out on drop.mag@0.45 ↓ (supcon 0.300 ± 0.000)"),
        (
            {"supcon": (0.3,), "ce": (0.1,), "excon": (0.1,)},
            "ce and excon share the best mean on drop.mag@0.45 ↓ (0.1000, ",
        ),
        ({"supcon": (0.1,), "ce": (0.3,)}, "supcon (the reference) has the best mean on drop.mag@0.45 ↓ (0.1000)"),
    ],
)
def test_ties_are_not_victories(runs: Path, drops: Any, words: str) -> None:
    assert words in verdict(group_of(runs, drops), "supcon", PRIMARY).text


def test_says_where_controls_are_not_beaten(runs: Path) -> None:
    found = verdict(group_of(runs, {"supcon": (0.9, 0.9), "excon": (0.1, 0.1)}), "supcon", PRIMARY)
    assert (
        "supcon is not shown to be better than random, random-cam and centre on drop.mag@0.45, infidelity.skill and "
        "deletion.gain (‡)." in found.text
    )
    told = "random, random-cam, centre, edge, constant and inverse have a better mean than grad-cam on drop.mag@0.45"
    assert f"{told} for supcon." in found.threats


def test_one_seed_cannot_say_whether_the_ordering_holds(runs: Path) -> None:
    found = verdict(group_of(runs, {"supcon": (0.3,), "excon": (0.1,)}), "supcon", PRIMARY)
    assert (found.ordering, found.badge) == ("one seed", ("untested", "not tested: one seed"))
    assert "holds cannot be said with one seed: excon has the lower drop in 1 of 1" in found.text
    assert "every seed" not in found.text


def change(runs: Path, folder: str, **parts: dict[str, Any]) -> None:
    path = runs / folder / "scores.json"
    found = json.loads(path.read_text())
    for part, values in parts.items():
        found[part] |= values
    path.write_text(json.dumps(found))


def test_threats_are_facts(runs: Path) -> None:
    write_study(runs, artifacts=False)
    change(
        runs, "digits-excon-s0", model={"accuracy": 0.80}, checkpoint={"weights": "last"}, explained={"layer": "other"}
    )
    threats = verdict(collect(runs).groups[0], "supcon", PRIMARY).threats
    text = " ".join(threats)
    assert "Fewer than 5 seeds: supcon 3, excon 3, exconb 3." in threats
    assert "Methods differ in accuracy by 6.0 points (excon 0.920, supcon 0.980)" in text
    assert "Runs differ in the weights that were scored: best, last." in threats
    assert "Runs differ in the explained layer: backbone.stage3, other." in threats
    assert "practice with the test perturbation" in text


def test_another_fill_than_in_training_is_no_threat(runs: Path) -> None:
    write_study(runs, artifacts=False)
    for run in runs.iterdir():
        change(runs, run.name, protocol={"settings": {"fill": "blur"}})
    assert "perturbation" not in " ".join(verdict(collect(runs).groups[0], "supcon", PRIMARY).threats)


@pytest.mark.parametrize(
    ("told", "never"),
    [
        ({"explained_from": 4, "recipe": {"epochs": 3}}, True),
        ({"explained_from": 3, "recipe": {"epochs": 3}}, False),
        ({"recipe": {"epochs": 3, "excon": {"explain_from_epoch": 3}}}, True),  # of before: explained after epoch 3
        ({"recipe": {"epochs": 3, "excon": {"explain_from_epoch": 2}}}, False),
        ({"recipe": {}}, False),
    ],
)
def test_a_run_that_never_explained_is_told(told: dict[str, Any], never: bool, runs: Path) -> None:
    write_study(runs, {"supcon": (0.4, 0.3), "excon": (0.3, 0.3), "exconb": (0.2, 0.3)}, artifacts=False)
    for name in ("digits-supcon-s0", "digits-excon-s1"):
        card = runs / name / "run.json"
        card.write_text(json.dumps({**json.loads(card.read_text()), **told}))
    threats = " ".join(verdict(collect(runs).groups[0], "supcon", PRIMARY).threats)
    said = "excon never explained while training (explanations were to begin after the last epoch)"
    assert (said in threats) == never
    assert "exconb never" not in threats
    assert "supcon never" not in threats


def test_another_precision_of_training_is_told(runs: Path) -> None:
    write_study(runs, {"supcon": (0.4, 0.3), "excon": (0.3, 0.3)}, artifacts=False)
    for name, precision in (("digits-supcon-s0", "float32"), ("digits-excon-s1", "bfloat16")):
        card = runs / name / "run.json"
        card.write_text(json.dumps({**json.loads(card.read_text()), "recipe": {"precision": precision}}))
    group = collect(runs).groups[0]
    threats = verdict(group, "supcon", PRIMARY).threats
    assert "Runs differ in the precision of training: bfloat16, float32." in threats
    assert "trained in" in origins(group).heads
    assert [("trained in", "bfloat16", "") in row for _, row in origins(group).rows].count(True) == 1


def test_a_subset_and_a_choice_on_test_are_told(runs: Path) -> None:
    write_study(runs, {"ce": (0.3,)}, artifacts=False)
    change(runs, "digits-ce-s0", dataset={"of": 10000, "selection": "stratified, seed 0"})
    card = runs / "digits-ce-s0" / "run.json"
    card.write_text(card.read_text().replace("heldout", "test"))
    threats = verdict(collect(runs).groups[0], "ce", PRIMARY).threats
    assert "Scored on 360 of 10,000 images (stratified, seed 0)." in threats
    assert "The best epoch was chosen on the test split: ce." in threats
