"""What a user installs: the wheel, from an empty folder."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked files, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_only_top_level_name_is_xeval(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"xeval"}
    for expected in (
        "xeval/py.typed",
        "xeval/training/recipes/digits.toml",
        "xeval/training/matrices/excon.toml",
        "xeval/reports/templates/page.html.j2",
    ):
        assert expected in names
    assert not any("tests/" in name or "benchmarks/" in name for name in names)


def test_a_package_index_would_take_it(wheel):
    assert wheel.stat().st_size <= 2**20
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel)]
    assert "PASSED" in subprocess.run(check, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs Python code in an empty folder, in a fresh environment that sees the wheel and, for the dependencies, this
    interpreter's packages; not the checkout."""
    home, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
    )
    packages = Path(found.stdout.strip())
    zipfile.ZipFile(wheel).extractall(packages)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others) + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def python_says(code, *arguments):
        command = [python, "-c", code, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout

    assert str(packages) in python_says("import xeval, xeval.training, xeval.reports; print(xeval.__file__)")
    return folder, lambda *arguments: python_says("from xeval.cli.main import main; main()", *arguments)


def test_installed_commands_run_in_an_empty_folder(installed):
    folder, run = installed
    assert "digits" in run("list", "recipes")
    small = ("--limit", "100", "--set", "epochs=1", "--set", "image_size=8")
    run("train", "digits", "--method", "excon", "--seed", "0", *small)
    (trained,) = (folder / "runs").iterdir()
    run("score", f"runs/{trained.name}", "--limit", "8", "--metrics", "drop", "--explainers", "grad-cam,random")
    assert "drop.mag@0.45" in run("compare", "runs")
    assert (folder / "runs" / "report" / "report.html").is_file()


@pytest.mark.slow
def test_the_installed_demo_runs_in_an_empty_folder(installed):
    folder, run = installed
    assert "report: xeval-demo/report.html" in run("demo", "--quick")
    assert (folder / "xeval-demo" / "report.html").is_file()
    for name in ("ce", "supcon", "excon", "exconb"):
        assert (folder / "xeval-demo" / "runs" / f"digits-{name}-epochs6-s0" / "scores.json").is_file()
