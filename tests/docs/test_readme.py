"""The README runs as written."""

import re
import shlex

import pytest

from tests.commands import ROOT, xeval

README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip() and not line.startswith("#")]


def test_console_and_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    """All ``xeval`` lines of the README, in one empty folder, then its Python."""
    ran = [line for block in CONSOLE for line in commands(block) if line.startswith("xeval ") and "demo" not in line]
    assert len(ran) >= 4
    for line in ran:
        xeval(*shlex.split(line, comments=True)[1:], cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert PYTHON
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {})
    assert "drop.mag@0.45" in capsys.readouterr().out


@pytest.mark.parametrize("target", re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
