"""A small scoring, the values that it leaves, and faults that are planted in its passes."""

import json
from contextlib import suppress

import numpy as np

import xeval
import xeval.scoring.scorer
from xeval.engine.folding import Network
from xeval.errors import DataError
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.store import Store

FAST = {"metrics": ("drop", "complexity"), "limit": 100, "device": "cpu", "batch_size": 64}
SMALL = ("--metrics", "drop,complexity", "--limit", "100", "--device", "cpu", "--batch-size", "64")


def table(out):
    """(explainer, column) → series of every cell that has values."""
    found = {}
    with Store(out / "scores.sqlite", read_only=True) as store:
        for number, cell in store.cells():
            with suppress(DataError):  # no values yet
                found[cell.explainer, cell.name] = store.read(number)
    return found


def equal(a, b, atol=0.0):
    assert a.keys() == b.keys()
    for key, series in a.items():
        assert np.array_equal(series.status, b[key].status), key
        assert np.allclose(series.values, b[key].values, rtol=0, atol=atol, equal_nan=True), key


def read(out):
    return json.loads((out / "scores.json").read_text())


def files(folder):
    return {path.name for path in folder.iterdir()}


class Hears:
    """A progress that keeps its lines."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def track(self, items, total, label, *weigh):
        yield from items


def fault_at(monkeypatch, condition, act):
    """Plain passes end in ``act(images, logits)`` where ``condition(images)`` holds."""
    original = Network.__call__

    def call(self, images, *, whole=False):
        logits = original(self, images, whole=whole)
        return act(images, logits) if condition(images) else logits

    monkeypatch.setattr(Network, "__call__", call)


def images_of(run, numbers):
    """The normalised images of some places among the chosen ones, and their ids."""
    plan = make_plan(run, ScoreOptions(**FAST))
    places = [int(plan.chosen[n]) for n in numbers]
    pixels = xeval.data.normalize(plan.split.read(places), plan.info)
    return pixels, [plan.split.ids[i] for i in places]


def among(wanted):
    """Which images of a batch are one of the wanted: bool (n,)."""
    return lambda images: (images[:, None] == wanted[None].to(images)).flatten(2).all(2).any(1)
