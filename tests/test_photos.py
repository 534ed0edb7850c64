"""The chain on real photographs: ``make photos``."""

import json
import math

import pytest

from tests.commands import xeval

pytestmark = [pytest.mark.photos, pytest.mark.slow]


def test_two_methods_two_epochs_at_32_px(photos, tmp_path):
    """Train, score, compare: finite scores, accuracy above chance, and the files."""
    for method in ("supcon", "excon"):
        options = ["--set", "epochs=2", "--set", "excon.explain_from_epoch=0"]
        xeval("train", "photos", "--method", method, "--data", str(photos), *options, cwd=tmp_path, OMP_NUM_THREADS="2")
        run = f"runs/tiny-imagenet-{method}-photos-epochs2-excon.explain_from_epoch0-s0"
        xeval("score", run, "--data", str(photos), "--limit", "100", cwd=tmp_path, OMP_NUM_THREADS="2")
        summary = json.loads((tmp_path / run / "scores.json").read_text())
        assert summary["model"]["accuracy"] > 2 / 20  # twice chance
        assert summary["dataset"]["n"] == 100
        for explainer, columns in summary["scores"].items():
            for name, found in columns.items():
                assert not found["errors"], (explainer, name)
                assert found["n"] == 0 or math.isfinite(found["mean"]), (explainer, name)
    shown = xeval("compare", "runs", cwd=tmp_path).stdout
    assert "drop" in shown
    report = tmp_path / "runs" / "report"
    for expected in ("report.html", "results.json", "tables", "figures"):
        assert (report / expected).exists()
    assert "http://" not in (report / "report.html").read_text().replace("http://www.w3.org", "")
