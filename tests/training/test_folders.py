"""Runs of recipes that differ have directories of their own; those of before the names were longer go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import here
from xeval.checkpoints.card import read_card
from xeval.checkpoints.folder import run_name
from xeval.runtime.progress import Silent
from xeval.training.loop import folder_name, train
from xeval.training.recipe import label, load_recipe

TINY = ["arch=cnn-tiny", "epochs=1", "image_size=8"]


def test_recipe_files_that_differ_in_a_setting_have_their_own_directories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (32, 64):
        (tmp_path / f"digits-b{size}.toml").write_text(
            f'extends = "digits"\narch = "cnn-tiny"\nepochs = 1\nbatch_size = {size}\n'
        )
        command = ("train", str(tmp_path / f"digits-b{size}.toml"), "--method", "ce", "--limit", "40")
        assert here(capsys, *command, "--out", str(tmp_path / "runs"))[0] == 0
    found = {run.name: read_card(run).recipe["batch_size"] for run in (tmp_path / "runs").iterdir()}
    assert found == {"digits-ce-digits-b32-s0": 32, "digits-ce-digits-b64-s0": 64}


def test_the_label_is_the_recipe_and_what_was_overridden_in_any_order() -> None:
    digits, photos = load_recipe("digits", "excon"), load_recipe("photos", "excon")
    assert label(digits) == ""
    assert label(photos) == "photos"
    assert label(photos, ["excon.cutoff=0.3", "epochs=5"]) == label(photos, ["epochs=5", "excon.cutoff = 0.3"])
    assert label(digits, ["excon.cutoff=0.3", "epochs=5"]) == "epochs5-excon.cutoff0.3"
    assert label(digits, ["head.epochs=5"]) != label(digits, ["epochs=5"])
    named = load_recipe("digits", "excon", ["name=mine"])
    assert label(named, ["name=mine"]) == "mine"


def test_names_of_directories() -> None:
    assert run_name("digits", "ce", 3) == "digits-ce-s3"
    assert run_name("tiny-imagenet", "ce", 3, "photos") == "tiny-imagenet-ce-photos-s3"
    long = [run_name("digits", "ce", 0, f"{'x' * 60}{end}") for end in "ab"]
    assert all(len(name) < 80 and name.endswith("-s0") for name in long)
    assert long[0] != long[1]


def test_a_run_under_its_earlier_name_goes_on_where_the_settings_are_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("digits", "ce", TINY)
    run = train(recipe, seed=0, out=tmp_path, limit=40, progress=Silent(), name="digits-ce-s0")
    assert folder_name(tmp_path, recipe, 0, 40, TINY) == run.name
    longer = run_name("digits", "ce", 0, label(recipe, TINY))
    assert folder_name(tmp_path, recipe, 0, 50, TINY) == longer
    other = load_recipe("digits", "ce", [*TINY, "batch_size=32"])
    assert folder_name(tmp_path, other, 0, 40, [*TINY, "batch_size=32"]) != run.name
    (tmp_path / longer).mkdir()
    assert folder_name(tmp_path, recipe, 0, 40, TINY) == longer
    (tmp_path / longer).rmdir()
    (run / "run.json").write_text(json.dumps({"schema": "no card"}))
    assert folder_name(tmp_path, recipe, 0, 40, TINY) == longer


def test_a_sweep_says_beforehand_which_runs_will_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for one in (*TINY, "batch_size=16") for word in ("--set", one)]
    sweep = ("sweep", "digits", "--methods", "ce", "--seeds", "0-1", *options, "--limit", "40", "--out", str(tmp_path))
    code, shown, _ = here(capsys, *sweep, "--dry-run")
    first, second, _ = shown.splitlines()
    assert code == 0
    assert first.endswith("to do")
    assert second.endswith("to do")
    other = load_recipe("digits", "ce", [*TINY, "batch_size=32"])
    train(other, seed=1, out=tmp_path, limit=40, progress=Silent(), name=second.split()[0])
    shown = here(capsys, *sweep, "--dry-run")[1]
    assert shown.splitlines()[0] == first
    assert "will fail: the directory belongs to a run with other settings" in shown.splitlines()[1]


def test_a_sweep_takes_up_a_run_under_its_earlier_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With crops, which a finished run does not store; one that was explained from another epoch is not the same."""
    settings = [*TINY, "views.crop=[0.5, 1.0]"]
    train(load_recipe("digits", "excon", settings), seed=0, out=tmp_path, limit=40, name="digits-excon-s0")
    options = [word for one in settings for word in ("--set", one)]
    sweep = ("sweep", "digits", "--methods", "excon", "--seeds", "0", *options, "--limit", "40", "--out", str(tmp_path))
    taken, _ = here(capsys, *sweep, "--dry-run")[1].splitlines()
    assert taken == "digits-excon-s0  to do"  # it is trained, not scored
    manifest = tmp_path / "digits-excon-s0" / "run.json"
    card = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**card, "explained_from": card["explained_from"] + 1}))
    new, _ = here(capsys, *sweep, "--dry-run")[1].splitlines()
    assert new.startswith("digits-excon-archcnn-tiny-epochs1-")
    (tmp_path / "digits-excon-s0").rename(tmp_path / new.split()[0])
    assert "will fail" in here(capsys, *sweep, "--dry-run")[1]
