"""Blocks of images: how large they are, what is lacking, and that slow networks lose little to a kill."""

import sqlite3

import numpy as np
import pytest

from tests.runs import make_run
from tests.scoring.test_run import equal, table
from xeval.scoring.blocks import block_in_time, block_size, covered, images_of, work_of
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.run import score
from xeval.scoring.scorer import Scorer
from xeval.scoring.store import Store

QUANTUS = "quantus:Complexity"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


@pytest.mark.parametrize(
    ("most", "seconds", "expected"),
    [(64, 0.0, 64), (64, 0.4, 64), (64, 0.5, 32), (64, 1.0, 16), (16, 7.0, 4), (16, 29.0, 1), (16, 500.0, 1)],
)
def test_a_block_takes_half_a_minute_at_most(most, seconds, expected):
    assert block_in_time(most, seconds) == expected
    assert expected == 1 or expected * seconds <= 30


def test_draws_of_another_library_belong_to_blocks_that_no_speed_changes(run):
    own, other = (make_plan(run, ScoreOptions(limit=4, metrics=names)) for names in (("drop",), ("drop", QUANTUS)))
    assert block_size(own, 10.0) == 2
    assert block_size(other, 10.0) == 64


def test_what_lies_in_extents():
    assert covered([(0, 2), (5, 9)], 8).tolist() == [True, True, False, False, False, True, True, True]
    assert not covered([], 3).any()


def test_work_holds_every_image_that_lacks_anything_and_no_finished_block(run):
    plan = make_plan(run, ScoreOptions(metrics=("drop", "complexity"), limit=50))
    drop, complexity = plan.tasks
    nothing, some, late = np.zeros(50, bool), np.zeros(50, bool), np.zeros(50, bool)
    some[[3, 12]], late[49] = True, True
    work = work_of(plan, [(None, nothing), (drop, some), (complexity, late)], 8)
    assert [(chunk.first, len(chunk.positions), tasks) for chunk, tasks in work] == [
        (0, 8, [drop]),
        (8, 8, [drop]),
        (48, 2, [complexity]),
    ]
    assert images_of(work) == 18
    assert [chunk.positions for chunk, _ in work] == [
        list(plan.chosen[:8]),
        list(plan.chosen[8:16]),
        list(plan.chosen[48:]),
    ]
    assert work_of(plan, [(None, late), (drop, nothing)], 64)[0][1] == []  # only what is known of every image lacks


@pytest.fixture
def slow(monkeypatch):
    """A network that seems to take nine seconds an image: blocks of two."""
    tune = Scorer.tune

    def slowly(self, *given):
        found = tune(self, *given)
        self.rate = 3 / 9 if len(self.plan.tasks) else self.rate
        return found

    monkeypatch.setattr(Scorer, "tune", slowly)
    monkeypatch.setattr("xeval.scoring.run._rehearse", lambda *_given: 3.0)


def watched(monkeypatch):
    """A list that collects first image and number of images of every block that is scored."""
    seen, compute = [], Scorer.score_chunk

    def spy(self, chunk, *given):
        seen.append((chunk.first, len(chunk.positions)))
        return compute(self, chunk, *given)

    monkeypatch.setattr(Scorer, "score_chunk", spy)
    return seen


def test_a_slow_network_is_scored_in_small_blocks_with_the_same_rows(run, tmp_path, slow, monkeypatch):
    options = {"metrics": ("drop",), "limit": 10, "batch_size": 16}
    seen, compute = [], Scorer.score_chunk
    monkeypatch.setattr(
        Scorer,
        "score_chunk",
        lambda self, chunk, *given: seen.append(len(chunk.positions)) or compute(self, chunk, *given),
    )
    small = score(run, out=tmp_path / "small", **options)
    assert seen == [2] * 5
    monkeypatch.undo()
    equal(table(small), table(score(run, out=tmp_path / "large", **options)), atol=1e-6)


def test_a_run_that_was_cut_off_in_large_blocks_goes_on_in_small_ones(run, tmp_path, slow, monkeypatch):
    """Only the images that are lacking, or lie in a block with an error, are scored again."""
    options = {"metrics": ("drop",), "limit": 10, "batch_size": 16}
    whole = score(run, out=tmp_path, **options)
    expected = table(whole)
    with Store(whole / "scores.sqlite") as store:
        numbers = [number for number, cell in store.cells() if cell.name == "drop.mag@0.45"]
    with sqlite3.connect(whole / "scores.sqlite") as db:
        db.execute("DELETE FROM chunk WHERE first = 4")
        db.execute("UPDATE chunk SET failed = 1 WHERE first = 8 AND cell = ?", (numbers[0],))
    seen = watched(monkeypatch)
    equal(table(score(run, out=tmp_path, **options)), expected)
    assert seen == [(4, 2), (8, 2)]
