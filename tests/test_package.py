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


def test_installed_commands_run_in_an_empty_folder(wheel, tmp_path):
    """A fresh environment sees the wheel and, for the dependencies, this interpreter's packages; not the checkout."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
    )
    packages = Path(found.stdout.strip())
    zipfile.ZipFile(wheel).extractall(packages)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others) + "\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def python_says(code, *arguments):
        command = [python, "-c", code, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout

    def run(*arguments):
        return python_says("from xeval.cli.main import main; main()", *arguments)

    assert str(packages) in python_says("import xeval, xeval.training, xeval.reports; print(xeval.__file__)")
    assert "digits" in run("list", "recipes")
    shown = run("demo", "--quick")
    assert "report: xeval-demo/report.html" in shown
    assert (folder / "xeval-demo" / "report.html").is_file()
    for name in ("ce", "supcon", "excon", "exconb"):
        assert (folder / "xeval-demo" / "runs" / f"digits-{name}-epochs6-s0" / "scores.json").is_file()
