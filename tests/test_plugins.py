"""A package of somebody else's adds a metric and an explainer through entry points."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT, xeval
from tests.runs import make_run

METRIC = '''
from xeval.metrics.base import METRICS, Column, Metric, Settings, Values, nothing


class NoSettings(Settings):
    """No parameters."""


def score(explained, settings, shared):
    share = explained.positive.flatten(1).gt(explained.positive.flatten(1).mean(1, keepdim=True)).double().mean(1)
    return {"spread.share": Values(share)}


METRICS.add("spread", Metric(
    name="spread", family="complexity", settings=NoSettings, score=score, prepare=nothing,
    columns=lambda s: (Column("spread.share", "share of pixels above the mean", None, 0, 1),),
    convention=lambda s: "spread: share of pixels above the mean of the ReLU", citation="a test",
), __file__)
'''
EXPLAINER = '''
from xeval.explainers.base import explainer


@explainer("brightness", units="location", citation="a test")
def brightness(model, layer, images, targets):
    """The image itself."""
    return images.mean(1, keepdim=True)
'''
POINTS = "[xeval.metrics]\nspread = plugged_metric\n\n[xeval.explainers]\nbrightness = plugged_explainer\n"


@pytest.fixture
def installed(tmp_path):
    """A folder on the path, laid out as an installed distribution."""
    site = tmp_path / "site"
    about = site / "plugged-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    (site / "plugged_metric.py").write_text(METRIC)
    (site / "plugged_explainer.py").write_text(EXPLAINER)
    return os.pathsep.join([str(ROOT), str(site)])


def test_a_plugged_metric_and_explainer_are_everywhere(installed, tmp_path):
    assert "spread.share" in xeval("list", "metrics", cwd=tmp_path, PYTHONPATH=installed).stdout
    assert "brightness" in xeval("list", "explainers", cwd=tmp_path, PYTHONPATH=installed).stdout
    run, _ = make_run(tmp_path / "runs" / "digits-excon-s0")
    options = ["--explainers", "brightness,random", "--metrics", "spread,drop", "--limit", "20"]
    shown = xeval("score", str(run), *options, cwd=tmp_path, PYTHONPATH=installed).stdout
    assert "spread.share" in shown
    assert "brightness" in shown
    assert "share of pixels above the mean of the ReLU" in shown
    xeval("compare", "runs", cwd=tmp_path)
    assert any("spread" in path.read_text() for path in (tmp_path / "runs" / "report" / "tables").glob("*.md"))


def test_the_generic_tests_pick_it_up(installed):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/metrics/test_metrics.py",
        "-k",
        "spread",
    ]
    environment = {**os.environ, "PYTHONPATH": installed, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert int(run.stdout.split(" passed")[0].split()[-1]) >= 10
