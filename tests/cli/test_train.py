"""What `xeval train` refuses, and what it writes down where the refusal is waived."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import here
from xeval.checkpoints.card import read_card

LATE = ("digits", "--method", "excon", "--limit", "40", "--set", "arch=cnn-tiny", "--set", "epochs=1")
START = ("--set", "excon.explain_from_epoch=2")


def test_a_run_that_would_never_explain_needs_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("train", *LATE, *START, "--out", str(tmp_path))
    left, _, said = here(capsys, *command)
    assert left == 2
    assert "excon would explain from epoch 2 on and trains for 1: a run of supcon" in said
    assert not list(tmp_path.iterdir())
    assert here(capsys, *command, "--allow-unexplained")[0] == 0
    card = read_card(next(tmp_path.iterdir()))
    assert card.explained_from == 2
    assert card.recipe["excon"]["allow_unexplained"]


def test_a_short_run_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(capsys, "train", *LATE, "--out", str(tmp_path))[0] == 0
    (run,) = tmp_path.iterdir()
    assert read_card(run).explained_from == 1
    header, row = (run / "history.csv").read_text().splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["masked_share"]) >= 0
