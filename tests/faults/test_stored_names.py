"""Rows C26 and C27: stored names that would run code or open a folder, and folders that bring code along."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.commands import here
from tests.faults import hostile
from tests.faults.weights import DIGITS, put, state
from tests.models.saved import saved
from tests.runs import make_run
from xeval.checkpoints import load as checkpoints
from xeval.checkpoints import sandbox

PAYLOAD = """
from pathlib import Path
Path({marker!r}).write_text("imported")

def build(num_classes):
    Path({marker!r}).write_text("called")
    raise SystemExit(77)
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``payload`` beside the user, which leaves a file behind when it is imported."""
    place = tmp_path / "ran"
    beside = tmp_path / "here"
    beside.mkdir()
    (beside / "payload.py").write_text(PAYLOAD.format(marker=str(place)))
    monkeypatch.chdir(beside)
    monkeypatch.syspath_prepend(str(beside))
    yield place
    sys.modules.pop("payload", None)


@pytest.fixture
def no_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening anything through transformers fails the test."""

    def refuse(*asked: Any, **_more: Any) -> None:
        raise AssertionError(f"transformers was asked for {asked}")

    for kind in (transformers.AutoConfig, transformers.AutoModelForImageClassification):
        monkeypatch.setattr(kind, "from_pretrained", refuse)


def renamed(run: Path, arch: str) -> Path:
    """A run whose card names another network."""
    card = json.loads((run / "run.json").read_text())
    card["model"]["arch"] = arch
    (run / "run.json").write_text(json.dumps(card))
    return run


def a_run(folder: Path, arch: str) -> Path:
    return renamed(make_run(folder / "run")[0], arch)


def an_export(folder: Path, arch: str) -> Path:
    checkpoints.export(a_run(folder, arch), folder / "ckpt.pt")
    return folder / "ckpt.pt"


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("score", "CKPT"),
    ("verify", "CKPT", "--n", "1"),
    ("explain", "CKPT", "IMAGE"),
    ("probe", "CKPT", "--dataset", "digits"),
)


@pytest.mark.fault("C26")
@pytest.mark.parametrize("kind", [a_run, an_export])
@pytest.mark.parametrize("arch", ["os:system", "payload:build", "hf:FOLDER", "hf:someone/network"])
def test_a_stored_name_neither_runs_nor_opens_anything(
    kind: Callable[[Path, str], Path],
    arch: str,
    marker: Path,
    no_transformers: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arch = arch.replace("FOLDER", str(tmp_path / "vit"))
    path = kind(tmp_path, arch)
    image = put(tmp_path / "image.png", b"not reached")
    for command in COMMANDS:
        words = [{"CKPT": str(path), "IMAGE": str(image)}.get(word, word) for word in command]
        status, _, message = here(capsys, *words)
        assert (status, f"--arch {arch[:40]}" in message) == (4, True), (command, message)
    assert not marker.exists()
    assert "payload" not in sys.modules


@pytest.mark.fault("C26")
def test_the_same_names_run_once_the_user_types_them(
    marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the test above would prove nothing."""
    run = a_run(tmp_path, "payload:build")
    status, _, message = here(capsys, "score", str(run), "--arch", "payload:build")
    assert (status, "payload:build fails (it calls sys.exit(77))" in message) == (2, True)
    assert marker.read_text() == "called"


@pytest.mark.fault("C26")
def test_names_among_foreign_options_are_text(
    marker: Path,
    no_transformers: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An import takes the name of a network from a file's options; only networks that a library lists count."""
    monkeypatch.setattr(sandbox, "_limit_memory", lambda _: None)
    monkeypatch.setattr(sandbox, "_run_child", sandbox.main)
    for number, arch in enumerate(("payload:build", f"hf:{tmp_path}", "hf:a/b")):
        plain = {name.removeprefix("backbone."): one for name, one in state("resnet-small").items()}
        content = {"arch": arch, "args": {"model": arch}, "state_dict": plain}
        path = put(tmp_path / f"{number}.pt", hostile.saved(content))
        out = tmp_path / f"run{number}"
        status, _, message = here(capsys, "import", str(path), "--out", str(out), *DIGITS, "--seed", "0")
        assert status == 0, message
        assert json.loads((out / "run.json").read_text())["model"]["arch"] == "resnet-small"
    assert not marker.exists()


@pytest.mark.fault("C27")
def test_code_in_a_folder_of_transformers_is_not_run(
    marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "vit", channels=1)
    (folder / "payload.py").write_text(PAYLOAD.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "payload.Config", "AutoModelForImageClassification": "payload.Network"}
    (folder / "config.json").write_text(json.dumps(config))
    words = ("score", str(folder / "model.safetensors"), "--arch", f"hf:{folder}", *DIGITS)
    status, _, message = here(capsys, *words)
    assert status == 2
    assert "no image classifier that transformers builds by itself" in message
    assert not marker.exists()


@pytest.mark.fault("C27")
def test_a_pickle_in_a_folder_of_transformers_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ran = saved(tmp_path / "vit", channels=1), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    put(folder / "pytorch_model.bin", hostile.saved({"a": hostile.system(ran)}))
    words = ("train", "digits", "--method", "ce", "--out", str(tmp_path / "runs"), "--set", f"arch=hf:{folder}")
    status, _, message = here(capsys, *words, "--set", "init=pretrained", "--limit", "20")
    assert status == 2, message
    assert not ran.exists()
