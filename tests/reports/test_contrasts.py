"""Differences on the page: the right design, the declared family, marks and bold where they are earned."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reports.synthetic import scores, write_images, write_run, write_study
from xeval.errors import UsageError
from xeval.reports.collect import collect
from xeval.reports.compare import Comparison, compare
from xeval.statistics.intervals import compare_explainers, compare_methods, mean_interval
from xeval.statistics.tests import holm

KEY = "drop.mag@0.45"
PRIMARY = (KEY, "infidelity.skill", "deletion.gain")
IMAGES = 40

pytestmark = pytest.mark.usefixtures("no_figures")


def planted(shift: float, seed: int, *, images: int = IMAGES) -> np.ndarray:
    """Per-image values of one checkpoint: what the image brings, what the seed brings, and the method's shift."""
    rng = np.random.default_rng(7)
    shared = rng.normal(0.5, 0.1, images)
    own = np.random.default_rng(1000 + seed + int(shift * 100))
    return shared + own.normal(0, 0.01) + own.normal(0, 0.02, images) + shift


def study(root: Path, shifts: dict[str, float], seeds: int) -> dict[str, np.ndarray]:
    """Runs whose every column holds the planted values; seeds × images by method."""
    tables = {}
    for method, shift in shifts.items():
        rows = []
        for seed in range(seeds):
            values = planted(shift, seed)
            found = scores(method, seed, 0.4)
            found["dataset"].update(n=IMAGES, of=IMAGES, key="planted")
            for explainer in found["scores"].values():
                for cell in explainer.values():
                    cell.update(mean=float(values.mean()), n=IMAGES)
            write_images(write_run(root, found), found, (True,) * IMAGES, list(values))
            rows.append(values)
        tables[method] = np.stack(rows)
    return tables


def contrasts(made: Comparison) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((made.out / "results.json").read_text())["sections"][0]["contrasts"]
    return {(one["row"], one["column"]): one for one in found}


def entries(made: Comparison, table: str = "headline") -> dict[str, Any]:
    shown = next(t for t in made.tables if t.slug == f"digits-{table}")
    place = next(i for i, heading in enumerate(shown.headings) if heading.key.endswith(KEY))
    return {row.label: row.entries[place] for row in shown.rows if not row.control}


def test_methods_are_compared_over_seeds_and_images(runs: Path, tmp_path: Path) -> None:
    data = study(runs, {"supcon": 0.0, "ce": 0.001, "excon": -0.2}, 5)
    made = compare(runs, tmp_path / "out")
    found = contrasts(made)
    direct = {name: compare_methods(data[name], data["supcon"]) for name in ("ce", "excon")}
    for name, estimate in direct.items():
        one = found[name, KEY]
        assert (one["difference"], one["p"], one["df"]) == pytest.approx((estimate.value, estimate.p, estimate.df))
        assert one["interval"] == pytest.approx(list(estimate.interval or ()))
        assert one["share_of_seeds"] == pytest.approx(estimate.share.seeds if estimate.share else None)
    family = holm([direct[name].p or 0 for name in ("ce", "excon") for _ in PRIMARY])
    assert [found[n, key]["p_adjusted"] for n in ("ce", "excon") for key in PRIMARY] == pytest.approx(list(family))
    assert {key for (_, key), one in found.items() if one["family"] == "primary"} == set(PRIMARY)


def test_marks_and_bold_follow_the_tests(runs: Path, tmp_path: Path) -> None:
    study(runs, {"supcon": 0.0, "ce": 0.001, "excon": -0.2, "exconb": -0.2}, 5)
    made = compare(runs, tmp_path / "out")
    drop = entries(made)
    assert {name: (e.bold, "†" in e.mark) for name, e in drop.items()} == {
        "supcon": (False, False),
        "ce": (False, False),
        "excon": (True, True),
        "exconb": (True, True),  # not significantly worse than excon, or excon than it
    }
    assert "Bold marks the best mean and those not significantly worse" in made.tables[0].caption
    assert "† differs from supcon (Holm over the 9 declared comparisons, α = 0.05)" in made.tables[0].caption
    rest = next(t for t in made.tables if t.slug == "digits-drop-increase")
    assert "§" in "".join(e.mark for row in rest.rows if row.label == "excon" for e in row.entries)
    told = rf"Against supcon on {KEY}: excon (−0\.\d+) \[−0\.\d+, −0\.\d+\] \(p < 0\.001, 25 of 25"
    said = re.search(told, made.verdict)
    assert said is not None
    assert float(said[1].replace("−", "-")) == pytest.approx(-0.2, abs=0.02)


@pytest.mark.fault("P9")
def test_methods_that_do_not_differ_earn_no_mark(runs: Path, tmp_path: Path) -> None:
    study(runs, {"supcon": 0.0, "ce": 0.001}, 5)
    made = compare(runs, tmp_path / "out")
    assert not any(set(e.mark) & set("†§") for table in made.tables for row in table.rows for e in row.entries)
    assert not any(e.bold for e in entries(made).values())  # where every row ties with the best, nobody is best
    assert "Nothing tested is bold: no row is significantly worse" in made.tables[0].caption
    assert "None of the 3 declared differences is significant" in made.verdict
    assert "standard deviations between seeds would be found four times in five" in made.verdict


@pytest.mark.fault("P1")
@pytest.mark.parametrize(
    ("seeds", "interval", "words"),
    [
        (1, True, "images only; says nothing about retraining"),
        (2, False, "an interval needs at least 3 seeds"),
        (3, True, "p needs at least 5 seeds"),
        (4, True, "p needs at least 5 seeds"),
    ],
)
def test_below_five_seeds_nothing_is_tested(runs: Path, tmp_path: Path, seeds: int, interval: bool, words: str) -> None:
    study(runs, {"supcon": 0.0, "excon": -0.2}, seeds)
    made = compare(runs, tmp_path / "out")
    one = contrasts(made)["excon", KEY]
    assert (one["interval"] is not None, one["p"], one["p_adjusted"]) == (interval, None, None)
    table = next(t for t in made.tables if t.slug == "digits-differences")
    assert words in table.caption
    assert not any(set(e.mark) & set("†§") for t in made.tables for row in t.rows for e in row.entries)
    assert {name: e.bold for name, e in entries(made).items()} == {"supcon": False, "excon": True}
    assert "significant" not in made.verdict


def test_intervals_of_means_count_seeds_and_images(runs: Path, tmp_path: Path) -> None:
    data = study(runs, {"supcon": 0.0, "excon": -0.2}, 3)
    found = entries(compare(runs, tmp_path / "out"), "intervals")
    for name, table in data.items():
        estimate = mean_interval(table)
        assert (found[name].mean, found[name].interval) == (
            pytest.approx(estimate.value),
            pytest.approx(estimate.interval),
        )


@pytest.mark.fault("P12")
def test_a_family_too_large_for_the_permutation_check_is_told(runs: Path, tmp_path: Path) -> None:
    shifts = {"supcon": 0.0, "ce": 0.01, "triplet": 0.02, "simclr": 0.03, "excon": -0.2, "exconb": -0.1}
    study(runs, shifts, 5)
    threats = compare(runs, tmp_path / "out").sections[0].verdict.threats
    assert "With 5 seeds the permutation check cannot reach 0.05 for 15 comparisons." in threats


def test_explainers_are_paired_on_their_checkpoints(runs: Path, tmp_path: Path) -> None:
    values = {}
    for seed in range(5):
        found = scores("supcon", seed, 0.4)
        found["dataset"].update(n=IMAGES, of=IMAGES, key="planted")
        found["explainers"] = {name: {"control": False, "units": "location"} for name in ("grad-cam", "saliency")}
        found["scores"] = dict.fromkeys(found["explainers"], found["scores"]["grad-cam"])
        row = planted(0.0, seed)
        for cell in found["scores"]["grad-cam"].values():
            cell.update(mean=float(row.mean()), n=IMAGES)
        write_images(write_run(runs, found), found, (True,) * IMAGES, list(row))
        values[seed] = row
    made = compare(runs, tmp_path / "out", rows="explainers")
    one = contrasts(made)["saliency", KEY]
    same = compare_explainers(np.stack(list(values.values())), np.stack(list(values.values())))
    assert (one["difference"], one["p"], one["note"]) == (0.0, None, same.note)
    assert (one["block"], one["reference"]) == ("supcon", "grad-cam")


def test_without_images_the_seeds_alone_are_compared(runs: Path, tmp_path: Path) -> None:
    write_study(
        runs, {"supcon": (0.30, 0.31, 0.32, 0.33, 0.34), "excon": (0.1, 0.12, 0.11, 0.13, 0.1)}, artifacts=False
    )
    one = contrasts(compare(runs, tmp_path / "out"))["excon", KEY]
    a, b = np.array([0.1, 0.12, 0.11, 0.13, 0.1]), np.array([0.30, 0.31, 0.32, 0.33, 0.34])
    t = (a.mean() - b.mean()) / math.sqrt(a.var(ddof=1) / 5 + b.var(ddof=1) / 5)
    assert one["difference"] == pytest.approx(-0.208)
    assert (one["n"], one["share_of_seeds"]) == (None, 1.0)
    assert (one["interval"][0] + one["interval"][1]) / 2 == pytest.approx(-0.208)
    assert one["p"] < 1e-6
    assert t < -20


def test_the_declaration_is_written_once_and_kept(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    study(runs, {"supcon": 0.0, "excon": -0.2}, 5)
    made = compare(runs, tmp_path / "out")
    text = (runs / "comparison.toml").read_text()
    assert "declared = 1970-01-02" in text
    assert 'reference = "supcon"' in text
    assert "as declared on 1970-01-02" in made.sections[0].verdict.threats[-1]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "864000")
    again = compare(runs, tmp_path / "out", reference="excon", primary=("deletion.gain",))
    assert (runs / "comparison.toml").read_text() == text
    told = again.sections[0].verdict.threats[-1]
    assert "Not as declared on 1970-01-02: reference excon in place of supcon; primary columns deletion.gain" in told
    assert "Every test here is exploratory" in told
    assert {one["family"] for one in contrasts(again).values()} == {"exploratory"}


@pytest.mark.parametrize(
    "text", ["alpha = 2", "reference = [", "declared = 2020-01-01\nreference = 'a'\nprimary = ['b']\nx = 1"]
)
def test_a_damaged_declaration_is_refused(runs: Path, tmp_path: Path, text: str) -> None:
    study(runs, {"supcon": 0.0}, 1)
    (runs / "comparison.toml").write_text(text)
    with pytest.raises(UsageError, match=r"comparison\.toml cannot be read"):
        compare(runs, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_compared_all_the_same(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    study(runs, {"supcon": 0.0}, 1)
    monkeypatch.setattr("xeval.reports.declaration.atomic_write", refuse)
    assert "were not recorded" in compare(runs, tmp_path / "out").sections[0].verdict.threats[-1]
    assert len(collect(runs).runs) == 1
