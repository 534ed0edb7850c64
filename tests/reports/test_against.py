"""``--against``: what changed since an earlier comparison is marked, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reports.synthetic import scores, write_run, write_study
from xeval.errors import DataError
from xeval.reports.compare import Comparison, compare

KEY = "drop.mag@0.45"

pytestmark = pytest.mark.usefixtures("no_figures")


def marks(made: Comparison) -> dict[tuple[str, str, str], str]:
    """(table, row, column) → the earlier mean as printed."""
    return {
        (table.slug, row.label, heading.key): entry.was
        for table in made.tables
        for row in table.rows
        for heading, entry in zip(table.headings, row.entries, strict=True)
        if entry.was
    }


def test_a_changed_mean_is_marked_wherever_it_is_printed(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4)}, artifacts=False)
    write_run(runs, scores("excon", 0, 0.2))
    old = compare(runs, tmp_path / "old").out / "results.json"
    path = runs / "digits-excon-s0" / "scores.json"
    found = json.loads(path.read_text())
    found["scores"]["grad-cam"][KEY]["mean"] = 0.1
    found["model"]["accuracy"] = 0.5
    path.write_text(json.dumps(found))
    made = compare(runs, tmp_path / "new", against=old)
    known = marks(made)
    assert known["digits-headline", "excon", KEY] == "0.200"
    assert known["digits-drop-increase", "excon", KEY] == "0.200"
    assert known["digits-headline", "excon", "model.accuracy"].startswith("0.98")
    assert {row for slug, row, _ in known if slug != "excon-table1"} == {"excon"}
    assert {key for slug, _, key in known if slug == "excon-table1"} == {"method.excon"}  # where methods are columns
    assert "[was x] = the mean of the earlier comparison" in made.tables[0].caption
    assert "[was 0.200]" in made.page.read_text()
    assert "[was 0.200]" in (made.out / "tables/digits-headline.tex").read_text()


def test_the_same_runs_have_no_marks(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4), "excon": (0.1, 0.2)}, artifacts=False)
    old = compare(runs, tmp_path / "old").out / "results.json"
    assert marks(compare(runs, tmp_path / "new", against=old)) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "xeval.comparison/1", "sections": [{}]}', '{"schema": "other"}']
)
def test_anything_else_is_refused(runs: Path, tmp_path: Path, text: str) -> None:
    write_study(runs, {"supcon": (0.3,)}, artifacts=False)
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(DataError, match=r"old\.json"):
        compare(runs, tmp_path / "out", against=tmp_path / "old.json")
    assert not (tmp_path / "out").exists()
