"""Real photographs: the smallest run that has to learn something."""

from __future__ import annotations

from pathlib import Path

import pytest

from xeval.checkpoints.card import read_card
from xeval.training.loop import train
from xeval.training.recipe import load_recipe


@pytest.mark.photos
def test_two_epochs_are_better_than_chance(photos: Path, tmp_path: Path) -> None:
    recipe = load_recipe("photos", "ce", ["epochs=2"])
    card = read_card(train(recipe, seed=0, out=tmp_path, data_root=photos, limit=2000))
    chance = 1 / len(card.dataset.classes)
    assert card.selection.best_accuracy is not None
    assert card.selection.best_accuracy > 2 * chance
