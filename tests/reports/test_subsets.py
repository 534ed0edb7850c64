"""Which images count: all, those a checkpoint gets right, those that every compared checkpoint gets right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.reports.synthetic import scores, write_images, write_run
from xeval.errors import DataError
from xeval.reports.compare import Comparison, compare

KEY = "drop.mag@0.45"
#: Five images; supcon gets the last one wrong, excon the first: images 1, 2 and 3 remain.
RIGHT = {"supcon": (True, True, True, True, False), "excon": (False, True, True, True, True)}
DROPS = {"supcon": (0.9, 0.1, 0.2, 0.6, 0.9), "excon": (0.0, 0.3, float("nan"), 0.5, 0.0)}

pytestmark = pytest.mark.usefixtures("no_figures")


def study(root: Path, subset: str = "all", *, stores: tuple[str, ...] = ("supcon", "excon")) -> Path:
    for method, right in RIGHT.items():
        found = scores(method, 0, 0.4)
        found["dataset"].update(n=5, of=5, key="five")
        found["protocol"].update(subset=subset, primary=[KEY])
        known = [value for value in DROPS[method] if not math.isnan(value)]
        for cell in found["scores"]["grad-cam"].values():
            cell.update(mean=sum(known) / len(known), n=len(known))
        run = write_run(root, found)
        if method in stores:
            write_images(run, found, right, DROPS[method])
    return root


def drops(made: Comparison, table: str) -> dict[str, tuple[float | None, int | None, str]]:
    found = next(t for t in made.tables if t.slug == f"digits-{table}")
    place = next(i for i, heading in enumerate(found.headings) if heading.key.endswith(KEY))
    entries = {row.label: row.entries[place] for row in found.rows if not row.control}
    return {label: (e.mean, e.n, e.note) for label, e in entries.items()}


def test_the_images_that_all_get_right_are_a_table_of_their_own(runs: Path, tmp_path: Path) -> None:
    made = compare(study(runs), tmp_path / "out")
    found = drops(made, "correct-under-all")
    assert found["supcon"] == (pytest.approx((0.1 + 0.2 + 0.6) / 3), 3, "")
    assert found["excon"] == (pytest.approx((0.3 + 0.5) / 2), 2, "[2]")
    assert drops(made, "headline")["supcon"][0] == pytest.approx(0.54)
    assert "the 3 that" not in made.tables[0].caption


def test_a_protocol_can_count_only_those(runs: Path, tmp_path: Path) -> None:
    made = compare(study(runs, "correct-under-all"), tmp_path / "out")
    assert drops(made, "headline")["supcon"] == (pytest.approx(0.3), 3, "[3 images < 30]")
    assert drops(made, "all")["supcon"][0] == pytest.approx(0.54)
    assert "5 images, the 3 that every checkpoint classifies correctly" in made.tables[0].caption
    assert "(0.30" in made.verdict
    results = json.loads((made.out / "results.json").read_text())["sections"][0]
    assert results["methods"]["supcon"]["explainers"]["grad-cam"][KEY]["mean"] == pytest.approx(0.3)


def test_without_per_image_values_nobody_knows(runs: Path, tmp_path: Path) -> None:
    made = compare(study(runs, stores=("excon",)), tmp_path / "out")
    assert not [t for t in made.tables if t.slug == "digits-correct-under-all"]


def test_a_protocol_that_needs_them_is_refused_without(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="supcon-s0 has no per-image scores"):
        compare(study(runs, "correct-under-all", stores=("excon",)), tmp_path / "out")


def test_a_store_of_other_scores_is_refused(runs: Path, tmp_path: Path) -> None:
    folder = study(runs, "correct-under-all") / "digits-excon-s0"
    found = json.loads((folder / "scores.json").read_text())
    found["columns"][KEY]["definition"] = "newer"
    (folder / "scores.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match="does not hold"):
        compare(runs, tmp_path / "out")
