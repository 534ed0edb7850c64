"""A package of somebody else's adds a metric and more through entry points: the one that docs/extending.md prints."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.commands import ROOT, xeval
from tests.runs import make_run

PAGE = (ROOT / "docs" / "extending.md").read_text()
MODULES = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
PYPROJECT = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[-1])


def entry_points() -> str:
    """What an installer makes of the table in the page's pyproject.toml."""
    groups = PYPROJECT["project"]["entry-points"]
    return "\n".join(
        line for group, names in groups.items() for line in [f"[{group}]", *(f"{k} = {v}" for k, v in names.items())]
    )


@pytest.fixture
def installed(tmp_path):
    """A folder on the path, laid out as an installed distribution."""
    site = tmp_path / "site"
    about = site / "plugged-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(entry_points())
    for name, text in MODULES.items():
        (site / name).write_text(text)
    return os.pathsep.join([str(ROOT), str(site)])


def test_the_page_has_a_module_for_every_entry_point():
    named = {f"{value}.py" for names in PYPROJECT["project"]["entry-points"].values() for value in names.values()}
    assert named == set(MODULES)
    assert len(MODULES) == 4


def test_what_is_plugged_in_is_everywhere(installed, tmp_path):
    """Metric, explainer, protocol and data set are listed, scored, explained in words and compared."""
    assert "halfmass.share" in xeval("list", "metrics", cwd=tmp_path, PYTHONPATH=installed).stdout
    assert "brightness" in xeval("list", "explainers", cwd=tmp_path, PYTHONPATH=installed).stdout
    assert '"stripes"' in xeval("data", "check", "stripes", cwd=tmp_path, PYTHONPATH=installed).stdout
    run, _ = make_run(tmp_path / "runs" / "digits-excon-s0")
    options = ["--protocol", "ours", "--explainers", "brightness,random", "--limit", "20"]
    shown = xeval("score", str(run), *options, cwd=tmp_path, PYTHONPATH=installed).stdout
    assert "halfmass.share" in shown
    assert "brightness" in shown
    assert "share of the pixels that hold 0.9 of the ReLU of the map" in shown
    assert "protocol ours+explainers=brightness" in shown
    assert "fill blur" in shown
    xeval("compare", "runs", cwd=tmp_path)
    assert any("halfmass" in path.read_text() for path in (tmp_path / "runs" / "report" / "tables").glob("*.md"))


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
        "halfmass or complexity_one_hot",
    ]
    environment = {**os.environ, "PYTHONPATH": installed, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert int(run.stdout.split(" passed")[0].split()[-1]) >= 10
