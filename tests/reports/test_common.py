"""One contrast, one image set: every number of it is over the images that are defined in every run of both rows."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.reports.synthetic import Tables, scores, write_run, write_tables
from tests.reports.test_contrasts import contrasts
from tests.statistics.samples import residual_mean_square
from xeval.reports.compare import Comparison, compare
from xeval.reports.single import table
from xeval.reports.tables import Entry

KEY, RATE = "drop.mag@0.45", "drop.rate@0.45"
CAM = ("grad-cam", KEY)
Table = NDArray[np.float64]

pytestmark = pytest.mark.usefixtures("no_figures")


def drawn(seed: int, mean: float, *, seeds: int = 5, images: int = 100, spread: float = 0.01) -> Table:
    """Seeds × images around ``mean``."""
    rng = np.random.default_rng(seed)
    return mean + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.02, (seeds, images))


def holed(table: Table, row: int, images: slice, before: float = math.nan) -> Table:
    """The table with NaN on the images of one row; ``before`` is what the other rows hold there."""
    found = table.copy()
    if not math.isnan(before):
        found[:, images] = before
    found[row, images] = np.nan
    return found


def study(runs: Path, methods: dict[str, Tables]) -> None:
    for method, tables in methods.items():
        write_tables(runs, method, tables)


def cell(made: Comparison, table: str, row: str, column: str) -> Entry:
    shown = next(t for t in made.tables if t.slug == f"digits-{table}")
    place = [heading.key for heading in shown.headings].index(column)
    return next(one for one in shown.rows if one.label == row).entries[place]


def caption(made: Comparison, table: str) -> str:
    return next(t.caption for t in made.tables if t.slug == f"digits-{table}")


def by_hand(a: Table, b: Table) -> dict[str, float]:
    """Everything that a contrast says, from lists of the common images, one number at a time."""
    x, y = a.tolist(), b.tolist()
    images = [i for i in range(len(x[0])) if not any(math.isnan(row[i]) for row in (*x, *y))]
    x, y = ([[row[i] for i in images] for row in side] for side in (x, y))
    first, second = [fmean(row) for row in x], [fmean(row) for row in y]
    across = [fmean(row[i] for row in x) - fmean(row[i] for row in y) for i in range(len(images))]
    noise = residual_mean_square(x) / len(x) + residual_mean_square(y) / len(y)
    parts = [(variance(first) / len(x), len(x) - 1), (variance(second) / len(y), len(y) - 1)]
    parts.append((max(0.0, variance(across) - noise) / len(images), len(images) - 1))
    v = sum(part for part, _ in parts)
    df = v * v / sum(part * part / nu for part, nu in parts)
    gap = fmean(first) - fmean(second)
    pooled = math.sqrt((variance(first) + variance(second)) / 2)  # equally many seeds
    nu = len(x) + len(y) - 2
    correction = math.gamma(nu / 2) / (math.sqrt(nu / 2) * math.gamma((nu - 1) / 2))
    wins = sum((p < q) + (p == q) / 2 for p in first for q in second)  # lower is better
    return {
        "n": len(images),
        "row_mean": fmean(first),
        "reference_mean": fmean(second),
        "difference": gap,
        "p": float(2 * stats.t.sf(abs(gap) / math.sqrt(v), df)),
        "hedges_g": correction * gap / pooled,
        "a12": wins / len(first) / len(second),
        "p_permutation": relabelled(first, second),
        "images_better": sum(gap < 0 for gap in across) / len(images),
    }


def relabelled(a: list[float], b: list[float]) -> float:
    """Twice the smaller tail of Welch's t over every way to call some seeds the first method's."""
    pool = a + b

    def t(chosen: tuple[int, ...]) -> float:
        x = [pool[i] for i in chosen]
        y = [pool[i] for i in range(len(pool)) if i not in chosen]
        return round((fmean(x) - fmean(y)) / math.sqrt(stdev(x) ** 2 / len(x) + stdev(y) ** 2 / len(y)), 8)

    found = [t(chosen) for chosen in itertools.combinations(range(len(pool)), len(a))]
    return min(1.0, 2 * min(sum(one >= found[0] for one in found), sum(one <= found[0] for one in found)) / len(found))


def test_every_number_of_a_contrast_is_over_the_same_images(runs: Path, tmp_path: Path) -> None:
    """Seed 0 of excon has no value on 60 images on which the others are far worse: its own mean is no fair one."""
    excon = holed(drawn(1, 0.40), 0, slice(40, 100), before=0.9)
    supcon = holed(drawn(2, 0.42), 3, slice(0, 5))
    study(runs, {"supcon": {CAM: supcon}, "excon": {CAM: excon}})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    one, hand = contrasts(made)["excon", KEY], by_hand(excon, supcon)
    assert hand["n"] == 35
    assert {key: one[key] for key in hand} == {key: pytest.approx(value, rel=1e-5) for key, value in hand.items()}
    assert one["n_of_rows"] == 100
    assert 1 > one["p_permutation"] > 0.0079
    delta = cell(made, "differences", "excon", f"delta.{KEY}")
    means = f"{hand['row_mean']:.{delta.decimals}f}, {hand['reference_mean']:.{delta.decimals}f}"
    assert delta.note == f"[35 compared: {means}]"
    assert cell(made, "headline", "excon", KEY).note == "[40][35 compared]"
    assert cell(made, "headline", "excon", KEY).mean == pytest.approx(np.nanmean(np.nanmean(excon, axis=1)))
    interval = cell(made, "intervals", "excon", KEY)
    assert (interval.note, interval.mean) == ("[40]", pytest.approx(fmean(excon[:, :40].ravel())))
    assert "[n] = images that are defined in every run of the method" in caption(made, "intervals")
    changed = f"the estimand has changed to the commonly defined images for excon on {KEY} (35 of 100)"
    assert changed in caption(made, "headline")
    assert changed in caption(made, "differences")
    assert "[n compared] = " in caption(made, "differences")
    assert (
        "[n compared] = images that are defined in every run of the row and of its reference" in made.tables[0].caption
    )


def test_where_every_image_is_defined_nothing_is_said_of_them(runs: Path, tmp_path: Path) -> None:
    study(runs, {"supcon": {CAM: drawn(2, 0.42)}, "excon": {CAM: drawn(1, 0.40)}})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    assert cell(made, "differences", "excon", f"delta.{KEY}").note == ""
    assert cell(made, "headline", "excon", KEY).note == ""
    assert "compared]" not in made.tables[0].caption
    assert "estimand" not in caption(made, "differences")


def test_more_than_half_of_the_images_is_the_same_question(runs: Path, tmp_path: Path) -> None:
    study(runs, {"supcon": {CAM: drawn(2, 0.42)}, "excon": {CAM: holed(drawn(1, 0.40), 0, slice(50, 100))}})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    assert cell(made, "headline", "excon", KEY).note == "[50][50 compared]"
    assert "estimand" not in made.tables[0].caption


def test_three_common_images_make_no_p_no_mark_and_no_bold(runs: Path, tmp_path: Path) -> None:
    excon, supcon = holed(drawn(1, 0.2), 0, slice(3, 50)), holed(drawn(2, 0.4), 1, slice(50, 100))
    study(runs, {"supcon": {CAM: supcon}, "ce": {CAM: drawn(3, 0.4)}, "excon": {CAM: excon}})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    one = contrasts(made)["excon", KEY]
    assert (one["n"], one["p"], one["p_adjusted"], one["p_permutation"]) == (3, None, None, None)
    assert one["too_few"] == one["note"] == "3 images < 30"
    assert one["interval"] is not None
    p = cell(made, "differences", "excon", f"p.{KEY}")
    assert (p.text, p.note) == ("–", "[3 images < 30]")
    headline = cell(made, "headline", "excon", KEY)
    assert (headline.mark, headline.note) == ("", "[53][3 images < 30]")
    assert headline.bold  # the best mean, as the caption says and no more
    assert "bold marks the best mean (3 images < 30)" in made.tables[0].caption
    assert "those not significantly worse" not in made.tables[0].caption
    assert f"Not tested for want of images or events: excon on {KEY} (3 images < 30)." in made.verdict
    assert contrasts(made)["ce", KEY]["p"] is not None
    assert "None of the 1 declared differences that are tested is significant" in made.verdict
    assert "a difference of 2.3 standard deviations" in made.verdict  # Holm counts both: α / 2
    assert "identical" not in cell(made, "headline", "excon", "model.accuracy").note
    assert cell(made, "headline", "excon", "model.accuracy").note == ""  # every run is right everywhere
    assert "[3 images &lt; 30]" in made.page.read_text()


@pytest.mark.parametrize(("events", "reason"), [(4, "4 events < 5"), (5, "")])
def test_an_indicator_needs_five_events(runs: Path, tmp_path: Path, events: int, reason: str) -> None:
    rates = {"supcon": np.zeros((5, 100)), "excon": np.zeros((5, 100))}
    for row, image in itertools.product(range(5), range(events)):
        rates["supcon"][row, image] = (row + image) % 4 > 0
    study(runs, {method: {("grad-cam", RATE): table} for method, table in rates.items()})
    one = contrasts(compare(runs, tmp_path / "out", primary=(RATE,)))["excon", RATE]
    assert (one["p"] is None, one["too_few"]) == (bool(reason), reason)


def test_bold_and_caption_are_chosen_column_by_column(runs: Path, tmp_path: Path) -> None:
    other = ("grad-cam", RATE)
    rates = {name: (drawn(seed, 0.5) > 0.5).astype(float) for seed, name in enumerate(("supcon", "ce", "excon"))}
    rates["ce"] = holed(rates["ce"], 2, slice(20, 100))
    means = {"supcon": 0.4, "ce": 0.401, "excon": 0.2}
    study(
        runs,
        {name: {CAM: drawn(seed, means[name]), other: rates[name]} for seed, name in enumerate(rates)},
    )
    made = compare(runs, tmp_path / "out", primary=(KEY, RATE))
    assert "Bold marks the best mean and those not significantly worse (Holm, α = 0.05)" in made.tables[0].caption
    assert "On drop rate 45\u00a0% bold marks the best mean (20 images < 30)" in made.tables[0].caption
    best = min(rates, key=lambda name: float(np.nanmean(np.nanmean(rates[name], axis=1))))
    assert [cell(made, "headline", name, RATE).bold for name in rates] == [name == best for name in rates]
    assert [cell(made, "headline", name, KEY).bold for name in rates] == [False, False, True]
    stratum = next(t for t in made.tables if t.slug == "digits-correct-under-all")  # compared by nobody
    assert "Bold marks the best mean (untested)" in stratum.caption
    assert "significantly" not in stratum.caption


def test_a_row_that_is_better_on_the_common_images_is_not_worse(runs: Path, tmp_path: Path) -> None:
    """ce has the best mean because its hard images are undefined in one run; on the others excon is better."""
    ce, excon = drawn(1, 0.30), drawn(2, 0.20)
    excon[:, 60:] = 0.9
    ce[:, 60:] = np.nan
    study(runs, {"supcon": {CAM: drawn(3, 0.7)}, "ce": {CAM: ce}, "excon": {CAM: excon}})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    assert float(np.nanmean(ce)) < float(excon.mean())
    assert [cell(made, "headline", name, KEY).bold for name in ("supcon", "ce", "excon")] == [False, True, True]


def test_one_seed_says_nothing_of_seeds(runs: Path, tmp_path: Path) -> None:
    tables = {name: drawn(seed, 0.4 - 0.1 * seed, seeds=1) for seed, name in enumerate(("supcon", "excon"))}
    study(runs, {name: {CAM: table} for name, table in tables.items()})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    shown = next(t for t in made.tables if t.slug == "digits-differences")
    names = [heading.key.partition(".")[0] for heading in shown.headings]
    assert shown.headings[0].label == "Δ [95 %, images only]"
    entries = dict(zip(names, shown.rows[0].entries, strict=True))
    assert [entries[name].mean_text for name in ("p", "a12", "seeds")] == ["–", "–", "–"]
    direct = stats.ttest_rel(tables["excon"][0], tables["supcon"][0]).confidence_interval()
    assert entries["delta"].interval == pytest.approx(tuple(direct))
    one = contrasts(made)["excon", KEY]
    assert (one["a12"], one["share_of_seeds"], one["hedges_g"]) == (None, None, None)
    page = made.page.read_text()
    assert '<p class="badge untested">expected ordering: not tested: one seed</p>' in page
    assert "for every seed" not in made.verdict


def test_a_permutation_check_that_was_left_out_is_a_threat(runs: Path, tmp_path: Path) -> None:
    wide, narrow = drawn(1, 0.4, spread=0.0001), drawn(2, 0.2, spread=0.05)
    assert np.std(narrow.mean(1), ddof=1) > 3 * np.std(wide.mean(1), ddof=1)
    study(runs, {"supcon": {CAM: wide}, "excon": {CAM: narrow}})
    made = compare(runs, tmp_path / "out", primary=(KEY,))
    told = f"{KEY}: the permutation check is left out for excon (one standard deviation exceeds 3 times the other)."
    assert told in made.sections[0].verdict.threats


def test_the_ordering_is_judged_on_the_images_that_both_runs_have(runs: Path, tmp_path: Path) -> None:
    """excon is worse on every image, and better only where it has no value."""
    supcon, excon = drawn(2, 0.4), drawn(1, 0.6)
    supcon[:, 40:], excon[:, 40:] = 0.95, np.nan
    assert (np.nanmean(excon, axis=1) < supcon.mean(1)).all()
    study(runs, {"supcon": {CAM: supcon}, "excon": {CAM: excon}})
    assert compare(runs, tmp_path / "out", primary=(KEY,)).sections[0].verdict.ordering == "fails"


def test_means_over_unknown_images_are_not_tested(runs: Path, tmp_path: Path) -> None:
    """Without single images, 90 of 100 in one run and 100 in the others may be other images."""
    study(runs, {"supcon": {CAM: drawn(2, 0.42)}, "excon": {CAM: holed(drawn(1, 0.2), 0, slice(90, 100))}})
    (runs / "digits-excon-s0" / "scores.sqlite").unlink()
    one = contrasts(compare(runs, tmp_path / "out", primary=(KEY,)))["excon", KEY]
    assert (one["p"], one["too_few"]) == (None, "undefined images unknown")
    assert one["interval"] is not None


def test_two_data_sets_in_one_table_explain_their_own_marks(runs: Path) -> None:
    study(runs, {"supcon": {CAM: drawn(2, 0.42)}, "excon": {CAM: drawn(1, 0.2)}})
    for seed in range(2):
        found: dict[str, Any] = scores("ce", seed, 0.3 + seed / 10, dataset="shapes", recipe="shapes")
        write_run(runs, found)
    text = table(runs, "md", primary=(KEY,), style={"columns": (KEY,)})
    digits, shapes = text.split("(b) shapes: ", 1)
    assert "† differs from SupCon" in digits
    assert "not significantly worse" in digits
    assert "over 5 seeds" in digits
    assert "over 2 seeds" in shapes
    assert "differs" not in shapes
