"""A package of somebody else's adds a metric and more through entry points: the one that docs/extending.md prints."""

import os
import re
import subprocess
import sys
import textwrap
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


# ---- plug-ins that do not work

BROKEN = {
    "raises": "raise RuntimeError('no such device\\nsecond line')",
    "leaves": "import sys\nsys.exit()",
    "half": """
        from xeval.explainers import explainer

        @explainer("half", units="location", citation="nobody")
        def half(model, layer, images, targets):
            return images[:, :1]

        import a_module_that_is_not_there
    """,
    "known": """
        from xeval.explainers import explainer

        @explainer("grad-cam", units="location", citation="nobody")
        def other(model, layer, images, targets):
            return images[:, :1]
    """,
}
TOLD = {
    "raises": "does not load (RuntimeError: no such device)",
    "leaves": "does not load (it calls sys.exit(None))",
    "half": "does not load (ModuleNotFoundError: No module named 'a_module_that_is_not_there')",
    "known": "does not load (UsageError: the explainer 'grad-cam' is defined twice",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder on the path with a package whose entry points all fail, beside one that works."""
    site = tmp_path_factory.mktemp("site")
    about = site / "sad_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sad-package\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = sad_{name}" for name in BROKEN)
    (about / "entry_points.txt").write_text(f"[xeval.explainers]\n{lines}\nbrightness = sad_well\n")
    for name, text in BROKEN.items():
        (site / f"sad_{name}.py").write_text(textwrap.dedent(text))
    (site / "sad_well.py").write_text(MODULES["plugged_explainer.py"])
    return os.pathsep.join([str(ROOT), str(site)])


@pytest.mark.fault("S29")
def test_plug_ins_that_do_not_load_are_named_and_left_out(broken, tmp_path):
    listed = xeval("list", "explainers", cwd=tmp_path, PYTHONPATH=broken)
    warned = [line for line in listed.stderr.splitlines() if line.startswith("xeval: warning: ")]
    assert len(warned) == len(BROKEN) == len(listed.stderr.splitlines())
    for name, told in TOLD.items():
        (line,) = (line for line in warned if f"explainer {name!r} of the package sad-package" in line)
        assert told in line
        assert "mend or uninstall sad-package" in line
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert "brightness" in names
    assert "grad-cam" in names
    assert "half" not in names  # what it had registered before it failed is gone too


@pytest.mark.fault("S29")
def test_a_plug_in_that_was_asked_for_is_an_error(broken, tmp_path):
    run, _ = make_run(tmp_path / "runs" / "digits-excon-s0")
    asked = xeval("score", str(run), "--explainers", "half", cwd=tmp_path, PYTHONPATH=broken, check=2)
    assert asked.stderr.splitlines()[-1] == (
        "xeval: error[E200]: the explainer 'half' of the package sad-package does not load (ModuleNotFoundError: "
        "No module named 'a_module_that_is_not_there') — mend or uninstall sad-package"
    )


def test_doctor_shows_plug_ins(broken, tmp_path):
    shown = xeval("doctor", cwd=tmp_path, PYTHONPATH=broken).stdout
    assert re.search(r"^  plug-in brightness +explainer of sad-package$", shown, re.MULTILINE)
    assert re.search(r"^! plug-in leaves +explainer of sad-package does not load \(it calls sys.exit", shown, re.M)
