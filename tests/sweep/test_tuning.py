"""The choice among values: planted held-out accuracies, and what is trained afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs import make_run
from xeval.checkpoints.card import read_card, write_card
from xeval.data import open_dataset
from xeval.errors import DataError
from xeval.sweep.plan import SweepPlan, Wish, make_plan
from xeval.sweep.records import read, register
from xeval.sweep.tuning import choose, held_out_accuracy
from xeval.sweep.work import work
from xeval.training.recipe import Recipe
from xeval.training.trainer import make_trainer

SMALL = ("image_size=8", "epochs=1", "batch_size=16", "arch=cnn-tiny")


def planned(seeds: str = "0-2") -> SweepPlan:
    overrides = (*SMALL, "loss.temperature=0.1,0.2,0.5")
    return make_plan(Wish("digits", seeds=seeds, methods=("supcon",), overrides=overrides, limit=60))


def plant(out: Path, plan: SweepPlan, accuracies: dict[str, list[float]]) -> None:
    """Complete tuning runs with these held-out accuracies after the last epoch, by value and seed.

    Their best epoch says the opposite: who looked at it would choose otherwise.
    """
    for run in plan.tuning:
        value = run.choices[0].label.partition("=")[2]
        directory, _ = make_run(out / run.path, method=run.method, seed=run.seed)
        card, last = read_card(directory), accuracies[value][run.seed]
        selection = card.selection.model_copy(update={"last_accuracy": last, "best_accuracy": 1 - last})
        write_card(directory, card.model_copy(update={"selection": selection}), list(card.files))


def test_the_highest_mean_over_seeds_wins(tmp_path):
    """The middle value has neither the best single seed nor the best first seed."""
    plan = planned()
    plant(tmp_path, plan, {"0.1": [0.9, 0.1, 0.2], "0.2": [0.6, 0.6, 0.6], "0.5": [0.5, 0.95, 0.3]})
    for run in plan.runs:  # every seed is trained with the same choice
        choice, means = choose(run, held_out_accuracy(tmp_path))
        assert choice.label == "loss.temperature=0.2"
        assert list(means.values()) == pytest.approx([0.4, 0.6, np.mean([0.5, 0.95, 0.3])])


def test_the_first_of_equal_means_wins(tmp_path):
    plan = planned()
    plant(tmp_path, plan, {"0.1": [0.1, 0.1, 0.1], "0.2": [0.5, 0.5, 0.5], "0.5": [0.5, 0.5, 0.5]})
    assert choose(plan.runs[0], held_out_accuracy(tmp_path))[0].label == "loss.temperature=0.2"


def test_a_missing_tuning_run_decides_nothing(tmp_path):
    plan = planned()
    with pytest.raises(DataError, match=r"digits-supcon-.*-s0 holds no complete run"):
        choose(plan.runs[0], held_out_accuracy(tmp_path))


def test_the_chosen_value_is_trained_on_all_of_train_and_scored(tmp_path):
    plan = planned(seeds="0")
    plant(tmp_path, plan, {"0.1": [0.2], "0.2": [0.3], "0.5": [0.8]})
    (run,) = plan.runs
    small = {"limit": 4, "metrics": ["complexity"], "explainers": ["grad-cam"]}
    register(tmp_path, [run.model_copy(update={"score": small})], "local")
    fields = work(tmp_path, run.path, threads=None)
    assert fields["chosen"] == "loss.temperature=0.5"
    assert fields["held_out"] == {"loss.temperature=0.1": 0.2, "loss.temperature=0.2": 0.3, "loss.temperature=0.5": 0.8}
    card = read_card(tmp_path / run.path)
    assert card.recipe["loss"]["temperature"] == 0.5
    assert card.selection.best_accuracy is None  # nothing was held out
    trainer = make_trainer(
        Recipe.model_validate(card.recipe),
        open_dataset("digits", None, 8),
        tmp_path / "again",
        seed=0,
        limit=60,
        device=torch.device("cpu"),
    )
    assert len(trainer.fit) == 60
    assert trainer.held is None
    assert (tmp_path / run.path / "scores.json").is_file()
    assert not list((tmp_path / ".sweep" / "tuning").rglob("scores.json"))
    assert read(tmp_path, run.path).run.path == run.path


def test_tuning_runs_hold_a_fifth_out_and_have_an_accuracy_after_the_last_epoch(tmp_path):
    run = planned(seeds="0").tuning[0]
    register(tmp_path, [run], "local")
    work(tmp_path, run.path, threads=None)
    assert 0 <= held_out_accuracy(tmp_path)(run.path) <= 1
    card = read_card(tmp_path / run.path)
    assert (card.recipe["heldout"], card.selection.select_on) == (0.2, "last")
    assert not (tmp_path / run.path / "scores.json").exists()
