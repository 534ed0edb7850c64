"""‡: an explainer whose paired difference to a control is not shown to be on the better side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.reports.synthetic import score, scores, write_run, write_study, write_tables
from tests.reports.test_common import KEY, Table, cell, drawn
from xeval.reports.collect import Group, collect
from xeval.reports.compare import compare
from xeval.reports.standing import gap, standing
from xeval.reports.summary import column_measure

SKILL = "infidelity.skill"


def group_of(runs: Path, own: Table, key: str = KEY, **controls: Table) -> Group:
    tables = {("grad-cam", key): own} | {(name.replace("_", "-"), key): table for name, table in controls.items()}
    write_tables(runs, "supcon", tables)
    return collect(runs).groups[0]


def lost(group: Group, key: str = KEY, method: str = "supcon") -> tuple[str, ...]:
    return standing(group, group.methods[method], column_measure(group, key), "grad-cam").lost


def shifted(own: Table, by: float, spread: float) -> Table:
    """A control that is worse by ``by`` on average, and by a different amount in every run."""
    steps = np.linspace(-1, 1, len(own))
    return own + by + spread * (steps - steps.mean())[:, None]


@pytest.mark.parametrize(("spread", "marked"), [(0.005, False), (0.05, True)])
@pytest.mark.parametrize("key", [KEY, SKILL])
def test_a_better_mean_is_not_enough(runs: Path, key: str, spread: float, marked: bool) -> None:
    """Without a part of the images the interval is Student's over the checkpoints."""
    own = drawn(1, 0.4)
    better = -1 if key == SKILL else 1
    floor = shifted(own, better * 0.02, spread)
    low, high = stats.ttest_1samp((own - floor).mean(1), 0).confidence_interval()
    assert (low < 0 < high) == marked
    assert better * (own.mean() - floor.mean()) < 0  # the explainer has the better mean either way
    group = group_of(runs, own, key, random_cam=floor)
    found = gap(group.runs, column_measure(group, key), "grad-cam", "random-cam")
    assert found.interval == pytest.approx((low, high))
    assert lost(group, key) == (("random-cam",) if marked else ())


def test_random_must_be_beaten_too(runs: Path, tmp_path: Path, no_figures: None) -> None:
    own = drawn(1, 0.4)
    group = group_of(runs, own, random=own - 0.1, random_cam=own + 0.1, centre=own + 0.1)
    assert lost(group) == ("random",)
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    assert cell(made, "headline", "supcon", KEY).mark == "‡"
    words = "‡ not shown to be better than each of random, random-cam and centre on the same checkpoints (95 %"
    assert words in made.tables[0].caption
    assert f"supcon is not shown to be better than random on {KEY} (‡)." in made.verdict


def test_one_checkpoint_is_judged_over_its_images(runs: Path, tmp_path: Path, no_figures: None) -> None:
    own, floor = drawn(1, 0.400, seeds=1), drawn(2, 0.402, seeds=1)
    floor += 0.001 + own.mean() - floor.mean()
    low, high = stats.ttest_rel(own[0], floor[0]).confidence_interval()
    assert low < 0 < high
    assert lost(group_of(runs, own, centre=floor)) == ("centre",)
    assert "interval of the paired difference, over images only)" in compare(runs, tmp_path / "out").tables[0].caption


def test_two_checkpoints_have_no_interval_and_only_a_worse_mean_is_marked(runs: Path) -> None:
    own = drawn(1, 0.4, seeds=2)
    assert lost(group_of(runs, own, random=own + 0.001, centre=own - 0.001)) == ("centre",)


def test_too_few_images_earn_no_mark_and_say_so(runs: Path, tmp_path: Path, no_figures: None) -> None:
    own = drawn(1, 0.4, images=20)
    group = group_of(runs, own, random=own - 0.1)
    found = standing(group, group.runs, column_measure(group, KEY), "grad-cam")
    assert (found.lost, found.short) == ((), "20 images < 30")
    made = compare(runs, tmp_path / "out")
    entry = cell(made, "headline", "supcon", KEY)
    assert (entry.mark, entry.note) == ("", "[20 images < 30]")
    assert "too few common images, or events or non-events" in made.tables[0].caption


def test_only_common_images_are_held_against_a_control(runs: Path) -> None:
    """The explainer's map is empty on the images that the control is bad at: there is nothing to be better at."""
    own = drawn(1, 0.4)
    floor = own - 0.05
    floor[:, 60:], own[:, 60:] = 0.9, np.nan
    assert np.nanmean(own) < floor.mean()
    assert lost(group_of(runs, own, centre=floor)) == ("centre",)


@pytest.mark.parametrize(("key", "expected"), [(KEY, ("random", "random-cam", "centre")), ("complexity.entropy", ())])
def test_without_single_images_the_checkpoints_are_compared(runs: Path, key: str, expected: tuple[str, ...]) -> None:
    # random is planted at .60, random-cam at .62, centre at .64 on every checkpoint
    drops = {"ce": (0.2, 0.3, 0.4), "supcon": (0.2, 0.4, 0.9), "excon": (0.61, 0.62, 0.63)}
    group = collect(write_study(runs, drops, artifacts=False)).groups[0]
    assert stats.ttest_1samp(np.array(drops["ce"]) - 0.6, 0).confidence_interval().high < 0
    assert lost(group, key, "ce") == ()
    assert stats.ttest_1samp(np.array(drops["supcon"]) - 0.64, 0).confidence_interval().high > 0
    assert lost(group, key, "supcon") == expected
    assert stats.ttest_1samp(np.array(drops["excon"]) - 0.64, 0).confidence_interval().high > 0
    assert lost(group, key, "excon") == expected
    assert lost(group, "infidelity.raw", "supcon") == ()  # has no direction


def test_means_over_other_images_than_the_controls_are_not_judged(runs: Path) -> None:
    for seed in range(3):
        found = scores("ce", seed, 0.3)
        found["scores"]["grad-cam"][KEY] = score(0.3, 300)
        write_run(runs, found)
    group = collect(runs).groups[0]
    found = standing(group, group.runs, column_measure(group, KEY), "grad-cam")
    assert (found.lost, found.short) == ((), "undefined images unknown")
