"""Whole runs on a few digits: every method, the run directory, resuming bit for bit, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.makers import snapshot
from tests.training.interrupting import LIMIT, Interrupt, Listen, Stop, assert_same_run, rows, run, without_seconds
from xeval.checkpoints.card import read_card
from xeval.checkpoints.load import load_model
from xeval.data import normalize, open_dataset
from xeval.engine import pick_device
from xeval.errors import CheckpointError, DataError, ResourceError, UsageError
from xeval.training import epochs, state
from xeval.training.history import COLUMNS, collapsed, merit, summary
from xeval.training.loop import train
from xeval.training.methods import METHODS
from xeval.training.recipe import Recipe

Make = Callable[..., Recipe]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_end_to_end(method: str, recipe: Make, out: Path) -> None:
    directory = run(recipe(method), out)
    assert directory.name == f"digits-{method}-s0"
    assert {path.name for path in directory.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "history.csv",
        "run.json",
    }
    card, table = read_card(directory), rows(directory)
    assert (card.method, card.seed, card.model.arch, card.layer) == (method, 0, "resnet-small", "backbone.layer3")
    assert tuple(table[0]) == COLUMNS
    assert [row["epoch"] for row in table] == [str(number + 1) for number in range(len(table))]
    assert len(table) == {"simclr": 3, "triplet": 3, "supcon-ori": 4}.get(method, 2)
    assert card.selection.last_accuracy == pytest.approx(float(table[-1]["val_accuracy"]))
    assert table[-1]["train_accuracy"]
    assert bool(table[0]["masked_share"]) == (method in ("excon", "exconb"))
    assert bool(table[0]["collapse_gap"]) == (method not in ("ce", "triplet"))


def test_best_weights_have_the_accuracy_in_the_manifest(recipe: Make, out: Path) -> None:
    """Recomputed from the files alone, on the held-out images."""
    from xeval.data import holdout, stratified

    settings = recipe("ce", "epochs=4")
    directory = run(settings, out)
    card = read_card(directory)
    split = open_dataset("digits", None, 8).split("train")
    sample = stratified(split.labels, LIMIT, 0)
    held = sample[holdout(split.labels[sample], 0.2, 0)[1]]
    images, labels = normalize(split.read(held), split.info), torch.from_numpy(split.labels[held])
    for weights, expected in (("best", card.selection.best_accuracy), ("last", card.selection.last_accuracy)):
        model = load_model(directory, weights=weights).model.eval()  # type: ignore[arg-type]
        with torch.no_grad():
            accuracy = (model(images).argmax(1) == labels).double().mean().item()
        assert accuracy == pytest.approx(expected)


@pytest.mark.parametrize("method", ["ce", "exconb", "supcon-ori", "simclr"])
def test_an_interrupted_run_ends_bit_equal(method: str, recipe: Make, tmp_path: Path) -> None:
    settings = recipe(method, "epochs=4")
    whole = run(settings, tmp_path / "whole")
    with pytest.raises(Stop):
        run(settings, tmp_path / "halves", progress=Interrupt(2))
    assert not (tmp_path / "halves" / whole.name / "run.json").exists()
    assert_same_run(whole, run(settings, tmp_path / "halves"))


@pytest.mark.fault("T1")
def test_an_epoch_interrupted_in_the_middle_is_replayed(recipe: Make, tmp_path: Path) -> None:
    settings = recipe("excon", "epochs=3", "optimizer.name=sgd", "optimizer.lr=0.05")
    whole = run(settings, tmp_path / "whole")
    with pytest.raises(Stop):
        run(settings, tmp_path / "halves", progress=Interrupt(1, step=2))
    assert_same_run(whole, run(settings, tmp_path / "halves"))


@pytest.mark.fault("T2")
@pytest.mark.parametrize("damage", ["truncate", "remove", "swap"])
def test_a_damaged_state_falls_back_to_the_one_before(damage: str, recipe: Make, tmp_path: Path) -> None:
    settings = recipe("supcon", "epochs=3")
    whole = run(settings, tmp_path / "whole")
    with pytest.raises(Stop):
        run(settings, tmp_path / "halves", progress=Interrupt(2))
    directory = tmp_path / "halves" / whole.name
    newest = directory / "state" / "state.safetensors"
    if damage == "truncate":
        newest.write_bytes(newest.read_bytes()[:1000])
    elif damage == "remove":
        (directory / "state").rename(directory / ".state.tmp")  # killed between the two renames
    else:
        newest.write_bytes((directory / "state.prev" / "state.safetensors").read_bytes())
    heard = Listen()
    assert_same_run(whole, run(settings, tmp_path / "halves", progress=heard))
    if damage != "remove":
        assert any("state.safetensors is missing or differs" in text for text in heard.heard)
    assert any("after epoch 1 of 3" in text for text in heard.heard)


@pytest.mark.fault("T2")
def test_two_damaged_states_are_an_error_and_stay_where_they_are(recipe: Make, out: Path) -> None:
    settings = recipe("ce", "epochs=3")
    with pytest.raises(Stop):
        run(settings, out, progress=Interrupt(2))
    directory = out / "digits-ce-s0"
    (directory / "state" / "state.json").write_text("{")
    content = (directory / "state.prev" / "state.json").read_text()
    (directory / "state.prev" / "state.json").write_text(content.replace('"epoch": 1', '"epoch": 0'))
    before = snapshot(directory)
    with pytest.raises(
        CheckpointError, match=r"no state of .*not valid JSON.*state\.prev/state\.json differs from its hash"
    ):
        run(settings, out)
    assert snapshot(directory) == before


@pytest.mark.fault("T4")
def test_a_run_cannot_go_on_with_other_settings(recipe: Make, out: Path) -> None:
    with pytest.raises(Stop):
        run(recipe("ce"), out, progress=Interrupt(1))
    with pytest.raises(UsageError, match=r"recipe\.optimizer\.lr was 0\.003, now 0\.5"):
        run(recipe("ce", "optimizer.lr=0.5"), out)
    with pytest.raises(UsageError, match="limit was 60, now None"):
        train(recipe("ce"), seed=0, out=out)


def test_a_finished_run_is_left_alone(recipe: Make, out: Path) -> None:
    directory, listener = run(recipe("ce"), out), Listen()
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert run(recipe("ce"), out, progress=listener) == directory
    assert listener.heard == ["digits-ce-s0 is complete: nothing to do"]
    assert before == {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    with pytest.raises(UsageError, match=r"recipe\.epochs was 2, now 3"):
        run(recipe("ce", "epochs=3"), out)


def test_a_limit_of_no_images_is_refused(recipe: Make, out: Path) -> None:
    with pytest.raises(UsageError, match="sample of 0 images"):
        train(recipe("ce"), seed=0, out=out, limit=0)


def test_training_is_deterministic_and_the_seed_counts(recipe: Make, tmp_path: Path) -> None:
    first, second = (run(recipe("supcon"), tmp_path / name) for name in "ab")
    assert_same_run(first, second)
    other = run(recipe("supcon"), tmp_path / "a", seed=1)
    assert without_seconds(first) != without_seconds(other)


@pytest.mark.fault("T3")
def test_a_loss_that_is_not_finite_names_epoch_step_and_rate(
    recipe: Make, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_rate = epochs.learning_rate
    monkeypatch.setattr(epochs, "learning_rate", lambda *a: 1e30 if a[1] == 2 else true_rate(*a))
    with pytest.raises(
        DataError, match=r"encoder loss is not finite at epoch 2, step \d, learning rate 1e\+30 \(images"
    ):
        run(recipe("ce", "epochs=3", "optimizer.name=sgd"), out)
    kept = state.load_state(out / "digits-ce-s0", pytest.fail)
    assert kept is not None
    assert kept.epoch == 1
    assert all(torch.isfinite(tensor).all() for tensor in kept.tensors.values())
    monkeypatch.undo()
    run(recipe("ce", "epochs=3", "optimizer.name=sgd"), out)


@pytest.mark.fault("T7")
@pytest.mark.parametrize("fault", [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_full_or_read_only_disk_is_an_error_and_the_state_before_stays(
    recipe: Make, out: Path, monkeypatch: pytest.MonkeyPatch, fault: tuple[int, str]
) -> None:
    with pytest.raises(Stop):
        run(recipe("ce"), out, progress=Interrupt(1))

    def full(*_: Any) -> None:
        raise OSError(*fault)

    monkeypatch.setattr(state, "write_tensors", full)
    with pytest.raises(ResourceError, match=fault[1]):
        run(recipe("ce"), out)
    kept = state.load_state(out / "digits-ce-s0", pytest.fail)
    assert kept is not None
    assert kept.epoch == 1


def test_selection_on_the_test_split_trains_on_all_of_train(recipe: Make, out: Path) -> None:
    directory = run(recipe("ce", "select_on=test", "epochs=1"), out)
    assert read_card(directory).selection.select_on == "test"
    share = float(rows(directory)[0]["val_accuracy"]) * 360
    assert share == pytest.approx(round(share))


def test_selection_by_training_loss_probes_the_best_and_the_last_encoder(recipe: Make, out: Path) -> None:
    settings = recipe("triplet", "select_on=loss", "head.fit=full-batch", "head.normalize=true", "epochs=3")
    directory = run(settings, out)
    table, card = rows(directory), read_card(directory)
    losses = [float(row["loss"]) for row in table[:3]]
    assert card.selection.best_epoch == 1 + losses.index(min(losses))
    assert card.model.normalize_features
    best = load_model(directory).model
    assert (
        not torch.equal(best.head.weight, load_model(directory, weights="last").model.head.weight)
        or min(losses) == losses[-1]
    )


def test_last_epoch_without_a_held_out_part(recipe: Make, out: Path) -> None:
    directory = run(recipe("supcon", "select_on=last", "heldout=0"), out)
    card = read_card(directory)
    assert card.selection.best_epoch == 2
    assert card.selection.last_accuracy is None
    assert rows(directory)[0]["val_accuracy"] == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["excon.explainer=grad-kam"], "unknown explainer 'grad-kam'"),
        (['excon.layer="backbone.layer9"'], "unknown layer 'backbone.layer9'"),
        (["select_on=loss"], "cannot choose among head epochs"),
        (["arch=resnet-smal"], "did you mean 'resnet-small'"),
        (["dataset=digit"], "did you mean 'digits'"),
    ],
)
def test_what_would_fail_late_fails_first(overrides: list[str], message: str, recipe: Make, out: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(recipe("supcon-ori", *overrides), out)


def test_unusable_devices_are_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    for name in ("cuda:99", "gpu"):
        with pytest.raises(UsageError, match=name):
            pick_device(name)


def test_merit() -> None:
    row = {"epoch": 3, "loss": 2.0, "val_accuracy": 0.9, "val_loss": 0.4}
    assert merit("heldout", row) == [0.9, -0.4]
    assert merit("loss", row) == [-2.0]
    assert merit("last", row) == [3]
    assert merit("test", {**row, "val_accuracy": None}) is None


def test_a_collapsed_encoder_is_named() -> None:
    row = {**dict.fromkeys(COLUMNS), "epoch": 3, "loss": 4.6, "collapse_gap": 0.01, "seconds": 1.0}
    assert collapsed(row)
    assert "collapsed" in summary(row, 10)
    assert not collapsed({**row, "epoch": 1})
    assert not collapsed({**row, "collapse_gap": 0.5})


def test_manifest_is_strict_json(recipe: Make, out: Path) -> None:
    content = json.loads((run(recipe("ce"), out) / "run.json").read_text(), parse_constant=pytest.fail)
    assert content["schema"] == "xeval.run/1"
    assert content["provenance"]["limit"] == LIMIT
