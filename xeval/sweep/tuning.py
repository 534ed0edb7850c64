"""Chooses among several values of a key by the highest mean accuracy on held-out images of train, never on test.

Every value is trained with every seed on the images that are not held out, to its last epoch, because the run that is
kept is trained on all of train to its last epoch too. Equal means are decided by the order in which the values stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from xeval.checkpoints.card import read_card
from xeval.errors import DataError
from xeval.sweep.plan import Choice, Run

Accuracy = Callable[[str], float]
"""``path of a tuning run -> its held-out accuracy``."""


def choose(run: Run, accuracy: Accuracy) -> tuple[Choice, dict[str, float]]:
    """Return the way to train a run, and the mean held-out accuracy of each way that was tried."""
    if not any(choice.tuned_by for choice in run.choices):
        return run.choices[0], {}
    means = {choice.label: fmean(map(accuracy, choice.tuned_by)) for choice in run.choices}
    return best(run.choices, means), means


def best(choices: Sequence[Choice], means: dict[str, float]) -> Choice:
    """Return the choice of the highest mean, the first of equal ones."""
    return max(choices, key=lambda choice: means[choice.label])


def held_out_accuracy(out: Path) -> Accuracy:
    """Return a function that reads the accuracy after the last epoch from a tuning run's manifest below ``out``."""

    def accuracy(path: str) -> float:
        found = read_card(out / path).selection.last_accuracy
        if found is None:
            raise DataError(f"{out / path} has no accuracy on held-out images", "delete it and start the sweep again")
        return found

    return accuracy
