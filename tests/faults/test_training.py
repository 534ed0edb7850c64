"""Rows T and C3 of the fault matrix that need more than one module: dying at every file operation, and corner cases."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import here
from tests.data.makers import image_folder, noise, png, snapshot, write_tree
from tests.training.interrupting import Interrupt, Listen, Stop, assert_same_run, run
from xeval.checkpoints.weightfiles import read_tensors
from xeval.errors import BusyError, CheckpointError, DataError, ResourceError, UsageError
from xeval.runtime.files import TEMPORARY, digest, file_hash, read_json, write_json
from xeval.runtime.locks import LOCK, locked
from xeval.training import epochs
from xeval.training.learner import Learner
from xeval.training.loop import train
from xeval.training.methods import METHODS
from xeval.training.recipe import Recipe, load_recipe
from xeval.training.state import CONTENT, TENSORS

SMALL = ["image_size=8", "arch=cnn-tiny", "epochs=2", "batch_size=16", "excon.explain_from_epoch=0"]
FILES = {"best.safetensors", "last.safetensors", "history.csv", "run.json"}
OPERATIONS = ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "mkdir"), (shutil, "rmtree"))


def recipe(method: str = "ce", *overrides: str) -> Recipe:
    return load_recipe("digits", method, [*SMALL, *overrides])


class Dead(BaseException):
    """The process is gone: nothing in the run may catch it."""


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, BaseException], list[str]]]:
    """``breaking(n, fault)``: the n-th file operation from now on raises, and so does every later one.

    Returns the names of the operations that were asked for.
    """

    def arm(number: int, fault: BaseException) -> list[str]:
        asked: list[str] = []
        monkeypatch.undo()
        for owner, name in OPERATIONS:
            monkeypatch.setattr(owner, name, _counted(getattr(owner, name), name, asked, number, fault))
        return asked

    yield arm
    monkeypatch.undo()


def _counted(true: Callable[..., Any], name: str, asked: list[str], number: int, fault: BaseException) -> Any:
    def operation(*arguments: Any, **options: Any) -> Any:
        asked.append(name)
        if len(asked) >= number:
            raise fault
        return true(*arguments, **options)

    return operation


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    return run(recipe(), tmp_path_factory.mktemp("whole"))


def operations(breaking: Callable[..., list[str]], out: Path) -> list[str]:
    """The file operations that a whole run asks for."""
    asked = breaking(10**9, Dead())
    run(recipe(), out)
    return list(asked)


@pytest.mark.fault("T2")
def test_dying_at_any_file_operation_loses_nothing(
    breaking: Callable[..., list[str]], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(operations(breaking, tmp_path / "count"))
    assert count > 30
    for number in range(1, count + 1):
        out = tmp_path / str(number)
        breaking(number, Dead())
        with pytest.raises(Dead):
            run(recipe(), out)
        monkeypatch.undo()
        directory = run(recipe(), out)
        assert_same_run(whole, directory)
        assert {path.name for path in directory.iterdir()} == FILES, number


@pytest.mark.fault("T7")
def test_a_directory_that_can_no_longer_be_written_is_never_silent(
    breaking: Callable[..., list[str]], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = operations(breaking, tmp_path / "count")
    before = asked.index("fsync")  # nothing is saved yet
    after = max(place for place, name in enumerate(asked) if name != "rmtree")  # all is saved, old states are removed
    for place in range(0, len(asked), 2):
        out = tmp_path / str(place)
        breaking(place + 1, PermissionError(13, "Permission denied"))
        if place <= after:
            with pytest.raises(UsageError if place < before else ResourceError, match="Permission denied"):
                run(recipe(), out)
            monkeypatch.undo()
        assert_same_run(whole, run(recipe(), out))


@pytest.mark.fault("T1")
def test_what_a_killed_process_left_is_cleaned_and_a_living_one_is_respected(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(recipe(), tmp_path, progress=Interrupt(1))
    directory = tmp_path / "digits-ce-s0"
    left = [directory / f"{TEMPORARY}best.safetensors.x.tmp", directory / ".state.tmp" / TENSORS, directory / LOCK]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half of it")
    with locked(directory), pytest.raises(BusyError):
        run(recipe(), tmp_path)
    left[0].write_bytes(b"half of it")
    run(recipe(), tmp_path)
    assert {path.name for path in directory.iterdir()} == FILES


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.marker), "w")


@pytest.mark.fault("C3")
@pytest.mark.parametrize("name", [TENSORS, "optimizer.pt", CONTENT])
def test_a_payload_in_a_state_never_runs_and_is_named(name: str, tmp_path: Path) -> None:
    marker, out = tmp_path / "ran", tmp_path / "out"
    data = pickle.dumps(Payload(marker))
    pickle.loads(data).close()
    assert marker.exists()  # the payload is a real one
    marker.unlink()
    with pytest.raises(Stop):
        run(recipe("ce", "epochs=3"), out, progress=Interrupt(2))
    state = out / "digits-ce-s0" / "state"
    (state / name).write_bytes(data)
    if name == TENSORS:  # an attacker knows how the hash is made
        write_json(state / CONTENT, {**read_json(state / CONTENT), "sha256": file_hash(state / TENSORS)})
    if name == CONTENT:
        shutil.rmtree(state.parent / "state.prev")
    before = snapshot(state.parent)
    with pytest.raises(CheckpointError, match=f"state/{name} is not") as caught:
        run(recipe("ce", "epochs=3"), out)
    assert caught.value.exit_code == 4
    assert not marker.exists()
    assert snapshot(state.parent) == before


@pytest.mark.fault("C3", "T2")
@pytest.mark.parametrize("change", [{"rows": 3}, {"more": 1}, {"tensors": {}}])
def test_a_state_with_a_forged_hash_is_no_crash(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(recipe(), tmp_path, progress=Interrupt(1))
    path = tmp_path / "digits-ce-s0" / "state" / CONTENT
    found = {**read_json(path), **change}
    content = {key: value for key, value in found.items() if key not in ("schema", "sha256", "content_sha256")}
    write_json(path, {**found, "content_sha256": digest(content)})
    with pytest.raises(CheckpointError):
        run(recipe(), tmp_path)


@pytest.mark.fault("T3")
def test_a_loss_that_is_not_finite_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--set={override}" for override in (*SMALL, "optimizer.name=sgd", "optimizer.lr=1e30")]
    code, _, last = here(capsys, "train", "digits", "--method", "ce", "--out", str(tmp_path), *options)
    assert code == 3
    assert "loss is not finite at epoch 1, step 2" in last
    assert "learning rate 1e+30" in last or "learning rate" in last
    assert "(images " in last


@pytest.mark.fault("T3")
def test_a_last_step_that_goes_wrong_is_noticed_without_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, true, steps = recipe("ce", "select_on=last", "heldout=0"), epochs.descend, []

    def descend(learner: Learner, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        true(learner, optimizer, *arguments)
        steps.append(1)
        if len(steps) == 8:  # the last one of the second epoch
            optimizer.param_groups[0]["params"][0].data.mul_(torch.inf)

    monkeypatch.setattr(epochs, "descend", descend)
    with pytest.raises(DataError, match="is not finite after epoch 2"):
        run(settings, tmp_path)
    monkeypatch.undo()
    directory = tmp_path / "digits-ce-s0"
    assert not (directory / "run.json").exists()
    assert all(torch.isfinite(tensor).all() for tensor in read_tensors(directory / "best.safetensors").values())
    assert_same_run(run(settings, tmp_path), run(settings, tmp_path / "again"))


@pytest.mark.fault("T4")
def test_a_run_cannot_go_on_with_other_images(tmp_path: Path) -> None:
    images = noise(5, 8, seed=1)
    folder = write_tree(tmp_path / "data", image_folder(images))
    settings = recipe("ce", f'dataset="folder:{folder}"', "heldout=0", "select_on=last")
    with pytest.raises(Stop):
        train(settings, seed=0, out=tmp_path, progress=Interrupt(1))
    images[0, 0, 0, 0] ^= 1
    (folder / "train/ant/0.png").write_bytes(png(images[0]))
    with pytest.raises(UsageError, match="train_manifest was '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        train(settings, seed=0, out=tmp_path)


@pytest.mark.fault("T5")
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize(
    ("images", "overrides"),
    [
        (2, ("heldout=0", "select_on=last")),  # no two images of a class
        (11, ()),  # one class has two images, one of them held out
        (17, ("heldout=0", "select_on=last")),  # a last batch of one
        (12, ("batch_size=2",)),
    ],
)
def test_batches_without_positives_and_tiny_batches(
    images: int, overrides: tuple[str, ...], method: str, tmp_path: Path
) -> None:
    listener = Listen()
    settings = recipe(method, "head.epochs=1", "epochs=1", *overrides)
    directory = train(settings, seed=0, out=tmp_path, limit=images, progress=listener)
    assert all(torch.isfinite(tensor).all() for tensor in read_tensors(directory / "last.safetensors").values())
    assert not any("nan" in text for text in listener.heard)


@pytest.mark.fault("T5")
@pytest.mark.parametrize(
    ("images", "overrides", "message"),
    [
        (1, ("heldout=0", "select_on=last"), "1 image is too few"),
        (1, (), "none of 1 images can be held out"),
        (9, (), "none of 9 images can be held out: no class has two"),
    ],
)
def test_too_few_images_are_told_before_the_first_epoch(
    images: int, overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        train(recipe("ce", *overrides), seed=0, out=tmp_path, limit=images)


@pytest.mark.fault("T8")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epochs=0"], "key 'epochs' is 0 but must be greater than or equal to 1"),
        (["--set", "optimizer.lr=-1"], "key 'optimizer.lr' is -1 but must be greater than 0"),
        (["--set", "batch_size=1"], "key 'batch_size' is 1"),
        (["--method", "exconn"], "unknown method 'exconn' — did you mean 'excon'?"),
    ],
)
def test_impossible_settings_are_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, last = here(capsys, "train", "digits", "--out", str(tmp_path / "runs"), *arguments)
    assert (code, message in last) == (2, True)
    assert not (tmp_path / "runs").exists()
