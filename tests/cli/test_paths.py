"""Paths that no file can have, and places where none can be written: told at once, in a documented code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, here
from tests.reports.synthetic import scores, write_run
from tests.runs import make_run
from xeval.checkpoints.card import read_card
from xeval.cli.main import cli
from xeval.cli.options import UsablePath
from xeval.errors import DataError
from xeval.runtime.files import read_json
from xeval.scoring.options import validated
from xeval.training.encoder import probe_encoder

TRAIN = ("train", "digits", "--method", "ce", "--set", "epochs=1", "--set", "arch=cnn-tiny", "--set", "image_size=8")
BAD = {"bytes": os.fsdecode(b"a\xff"), "long": "x" * 5000, "deep": "x/" * 2500, "long name": "x" * 256}


def paths() -> list[tuple[str, ...]]:
    """A command line for every argument and option of every command that is a path."""
    found = []
    for name, command in cli.commands.items():
        for inner, one in (getattr(command, "commands", None) or {"": command}).items():
            words = (name, inner) if inner else (name,)
            given = [_value(other) for other in one.params if other.param_type_name == "argument"]
            for parameter in one.params:
                if not isinstance(parameter.type, UsablePath):
                    continue
                if parameter.param_type_name == "argument":
                    place = [other for other in one.params if other.param_type_name == "argument"].index(parameter)
                    found.append((*words, *given[:place], "BAD", *given[place + 1 :]))
                else:
                    found.append((*words, *given, parameter.opts[0], "BAD"))
    return found


def _value(parameter: object) -> str:
    return "digits" if getattr(parameter, "name", "") in ("recipe", "name") else "metrics"


def test_every_path_of_every_command_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    commands = paths()
    assert len(commands) > 25
    os.chdir(tmp_path)
    for command in commands:
        for kind, bad in BAD.items():
            status, _, last = here(capsys, *(bad if word == "BAD" else word for word in command))
            assert status == 2, (command, kind, last)
            assert ("is not UTF-8 text" if kind == "bytes" else "File name too long") in last, (command, last)
            assert len(last) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("E6")
@pytest.mark.parametrize(
    ("export", "told"),
    [("folder", "is a folder"), ("missing/ckpt.pt", "does not exist"), ("/proc/ckpt.pt", "cannot write to /proc")],
)
def test_an_export_that_cannot_be_written_is_told_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xeval.cli.main.train_recipe", lambda *_, **__: pytest.fail("trains"))
    (tmp_path / "folder").mkdir()
    status, _, last = here(capsys, *TRAIN, "--export", export)
    assert (status, told in last) == (2, True), last


@pytest.mark.fault("E6")
@pytest.mark.parametrize("out", ["file", "file/below", "/proc/below"])
def test_an_out_that_cannot_be_written_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """/proc is a file system that not even root can write to."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    run, _ = make_run(tmp_path / "run")
    write_run(tmp_path / "runs", scores("ce", 0, 0.3))
    for place in (
        "xeval.checkpoints.convert.open_foreign",
        "xeval.training.encoder.load_encoder",
        "xeval.training.loop.make_trainer",
        "xeval.scoring.run.make_plan",
        "xeval.reports.compare.collect",
    ):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("works"))
    for command in (
        TRAIN,
        ("import", "run/best.safetensors", "--dataset", "digits"),
        ("probe", "run/best.safetensors", "--dataset", "digits"),
        ("score", str(run)),
        ("compare", "runs"),
        ("sweep", "digits", "--seeds", "0", "--methods", "ce"),
    ):
        status, _, last = here(capsys, *command, "--out", out)
        assert status == 2, (command, last)
        assert "cannot write to" in last or "is a file" in last, (command, last)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "run", "runs"}


@pytest.mark.fault("E7")
def test_seeds_of_more_than_64_bits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run")
    for seed in (2**64, -(2**63) - 1, 10**30):
        for command in (TRAIN, ("probe", str(run), "--dataset", "digits"), ("score", str(run))):
            status, _, last = here(capsys, *command, "--seed", str(seed), "--out", str(tmp_path / "out"))
            assert (status, "--seed: " in last) == (2, True), last
    assert not list((tmp_path / "out").glob("*"))
    for seed in (2**64 - 1, -(2**63)):
        assert validated(seed=seed).seed == seed
        made = probe_encoder(run, "digits", out=tmp_path / "out", method="m", head="centroid", seed=seed)
        assert read_card(made).seed == seed


def run_in_shell(redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m xeval {" ".join(arguments)} {redirection}'
    more = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=more, check=False, cwd=ROOT)


@pytest.mark.fault("E8")
@pytest.mark.parametrize(
    ("redirection", "arguments", "status"),
    [
        (">&-", ("list", "protocols"), 0),
        (">/dev/full", ("list", "protocols"), 5),
        ("2>/dev/full", ("list", "protocols"), 0),
        ("2>/dev/full", ("score", "nowhere"), 2),
        (">&- 2>&- <&-", ("score", "nowhere"), 2),
    ],
)
def test_streams_that_are_closed_or_full(redirection: str, arguments: tuple[str, ...], status: int) -> None:
    child = run_in_shell(redirection, *arguments)
    assert child.returncode == status
    assert "Traceback" not in child.stderr
    if status == 5:
        assert child.stderr.startswith("xeval: error[E500]: the disk is full")
        assert len(child.stderr.splitlines()) == 1


@pytest.mark.fault("E8")
def test_what_is_scored_is_not_lost_on_a_full_stderr(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run")
    options = ("--limit", "20", "--metrics", "complexity", "--explainers", "grad-cam,random", "--device", "cpu")
    child = run_in_shell(">&- 2>/dev/full", "score", str(run), *options, PYTHONIOENCODING="ascii", OMP_NUM_THREADS="1")
    assert child.returncode == 0
    assert read_json(run / "scores.json")["status"] == "complete"
    assert "complexity" not in "".join(path.read_text(errors="replace") for path in run.glob("*.sqlite-*"))


def test_text_that_is_half_of_a_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"name": "\ud800"}))
    with pytest.raises(DataError, match="is not valid JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"name": "\U0001f642 \\ud800"}))
    assert read_json(tmp_path / "a.json")["name"] == "\U0001f642 \\ud800"


def test_folders_whose_names_are_no_text_are_compared(tmp_path: Path, no_figures: None) -> None:
    from xeval.reports.compare import compare

    write_run(tmp_path, scores("ce", 0, 0.3), folder=os.fsdecode(b"runs/a\xff"))
    (tmp_path / os.fsdecode(b"runs/b\xfe") / "state").mkdir(parents=True)
    made = compare(tmp_path / "runs", tmp_path / "out")
    assert [one["path"] for one in made.results["excluded"]] == ["b?"]


def test_a_usable_path_stays_a_path(tmp_path: Path) -> None:
    assert UsablePath(path_type=Path).convert(str(tmp_path), None, None) == tmp_path
