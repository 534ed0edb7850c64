"""A newcomer's walk: the page on a network of one's own runs as it is written, from training to the report."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import ROOT, here
from tests.data.makers import noise, png, write_tree
from xeval.checkpoints.card import read_card
from xeval.checkpoints.load import load_model

PAGE = (ROOT / "docs" / "your-own-network.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CONSOLE = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = noise(16, 64, 0)
    pixels[::2, ..., 0] //= 4  # something to tell the classes by
    names = [f"{'test' if n >= 12 else 'train'}/{('red', 'pale')[n % 2]}/{n}.png" for n in range(16)]
    write_tree(tmp_path / "my-images", {name: png(image) for name, image in zip(names, pixels, strict=True)})
    scope: dict[str, Any] = {}
    for block in PYTHON:
        exec(compile(block, "your-own-network.md", "exec"), scope)
    assert len(CONSOLE) == 9
    for line in CONSOLE:
        status, _, message = here(capsys, *shlex.split(line)[1:])
        refused = "module.pt" in line
        assert status == (4 if refused else 0), message
        assert not refused or message.endswith("— save model.state_dict()")
    runs = [tmp_path / "imported" / name for name in ("plain", "training", "parallel", "weights")]
    cards = [read_card(run) for run in runs]
    assert {(card.method, card.seed, card.model.arch) for card in cards} == {("mine", 0, "resnet18")}
    assert len({card.files["best.safetensors"].sha256 for card in cards}) == 1
    assert torch.equal(load_file(runs[0] / "best.safetensors")["head.weight"], scope["model"].fc.weight)
    batch = torch.stack([image for image, _ in list(scope["images"])[:4]])
    with torch.no_grad():
        assert torch.allclose(load_model(runs[0]).model.eval()(batch), scope["model"](batch), atol=1e-5)
    assert not (tmp_path / "imported" / "module").exists()
    assert (tmp_path / "runs" / "report" / "report.html").is_file()
