"""What scoring cost, on the page."""

from __future__ import annotations

from pathlib import Path

from tests.reports.synthetic import COST, scores, write_run
from xeval.reports.collect import collect
from xeval.reports.compare import Comparison
from xeval.reports.costs import costs


def _rows(root: Path) -> tuple[tuple[str, str, str, str], ...] | None:
    (group,) = collect(root).groups
    found = costs(group)
    return found.rows if found else None


def test_milliseconds_passes_and_memory_an_image(tmp_path: Path) -> None:
    write_run(tmp_path, scores("excon", 0, 0.2))
    assert _rows(tmp_path) == (
        ("grad-cam, maps of the clean images", "2", "1", "512 MB"),
        ("drop, on grad-cam", "15", "3", "1,024 MB"),
        ("infidelity, shared by all rows", "30", "64", "–"),
    )


def test_medians_over_runs_of_what_each_image_took(tmp_path: Path) -> None:
    """A run that was interrupted measured fewer images, in proportionally less time."""
    for seed, (factor, images) in enumerate(((1, 100), (5, 50), (3, 100))):
        explainers = {"grad-cam": {"seconds": 0.2 * factor, "passes": 100 * factor, "peak_bytes": factor * 2**20}}
        cost = {**COST, "images": images, "explainers": explainers, "metrics": {}}
        write_run(tmp_path, {**scores("excon", seed, 0.2), "cost": cost})
    assert _rows(tmp_path) == (("grad-cam, maps of the clean images", "6", "3", "3 MB"),)


def test_nothing_is_said_of_a_run_without_measurements(tmp_path: Path) -> None:
    write_run(tmp_path, {**scores("excon", 0, 0.2), "cost": {"seconds": 3.0, "passes": 7}})
    assert _rows(tmp_path) is None


def test_the_page_shows_them(study: Comparison) -> None:
    page = (study.out / "report.html").read_text()
    assert "What scoring cost, by explainer and metric" in page
    assert '<tr><th scope="row">drop, on grad-cam</th><td>15</td><td>3</td><td>1,024 MB</td></tr>' in page
