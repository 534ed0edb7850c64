"""Plain passes in a lower precision: what changes, what does not, and that the change is measured rightly."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import xeval
from tests.runs import make_run
from tests.scenes import images, scene_of, small_model
from tests.scoring.test_run import equal, read, table
from xeval.engine.folding import forms_of, in_precision
from xeval.errors import UsageError
from xeval.metrics import METRICS, Explained
from xeval.reports.collect import collect
from xeval.scoring.module import Normalization
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.precision import IMAGES, differences, sentence
from xeval.scoring.run import score
from xeval.scoring.store import Series, Store

OPTIONS = {"metrics": ("drop", "complexity"), "limit": 40, "batch_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


@pytest.fixture(scope="module")
def both(run, tmp_path_factory):
    """The same folder scored in float32, then in bfloat16: rows before, rows after, the second scores.json."""
    out = tmp_path_factory.mktemp("scores")
    exact = read(score(run, out=out, **OPTIONS))
    before = by_definition(out)
    found = read(score(run, out=out, precision="bfloat16", **OPTIONS))
    return exact, before, by_definition(out), found


def by_definition(out):
    with Store(out / "scores.sqlite") as store:
        return {(cell.explainer, cell.name, cell.definition): store.read(number) for number, cell in store.cells()}


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 3e-2), ("float16", 4e-3)])
def test_logits_are_float32_again_and_near_those_of_the_model(precision, most):
    model, x = small_model(), images(6)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(x)
        for form in forms_of(model, x[:1]):
            network = in_precision(form, precision)
            found = network(x)
            assert found.dtype == torch.float32
            assert 0 < (found - expected).abs().max() <= most * expected.abs().max().clamp_min(1)
            assert network.describe()["precision"] == precision
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_other_precisions_are_other_rows(both):
    exact, before, after, found = both
    assert found["protocol"]["name"] == "xeval+metrics=drop,complexity+precision=bfloat16"
    assert found["protocol"]["hash"] != exact["protocol"]["hash"]
    assert any("bfloat16" in line for line in found["conventions"])
    assert len(after) == 2 * len(before)
    for key, series in before.items():
        assert np.array_equal(series.values, after[key].values, equal_nan=True)


def test_maps_stay_in_float32_and_probabilities_move(both):
    exact, _, _, found = both
    for column, cell in exact["scores"]["grad-cam"].items():
        other = found["scores"]["grad-cam"][column]
        if column.startswith("complexity"):
            assert other["mean"] == cell["mean"], column
        elif column.startswith("drop.mag"):
            assert other["mean"] != cell["mean"], column
            assert other["mean"] == pytest.approx(cell["mean"], abs=0.03), column
    assert found["model"]["p0"] != exact["model"]["p0"]


def test_the_differences_are_those_of_the_two_scorings(both):
    """Compared image by image in plain loops; both scorings are in the store."""
    _, before, after, found = both
    told, rows = found["precision"], found["scores"]
    assert (told["precision"], told["images"], told["overflowed"]) == ("bfloat16", IMAGES, 0)
    sample = sorted(np.random.default_rng(0).choice(40, IMAGES, replace=False).tolist())
    low = {key[:2]: series for key, series in after.items() if key not in before}
    high = {key[:2]: series for key, series in before.items()}
    for row in ("grad-cam", "random", "centre"):
        for column in ("drop.mag@0.45", "complexity.gini", "increase.mag@0.15"):
            x, y = low[row, column].values, high[row, column].values
            pairs = [(x[i], y[i]) for i in sample if math.isfinite(x[i]) and math.isfinite(y[i])]
            cell = told["rows"][row][column]
            assert cell["n"] == len(pairs)
            assert cell["shift"] == pytest.approx(sum(a - b for a, b in pairs) / len(pairs), abs=1e-6)
            assert cell["largest"] == pytest.approx(max(abs(a - b) for a, b in pairs), abs=1e-6)
            assert cell["moved"] is (abs(cell["shift"]) > rows[row][column]["se"] / 4)
    assert sentence(told) in found["warnings"]


def test_changes_within_the_jitter_are_ties(both):
    _, before, after, found = both
    jitter = found["precision"]["jitter"]
    assert 1e-6 < jitter < 0.05
    low = {key[:2]: series for key, series in after.items() if key not in before}
    p0 = low["", "p0"].values
    for q in ("0.15", "0.3", "0.45"):
        moved = [low["grad-cam", f"{side}.mag@{q}"].values * p0 for side in ("drop", "increase")]
        changes = np.concatenate(moved)[np.concatenate(moved) > 0]
        assert changes.size
        assert (changes > jitter).all()
    scene = scene_of(small_model(), images(8))
    explained = Explained.by(scene, lambda x, _t, _m: x.mean(1, keepdim=True), units="location")
    settings = METRICS["drop"].settings()
    free = METRICS["drop"].score(explained, settings, None)["drop.tie@0.45"].value
    scene.engine.jitter = 2.0  # no probability changes by more
    tied = METRICS["drop"].score(explained, settings, None)["drop.tie@0.45"].value
    assert (free.mean(), tied.mean()) == (0, 1)


class Large(nn.Module):
    """A network whose features are beyond what float16 can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = small_model()

    def forward(self, x):
        return self.inside(x * 1e6 / 1e6)


def test_what_overflows_is_scored_in_float32_and_said(tmp_path):
    x, labels = (torch.rand(24, 3, 16, 16) - 0.5) / 0.25, torch.arange(24) % 4
    about = {
        "normalization": Normalization((0.5,) * 3, (0.25,) * 3),
        "explainers": ("grad-cam", "random"),
        "metrics": ("drop",),
    }
    given = {**about, "layer": "inside.backbone.layer3", "batch_size": 16, "device": "cpu", "name": "large"}
    model = Large().eval()
    xeval.score(model, [(x, labels)], out=tmp_path / "a", **given)
    xeval.score(model, [(x, labels)], out=tmp_path / "b", precision="float16", **given)
    equal(table(tmp_path / "a"), table(tmp_path / "b"))
    told = json.loads((tmp_path / "b" / "scores.json").read_text())
    assert told["precision"]["overflowed"] == 24
    assert "24 images overflowed and were scored in float32" in "".join(told["warnings"])


def test_the_differences_of_a_column_by_hand():
    values, nothing = np.array([1.0, 2.0, 4.0, np.nan, 3.0]), np.array([0, 0, 0, 1, 0], np.uint8)
    series = Series(values, nothing, {1: ("undefined", "empty map")})
    found = differences(series, np.array([0, 2, 3, 4]), np.array([1.5, 3.0, 7.0, np.nan]))
    assert found == {"n": 2, "shift": 0.25, "largest": 1.0, "rank": pytest.approx(1.0), "moved": True}
    # the standard error of 1, 2, 4 and 3 is .645, a quarter of it .161
    assert differences(series, np.array([0, 2]), np.array([1.0, 4.3]))["moved"] is False
    assert differences(series, np.array([0, 2]), np.array([1.0, 4.4]))["moved"] is True
    assert differences(series, np.array([3]), np.array([1.0]))["n"] == 0
    assert differences(series, np.array([0, 1]), np.array([5.0, 5.0]))["rank"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "tf32"}, r"cpu has no tf32 — use --precision bfloat16"),
        ({"precision": "float8"}, r"--precision: .*float32"),
        ({"precision": "float16", "engine": "quantus"}, "leave out --precision"),
    ],
)
def test_precisions_that_cannot_be(run, options, words, tmp_path):
    given = {key: value for key, value in OPTIONS.items() if not (key == "metrics" and "engine" in options)}
    with pytest.raises(UsageError, match=words):
        score(run, out=tmp_path, **given, **options)


def test_float32_is_what_it_was(run):
    plain, named = (make_plan(run, ScoreOptions(**given, limit=4)) for given in ({}, {"precision": "float32"}))
    assert plain.protocol == named.protocol
    assert "precision" not in plain.protocol.definition()


def test_readers_take_the_answers_of_the_precision_that_was_scored(tmp_path):
    """A folder with rows of float32 and of bfloat16; by hand: p and the class of either, which differ."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model, x = nn.Sequential(*layers, nn.Linear(4, 2)).eval(), torch.rand(16, 1, 12, 12)
    with torch.no_grad():
        model[-1].bias.copy_(-model[-1].weight @ model[:-1](x).mean(0))
        networks = model, in_precision(next(iter(forms_of(model, x[:1]))), "bfloat16")
        answers = [network(x).double().softmax(1) for network in networks]
    labels = answers[0].argmax(1)
    assert (answers[1].argmax(1) != labels).any()
    for precision, p in zip(("float32", "bfloat16"), answers, strict=True):
        given = {"explainers": ("grad-cam", "random"), "metrics": "drop", "batch_size": 16, "device": "cpu"}
        given |= {"normalization": Normalization((0.0,), (1.0,)), "out": tmp_path, "training_seed": 0}
        xeval.score(model, [(x, labels)], precision=precision, **given)
        found = xeval.results(tmp_path)
        assert len(found) == 32
        assert found["p0"][:16].tolist() == pytest.approx(p.max(1).values.tolist(), abs=1e-6)
        assert found["correct"][:16].tolist() == (p.argmax(1) == labels).tolist()
        (run,) = collect(tmp_path).runs
        assert run.images.correct.tolist() == (p.argmax(1) == labels).tolist()
