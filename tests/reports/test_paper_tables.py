"""The papers' own layouts: every data set a block, every threshold a group of columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reports.synthetic import scores, write_run, write_study
from xeval.reports.compare import compare

pytestmark = pytest.mark.usefixtures("no_figures")


def test_the_excon_layout_spans_data_sets(runs: Path, tmp_path: Path) -> None:
    write_study(runs / "a", {"supcon": (0.3, 0.4), "excon": (0.1, 0.2)}, artifacts=False)
    write_study(runs / "b", {"supcon": (0.5, 0.6)}, artifacts=False, dataset="shapes", recipe="shapes")
    table = next(t for t in compare(runs, tmp_path / "out").layouts if t.slug == "excon-layout")
    assert [(row.group.split()[0], row.label) for row in table.rows] == [
        ("digits", "supcon"),
        ("digits", "excon"),
        ("shapes", "supcon"),
    ]
    keys = [heading.key for heading in table.headings]
    assert keys[:5] == [
        "model.accuracy",
        *(f"{name}@0.15" for name in ("drop.rate", "drop.mag", "increase.rate", "increase.mag")),
    ]
    assert keys[13:] == ["infidelity.beta", "infidelity.skill", "stability.val_accuracy", "stability.val_loss"]
    drop = keys.index("drop.mag@0.45")
    assert [row.entries[drop].mean_text for row in table.rows] == ["0.350", "0.150", "0.550"]
    assert [row.entries[drop].bold for row in table.rows] == [False, True, False]


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
