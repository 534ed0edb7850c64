"""The page on choosing an explainer runs as it is written, and what it says of the report is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import ROOT, here

PAGE = (ROOT / "docs" / "choosing-an-explainer.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "choosing-an-explainer.md", "exec"), {})
            continue
        for line in text.splitlines():
            code, _, error = here(capsys, *shlex.split(line)[1:])
            assert code == 0, (line, error)
            commands += 1
    assert commands == 4
    assert "grad-cam" in capsys.readouterr().out
    assert Image.open("strip.png").size[0] > 500
    (section,) = json.loads((tmp_path / "choice" / "results.json").read_text())["sections"]
    assert (section["rows"], section["reference"]) == ("explainers", "grad-cam")
    assert {one["row"] for one in section["contrasts"]} == {"saliency", "lrp", "occlusion"}
    page = (tmp_path / "choice" / "report.html").read_text()
    for promised in ("Agreement between maps", "Agreement between scores", "cost of a map", "for this checkpoint"):
        assert promised in page
    assert "untrained" in "".join(re.findall(r"<figcaption>.*?</figcaption>", page))
