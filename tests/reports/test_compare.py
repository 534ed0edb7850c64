from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.reports.synthetic import scores, write_run, write_study
from xeval.errors import DataError, ResourceError, UsageError
from xeval.reports.compare import Comparison, compare

TABLES = [
    "headline",
    "differences",
    "intervals",
    "drop-increase",
    "faithfulness",
    "complexity-continuity",
    "gain-over-random",
    "gain-over-random-cam",
    "diagnostics",
    "correct-only",
    "controls",
    "models",
]
LAYOUTS = ["excon-table1", "excon-table2", "excon-drop-15", "excon-drop-30", "excon-drop-45"]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def row(comparison: Comparison, name: str, label: str) -> dict[str, object]:
    table = next(t for t in comparison.tables if t.slug == f"digits-{name}")
    found = next(r for r in table.rows if r.label == label)
    return {h.key: e for h, e in zip(table.headings, found.entries, strict=True)}


def test_writes_every_format_and_says_so(study: Comparison) -> None:
    files = tree(study.out)
    assert sorted(files) == sorted(study.files)
    assert {"report.html", "results.json"} <= set(files)
    assert [t.slug for t in study.tables] == [*(f"digits-{name}" for name in TABLES), *LAYOUTS]
    for name in TABLES:
        assert {f"tables/digits-{name}.{suffix}" for suffix in ("md", "csv", "tex")} <= set(files)


def test_planted_values_reach_the_headline(study: Comparison) -> None:
    excon = row(study, "headline", "excon")
    drop, gain = excon["drop.mag@0.45"], excon["gain[random-cam].drop.mag@0.45"]
    assert (drop.mean_text, drop.std_text, drop.bold) == ("0.120", "0.020", True)  # type: ignore[attr-defined]
    assert (gain.mean_text, gain.bold) == ("0.500", True)  # type: ignore[attr-defined]
    assert not any(e.bold for e in row(study, "headline", "supcon").values())  # type: ignore[attr-defined]


def test_controls_stand_last_unranked_and_on_the_reference(study: Comparison) -> None:
    for table in study.tables:
        grey = [r.control for r in table.rows if not r.group]
        assert grey == sorted(grey)
        assert not any(e.bold or e.mark for r in table.rows if r.control for e in r.entries)
    headline = study.tables[0]
    assert headline.controls_on == "controls on supcon"
    assert {r.label for r in headline.rows if r.control} == {
        "random",
        "random-cam",
        "centre",
        "edge",
        "constant",
        "inverse",
    }


def test_captions_say_why_there_are_no_marks(study: Comparison) -> None:
    assert "mean ± std (n−1) over 3 seeds" in study.tables[0].caption
    assert "fewer than 5 seeds, so no test and no claim" in study.tables[0].caption


def test_results_keep_full_precision_and_every_seed(study: Comparison) -> None:
    section = study.results["sections"][0]
    found = section["methods"]["supcon"]["explainers"]["grad-cam"]["drop.mag@0.45"]
    assert found["values"] == [0.3, 0.4, 0.5]
    assert found["mean"] == pytest.approx(0.4)
    assert found["std"] == pytest.approx(0.1)
    gain = section["methods"]["supcon"]["explainers"]["grad-cam"]["gain[random-cam].drop.mag@0.45"]
    assert gain["mean"] == pytest.approx(0.22)
    assert section["ordering"] == "holds"
    assert study.results == json.loads((study.out / "results.json").read_text())


def test_terminal_table_fits(study: Comparison) -> None:
    assert max(map(len, study.terminal_table.splitlines())) <= 100
    assert "0.120±0.020*" in study.terminal_table


@pytest.mark.usefixtures("no_figures")
def test_fewer_images_are_printed_beside_the_number(runs: Path, tmp_path: Path) -> None:
    found = scores("ce", 0, 0.3)
    found["scores"]["grad-cam"]["ssim.value"] |= {"n": 350, "undefined": {"two empty maps": 10}}
    write_run(runs, found)
    made = compare(runs, tmp_path / "out")
    assert row(made, "headline", "ce")["ssim.value"].note == "[350]"  # type: ignore[attr-defined]
    assert "[350]" in made.terminal_table
    assert "two empty maps" in made.page.read_text()


@pytest.mark.fault("R8")
def test_two_builds_are_equal_byte_for_byte(study: Comparison, tmp_path: Path) -> None:
    again = compare(study.out.parent / "runs", tmp_path / "again")
    assert tree(again.out) == tree(study.out)


@pytest.mark.fault("R5")
def test_a_second_report_replaces_the_first_and_leaves_foreign_files_alone(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(runs / "one", scores("ce", 0, 0.3))
    write_run(runs / "two", scores("ce", 0, 0.3, dataset="shapes", recipe="shapes"))
    compare(runs / "one", out)
    (out / "figures" / "mine.pdf").write_text("mine")
    compare(runs / "two", out)
    names = tree(out)
    assert "figures/mine.pdf" in names
    assert not any("digits" in name for name in names)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.usefixtures("no_figures")
def test_a_forged_file_list_cannot_delete_other_files(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious.md").write_text("x")
    forged = {"schema": "xeval.comparison/1", "files": ["../precious.md", "tables/../../precious.md", 7]}
    (out / "results.json").write_text(json.dumps(forged))
    write_run(runs, scores("ce", 0, 0.3))
    compare(runs, out)
    assert (tmp_path / "precious.md").exists()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.fault("R5")
def test_a_failure_leaves_the_old_report_untouched(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(runs, scores("ce", 0, 0.3))
    before = tree(compare(runs, tmp_path / "out").out)
    write_run(runs, scores("ce", 1, 0.4))

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ResourceError, match=r"No space left on device; it needs 0\.\d MiB"):
        compare(runs, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.usefixtures("no_figures")
def test_sections_for_several_data_sets_and_recipes(runs: Path, tmp_path: Path) -> None:
    write_study(runs / "a", {"supcon": (0.3, 0.4), "excon": (0.1, 0.2)}, artifacts=False)
    write_study(runs / "b", {"ce": (0.3,)}, artifacts=False, dataset="shapes", recipe="shapes-long")
    made = compare(runs, tmp_path / "out")
    assert [s.slug for s in made.sections] == ["digits", "shapes-shapes-long"]
    assert [s.reference for s in made.sections] == ["supcon", "ce"]
    assert "tables/shapes-shapes-long-headline.tex" in made.files
    assert len(made.verdict.split("\n\n")) == 2


@pytest.mark.usefixtures("no_figures")
def test_rows_of_explainers(runs: Path, tmp_path: Path) -> None:
    found = scores("ce", 0, 0.3)
    found["explainers"] |= {"eigen-cam": {"control": False}}
    found["scores"]["eigen-cam"] = scores("ce", 0, 0.2)["scores"]["grad-cam"]
    write_run(runs, found)
    headline = compare(runs, tmp_path / "out", rows="explainers").tables[0]
    assert [(r.label, r.group, r.control) for r in headline.rows[:3]] == [
        ("grad-cam", "ce", False), ("eigen-cam", "ce", False), ("random", "ce", True),
    ]  # fmt: skip
    drop = [h.key for h in headline.headings].index("drop.mag@0.45")
    assert [r.entries[drop].bold for r in headline.rows[:2]] == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "cee"}, "unknown reference method 'cee'.*'ce'"),
        ({"primary": ("drop.mag@0.5",)}, "unknown column"),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_names_that_nobody_has_are_refused(
    runs: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    write_run(runs, scores("ce", 0, 0.3))
    with pytest.raises(UsageError, match=message):
        compare(runs, tmp_path / "out", **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.fault("R5")
def test_an_output_that_is_a_file_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        compare(runs, tmp_path / "out")


@pytest.mark.usefixtures("no_figures")
def test_nothing_is_written_when_the_runs_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        compare(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_figures")
def test_runs_without_controls_or_primary_columns_still_compare(runs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        found = scores("ce", seed, 0.3)
        found["explainers"] = {"grad-cam": {"control": False}}
        found["columns"] = {"ssim.value": found["columns"]["ssim.value"]}
        found["scores"] = {"grad-cam": {"ssim.value": found["scores"]["grad-cam"]["ssim.value"]}}
        write_run(runs, found)
    made = compare(runs, tmp_path / "out")
    assert [t.slug for t in made.tables] == [
        *(f"digits-{name}" for name in ("headline", "complexity-continuity", "models")),
        "excon-table1",
    ]


@pytest.mark.usefixtures("no_figures")
def test_controls_alone_are_shown_and_not_ranked(runs: Path, tmp_path: Path) -> None:
    found = scores("ce", 0, 0.3)
    found["explainers"].pop("grad-cam")
    found["scores"].pop("grad-cam")
    write_run(runs, found)
    made = compare(runs, tmp_path / "out")
    assert "only control explainers were scored" in made.verdict
    assert all(row.control for row in made.tables[0].rows)


@pytest.mark.fault("P8")
@pytest.mark.parametrize("change", [{"se": -0.1}, {"n": -1}, {"n_correct": -3}])
def test_impossible_counts_are_refused(runs: Path, change: dict[str, float]) -> None:
    found = scores("ce", 0, 0.3)
    found["scores"]["grad-cam"]["ssim.value"].update(change)
    write_run(runs, found)
    with pytest.raises(DataError, match=r"scores\.json cannot be read"):
        compare(runs, runs / "out")
