"""``--log`` of ``xeval train`` and ``xeval score``: the logs hold what history.csv and scores.json hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.commands import here
from xeval.runtime.loggers import LOGGERS

TRAIN = ("train", "digits", "--method", "ce", "--limit", "40", "--set", "arch=cnn-tiny")
SCORE = ("--limit", "10", "--metrics", "drop", "--explainers", "grad-cam,random")


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logged")


@pytest.fixture
def trained(run: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    found = list(run.glob("digits-*"))
    if not found:
        assert here(capsys, *TRAIN, "--set", "epochs=2", "--log", "csv", "--out", str(run))[0] == 0
        found = list(run.glob("digits-*"))
    return found[0]


def test_training_logs_every_number_of_every_epoch(trained: Path) -> None:
    told = {(row["step"], row["name"]): float(row["value"]) for row in lines(trained / "log" / "train.csv")}
    kept = {
        (row["epoch"], name): float(text)
        for row in lines(trained / "history.csv")
        for name, text in row.items()
        if text
    }
    assert told == kept
    assert {name for _, name in told} >= {"loss", "lr", "train_accuracy", "val_accuracy", "val_loss"}
    assert {step for step, _ in told} == {"1", "2"}


def test_scoring_logs_the_headline(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(capsys, "score", str(trained), *SCORE, "--log", "csv")[0] == 0
    summary = json.loads((trained / "scores.json").read_text())
    told = {row["name"]: float(row["value"]) for row in lines(trained / "log" / "score.csv")}
    assert told["model.accuracy"] == summary["model"]["accuracy"]
    for row in ("grad-cam", "random"):
        assert told[f"{row}/drop.mag@0.45"] == summary["scores"][row]["drop.mag@0.45"]["mean"]
    assert set(told) == {
        *(f"model.{name}" for name in summary["model"]),
        *(
            f"{row}/{name}"
            for row in summary["scores"]
            for name in summary["protocol"]["primary"]
            if name.startswith("drop")
        ),
    }


def test_a_logger_that_fails_does_not_lose_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            raise ConnectionError("no server")

    monkeypatch.setitem(LOGGERS, "csv", Broken)  # type: ignore[arg-type]
    left, shown, _ = here(capsys, *TRAIN, "--set", "epochs=1", "--log", "csv", "--out", str(tmp_path))
    assert left == 0
    assert (Path(shown.strip()) / "run.json").is_file()


def test_a_logger_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, _, said = here(capsys, *TRAIN, "--log", "mlflow", "--out", str(tmp_path))
    assert left == 2
    assert "tensorboard" in said
    assert not list(tmp_path.iterdir())
