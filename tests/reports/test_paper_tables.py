"""The papers' own layouts: batch sizes are rows or blocks, data sets are parts, and nothing is compared across them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reports.synthetic import column_of, scores, write_run, write_study
from xeval.reports.compare import Comparison, compare
from xeval.reports.tables import Table

pytestmark = pytest.mark.usefixtures("no_figures")
FEW = {"supcon": (0.3, 0.4), "excon": (0.1, 0.2)}


def batch(root: Path, size: int) -> None:
    """Say in every run card below ``root`` which batch size was trained with."""
    for path in root.rglob("run.json"):
        card = json.loads(path.read_text())
        path.write_text(json.dumps(card | {"recipe": {"batch_size": size}}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Digits at batch 128 and 256, and shapes at 64 with one method less; five seeds on digits at 128."""
    runs = tmp_path_factory.mktemp("runs")
    five = {"supcon": (0.30, 0.40, 0.50, 0.45, 0.35), "excon": (0.10, 0.12, 0.14, 0.16, 0.18)}
    write_study(runs / "large", FEW, artifacts=False, recipe="digits-large")
    write_study(runs / "small", five, artifacts=False)
    write_study(runs / "shapes", {"supcon": (0.5, 0.6)}, artifacts=False, dataset="shapes", recipe="shapes")
    for name, size in (("small", 128), ("large", 256), ("shapes", 64)):
        batch(runs / name, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xeval.reports.compare.figures", lambda *_: [])
        return compare(runs, runs.parent / "report")


def layout(made: Comparison, slug: str) -> Table:
    return next(table for table in made.layouts if table.slug == slug)


def test_accuracy_has_batch_sizes_as_rows_methods_as_columns_and_data_sets_as_parts(study: Comparison) -> None:
    table = layout(study, "excon-table1")
    assert [heading.label for heading in table.headings] == ["supcon", "excon"]
    assert [(row.group, row.label) for row in table.rows] == [
        ("(a) digits", "128"),
        ("(a) digits", "256"),
        ("(b) shapes", "64"),
    ]
    assert [[entry.mean_text for entry in row.entries] for row in table.rows] == [
        ["98.0"] * 2,
        ["98.0"] * 2,
        ["98.0", "–"],
    ]
    assert "Top-1 accuracy in % by batch size on (a) digits (test, 360 images) and (b) shapes" in table.caption


def test_infidelity_is_not_ranked(study: Comparison) -> None:
    table = layout(study, "excon-table2")
    assert [entry.mean for entry in table.rows[0].entries] == pytest.approx([1 - 0.4, 1 - 0.14])
    assert not any(entry.bold for row in table.rows for entry in row.entries)
    assert "Not ranked" in table.caption


def test_each_threshold_and_data_set_has_a_table_of_five_columns(study: Comparison) -> None:
    slugs = [table.slug for table in study.layouts if table.slug.startswith("excon-drop")]
    assert slugs == [f"excon-drop-{q}-{name}" for q in (15, 30, 45) for name in ("digits", "shapes")]
    table = layout(study, "excon-drop-45-digits")
    assert [heading.text for heading in table.headings] == [
        "drop rate ↓",
        "drop magnitude ↓",
        "increase rate ↑",
        "increase magnitude ↑",
    ]
    assert [(row.group, row.label) for row in table.rows] == [
        ("batch size 128", "supcon"),
        ("batch size 128", "excon"),
        ("batch size 256", "supcon"),
        ("batch size 256", "excon"),
    ]
    assert "45\u00a0% of the pixels kept" in table.title
    assert {row.group for row in layout(study, "excon-drop-45-shapes").rows} == {""}


def test_a_table_joins_groups_and_a_contrast_does_not(study: Comparison) -> None:
    """Five seeds are tested, two are not, though both stand in one table; no contrast names two groups."""
    small, large = (section for section in study.sections if section.group.dataset == "digits")
    if small.group.recipe != "digits":
        small, large = large, small
    for section, seeds in ((small, 5), (large, 2)):
        own = [one.estimate.seeds for one in section.analysis.contrasts.values() if one.estimate.seeds != (0, 0)]
        assert set(own) == {(seeds, seeds)}
    table = layout(study, "excon-drop-45-digits")
    marks = [(row.group, row.label, entry.mark) for row in table.rows for entry in row.entries if entry.mark]
    assert marks
    assert {place for place, *_ in marks} == {"batch size 128"}
    assert "batch size 128: Entries are mean ± std (n−1) over 5 seeds." in table.caption
    assert "batch size 256: Entries are mean ± std (n−1) over 2 seeds." in table.caption


def test_what_holds_of_every_group_is_said_once(runs: Path, tmp_path: Path) -> None:
    for name in ("digits", "shapes"):
        write_study(runs / name, FEW, artifacts=False, dataset=name, recipe=name)
    caption = layout(compare(runs, tmp_path / "out"), "excon-table1").caption
    assert caption.count("2 seeds") == 1
    assert "(a) digits:" not in caption


def test_one_data_set_needs_no_letters(runs: Path, tmp_path: Path) -> None:
    write_study(runs, FEW, artifacts=False)
    table = layout(compare(runs, tmp_path / "out"), "excon-table1")
    assert [(row.group, row.label) for row in table.rows] == [("", "recipe digits")]
    assert table.corner == "setting"


def test_the_facets_stand_under_what_they_ask(runs: Path, tmp_path: Path) -> None:
    for seed in range(2):
        found = scores("ce", seed, 0.3 + seed / 10)
        for key in ("pixelflip.auc", "contrast.other"):
            found["columns"][key] = column_of(key, "lower", "faithfulness")
            for cells in found["scores"].values():
                cells[key] = cells["deletion.auc"]
        write_run(runs, found)
    table = layout(compare(runs, tmp_path / "out"), "clxai-table")
    assert [(heading.group, heading.text) for heading in table.headings] == [
        ("", "accuracy ↑"),
        ("Faithfulness", "pixel flipping ↓"),
        ("Complexity", "entropy ↓"),
        ("Complexity", "Gini ↑"),
        ("Continuity", "SSIM ↑"),
        ("Contrastivity", "SSIM ↓"),
    ]


def test_runs_without_a_recipe_do_not_pool_two_architectures(runs: Path, tmp_path: Path) -> None:
    for number, (arch, seed) in enumerate([("resnet18", 0), ("resnet18", 1), ("vit", 0), ("vit", 1)]):
        found = scores("ce", seed, 0.2 + number / 10)
        found["checkpoint"] |= {"recipe": None, "arch": arch, "sha256": f"{number:064d}"}
        write_run(runs, found, folder=f"{arch}-{seed}")
    made = compare(runs, tmp_path / "out")
    assert [section.group.arch for section in made.sections] == ["resnet18", "vit"]
    assert [row.label for row in layout(made, "excon-table1").rows] == ["resnet18", "vit"]
    drops = layout(made, "excon-drop-45")
    assert [(row.group, row.entries[1].mean) for row in drops.rows] == [
        ("resnet18", pytest.approx(0.25)),
        ("vit", pytest.approx(0.45)),
    ]


def test_a_mask_without_a_threshold_has_its_name(runs: Path, tmp_path: Path) -> None:
    found = scores("supcon", 0, 0.3)
    for key in [key for key in found["columns"] if "@" in key]:
        about = found["columns"].pop(key)
        cells = [columns.pop(key) for columns in found["scores"].values()]
        if key.endswith("@0.45"):
            name = key.replace("0.45", "soft")
            found["columns"][name] = about
            for columns, cell in zip(found["scores"].values(), cells, strict=True):
                columns[name] = cell
    found["protocol"]["primary"] = ["drop.mag@soft"]
    write_run(runs, found)
    made = compare(runs, tmp_path / "out")
    table = next(t for t in made.tables if t.slug == "digits-drop-increase")
    assert {heading.group for heading in table.headings} == {"soft mask"}
    assert "drop.mag@soft" in [heading.key for heading in made.tables[0].headings]
    assert layout(made, "excon-drop-soft").title == "Drop and increase of confidence, soft mask"
