"""What is measured of a network is kept beside its rows and used again."""

import json
import sqlite3

import pytest

from tests.runs import make_run
from tests.scoring.test_run import read
from xeval.scoring.run import score
from xeval.scoring.scorer import Scorer
from xeval.scoring.store import Store
from xeval.scoring.tuned import Tuned, recalled

OPTIONS = {"limit": 10, "explainers": ("grad-cam",)}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "digits-excon-s0")[0]


@pytest.fixture
def measured(monkeypatch):
    """A list of what is measured; the real thing is done too."""
    seen, own = [], Scorer._measured

    def watched(self, *given):
        seen.append(own(self, *given))
        return seen[-1]

    monkeypatch.setattr(Scorer, "_measured", watched)
    return seen


def kept(run):
    with sqlite3.connect(run / "scores.sqlite") as db:
        return [json.loads(row[0]) for row in db.execute("SELECT found FROM tuned")]


def test_a_second_command_takes_what_the_first_has_found(run, measured):
    first = read(score(run, metrics=("drop",), **OPTIONS))["cost"]
    again = read(score(run, metrics=("drop", "complexity"), **OPTIONS))["cost"]
    assert len(measured) == 1
    assert kept(run) == [measured[0].model_dump()]
    assert (again["batch_size"], again["network"]) == (first["batch_size"], first["network"])


def test_a_batch_size_that_was_given_is_not_kept_for_others(run, measured):
    score(run, metrics=("drop",), batch_size=3, **OPTIONS)
    assert kept(run)[0]["batch_size"] is None
    found = read(score(run, metrics=("drop", "complexity"), **OPTIONS))["cost"]
    assert len(measured) == 2
    assert found["batch_size"] == measured[1].batch_size != 3


@pytest.mark.parametrize(
    "found",
    [
        '{"form": "of no network", "batch_size": 8}',
        '{"form": "folded, channels last", "batch_size": -4}',
        "[]",
        "{",
        "7",
    ],
)
def test_what_cannot_be_is_measured_anew(run, measured, found):
    score(run, metrics=("drop",), **OPTIONS)
    with sqlite3.connect(run / "scores.sqlite") as db:
        db.execute("UPDATE tuned SET found = ?", (found,))
    score(run, metrics=("drop", "complexity"), **OPTIONS)
    assert len(measured) == 2
    assert kept(run) == [measured[1].model_dump()]


def test_other_sizes_and_precisions_are_other_places(run, measured):
    score(run, metrics=("drop",), **OPTIONS)
    score(run, metrics=("drop",), precision="bfloat16", **OPTIONS)
    assert len(measured) == 2
    assert measured[0].jitter == 0 < measured[1].jitter
    assert len(kept(run)) == 2


def test_nothing_is_recalled_from_an_empty_store(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        assert recalled(store, "here") is None
        store.tune("here", Tuned(form="folded, contiguous", batch_size=2).model_dump())
        assert recalled(store, "here") == Tuned(form="folded, contiguous", batch_size=2)
