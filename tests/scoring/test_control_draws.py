"""How many draws of the random controls are averaged."""

import json

import numpy as np
import pytest

from tests.runs import make_run
from tests.scoring.test_run import table
from xeval.errors import UsageError
from xeval.explainers import CONTROLS
from xeval.metrics import METRICS, Explained
from xeval.models import frozen_eval
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.run import score
from xeval.scoring.scorer import make_scorer

OPTIONS = {"metrics": ("drop",), "limit": 10, "batch_size": 16, "explainers": ("grad-cam", "random", "centre")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


def drawn(run, number):
    """The drop of one draw, image by image."""
    plan = make_plan(run, ScoreOptions(**OPTIONS))
    scorer = make_scorer(plan, ScoreOptions(**OPTIONS))
    with frozen_eval(scorer.engine.model):
        scene, _ = scorer.scene([int(i) for i in plan.chosen])
        native = scorer.maps.explain(scene, "grad-cam").native
        maps = CONTROLS["random"].draw(scene.images, native, scene.keys, number)
        found = METRICS["drop"].score(Explained(scene, maps, lambda *_a, **_k: maps), plan.tasks[0].settings, None)
    return found["drop.mag@0.45"].value.numpy()


@pytest.mark.parametrize("draws", [1, 2])
def test_so_many_draws_are_averaged(run, tmp_path, draws):
    out = score(run, out=tmp_path, control_draws=draws, **OPTIONS)
    found = table(out)["random", "drop.mag@0.45"].values
    assert np.allclose(found, np.mean([drawn(run, number) for number in range(draws)], 0), rtol=0, atol=1e-6)
    told = json.loads((out / "scores.json").read_text())
    assert told["explainers"]["random"]["draws"] == draws
    assert told["explainers"]["centre"]["draws"] == 1
    assert told["protocol"]["name"].endswith(f"+control_draws={draws}")


def test_the_defined_number_is_no_change(run):
    plain, five, two = (make_plan(run, ScoreOptions(limit=4, control_draws=n)).protocol for n in (None, 5, 2))
    assert plain == five
    assert plain.hash() != two.hash()
    assert plain.metric_definition("drop") == two.metric_definition("drop")
    assert two.general()["control_draws"] == 2
    assert "control_draws" not in plain.general()


def test_less_than_one_draw_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="--control-draws"):
        score(run, out=tmp_path, control_draws=0, **OPTIONS)
