"""Every benchmark runs in its smallest size and says what it has to say; none times sides that do not agree."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import drop_increase, growth, infidelity, ranks, single, startup, store, suite
from benchmarks.__main__ import RUNS
from benchmarks.pairs import agree, alternate, counted
from benchmarks.rows import DisagreementError, Options, Target, parse, result
from benchmarks.subjects import engine_of, network, pictures, scene_of
from tests.commands import ROOT
from xeval.metrics import Values
from xeval.scoring.store import Series

QUICK = Options(quick=True, device="cpu")
ROW = {"claim", "unit", "value", "spread", "target", "passes", "checked", "note", "measurements", "met"}
COUNTED = {"suite", "infidelity", "single", "drop_increase", "floor", "training"}
LONG = {("suite", "--explainers", "6"), ("suite", "--compile", "on"), ("memory",), ("ranks",), ("report",)}


@pytest.mark.parametrize(
    "words", [pytest.param(words, marks=pytest.mark.slow if words in LONG else ()) for words in RUNS], ids=" ".join
)
def test_quick_run(words):
    module = importlib.import_module(f"benchmarks.{words[0]}")
    options = replace(parse("", [*words[1:], "--quick", "--device", "cpu"]))
    found = json.loads(json.dumps(result(words[0], module.measure(options), words[1:]), allow_nan=False))
    assert set(found) == {"benchmark", "arguments", "machine", "rows"}
    assert {"processor", "cpus", "threads", "python", "versions"} <= set(found["machine"])
    assert found["rows"]
    for row in found["rows"]:
        assert set(row) == ROW
        assert row["spread"][0] <= row["value"] <= row["spread"][1]
        if words[0] in COUNTED and "share" not in row["claim"] and not row["claim"].startswith(("complexity", "topk")):
            assert all(count > 0 for count in row["passes"].values())


def test_the_command_prints_one_line_and_claims_nothing_in_quick_mode():
    command = [sys.executable, "-m", "benchmarks.drop_increase", "--quick", "--device", "cpu"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.count("\n") == 1
    found = json.loads(shown)
    assert [row["met"] for row in found["rows"]] == [None, None]
    assert found["rows"][0]["passes"] == {"peer": 2 * 3 * 3, "own": 2 * (1 + 1 + 3)}  # as the definitions count them


# ---- a wrong number stops the clock


def plant(monkeypatch, owner, name, change):
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **named: change(right(*given, **named)))


def test_a_wrong_drop_is_not_timed(monkeypatch):
    plant(monkeypatch, drop_increase, "published", lambda value: value + 1e-5)
    with pytest.raises(DisagreementError, match=r"drop\.mag"):
        list(drop_increase.measure(QUICK))


def test_a_wrong_infidelity_is_not_timed(monkeypatch):
    plant(monkeypatch, infidelity, "own", lambda value: value * torch.tensor([1, 1.1]) + 1e-4)
    with pytest.raises(DisagreementError, match="infidelity"):
        list(infidelity.measure(QUICK))


def test_a_wrong_single_metric_is_not_timed():
    subject = single.subject_of("cnn-tiny", QUICK)
    check = next(check for check in single.peers() if check.name == "complexity.entropy")
    wrong = replace(check, native=lambda subject: check.native(subject) + 1e-5)
    with pytest.raises(DisagreementError, match=r"complexity\.entropy"):
        single.row(wrong, subject, "cnn-tiny", 1)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("infidelity", "Infidelity"),
        ("correlation", "FaithfulnessCorrelation"),
        ("entropy", "Complexity"),
        ("gini", "Sparseness"),
        ("flipping_curve", "PixelFlipping"),
        ("packed", "drop"),
    ],
)
def test_a_wrong_number_of_the_suite_is_not_timed(monkeypatch, name, metric):
    plant(monkeypatch, suite, name, lambda value: value + 1e-3)
    with pytest.raises(DisagreementError, match=metric):
        suite.require_equal(suite.subject_of("cnn-tiny", 2, QUICK), ("grad-cam",), QUICK)


def test_a_wrong_sensitivity_of_the_suite_is_not_timed(monkeypatch):
    about = suite.METRICS["sensitivity"]

    def wrong(explained, settings, shared):
        scores = about.score(explained, settings, shared)
        return {name: Values(values.value + 1e-3, values.undefined) for name, values in scores.items()}

    monkeypatch.setattr(suite, "METRICS", {**dict(suite.METRICS.items()), "sensitivity": replace(about, score=wrong)})
    with pytest.raises(DisagreementError, match="MaxSensitivity"):
        suite.require_equal(suite.subject_of("cnn-tiny", 2, QUICK), ("grad-cam",), QUICK)


def test_a_heavy_import_of_a_help_page_is_an_error(monkeypatch):
    monkeypatch.setattr(startup, "CODE", "import sys; print('Usage: x'); print('torch', file=sys.stderr)")
    with pytest.raises(DisagreementError, match="torch"):
        startup.help_of(())


def test_a_column_that_was_changed_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "scores.sqlite"
    ids = store.write(path, 70)
    store.read(path, ids[3])
    plant(monkeypatch, store, "values", lambda value: value + 1e-9)
    with pytest.raises(DisagreementError):
        store.read(path, ids[3])


@pytest.mark.parametrize(
    ("peer", "own"),
    [
        ([1.0, 2.0], [1.0, 2.1]),
        ([1.0, torch.nan], [1.0, 2.0]),
        ([1.0, 2.0], [torch.nan, 2.0]),
        ([1.0], [1.0, 1.0]),
        ([1.0], [torch.inf]),
    ],
)
def test_agree_sees(peer, own):
    with pytest.raises(DisagreementError):
        agree("planted", torch.tensor(peer), torch.tensor(own), 1e-3)


def test_agree_says_how_closely():
    shown = agree("planted", torch.tensor([100.0, torch.nan]), torch.tensor([100.01, torch.nan]), 1e-3)
    assert shown == "planted within 0.001 (largest difference 0.0001)"


# ---- counting and timing


def test_passes_are_counted_wherever_they_come_from():
    model, layer = network("cnn-tiny", torch.device("cpu"))
    x = pictures(5, torch.device("cpu"))
    engine = engine_of(model, QUICK, x)
    with counted(model) as count:
        scene = scene_of(engine, x)
        engine.explain(infidelity.EXPLAINERS["grad-cam"], layer, x, scene.targets)  # in closed form: without the head
        model(x[:2])
    model(x)
    assert count.images == 5 + 5 + 2


def test_rounds_alternate_after_one_warm_up():
    seen = []
    pair = alternate(lambda: seen.append("A"), lambda: seen.append("B"), 3)
    assert "".join(seen) == "AB" + "ABABAB"
    assert len(pair.ratios) == 3


def test_targets():
    assert Target("at least", 2).met(2)
    assert not Target("at least", 2).met(1.9)
    assert not Target("at most", 1.1).met(1.2)
    assert str(Target("at most", 1.1)) == "≤ 1.1"


def test_exponents_of_planted_times():
    exponent, error = growth.fit([10, 20, 50, 100], [0.3 * n**1.5 for n in (10, 20, 50, 100)])
    assert exponent == pytest.approx(1.5)
    assert error == pytest.approx(0, abs=1e-9)
    noisy = growth.fit([1, 10, 100], [1, 20, 100])
    x, y = torch.tensor([[0.0], [1], [2]]), torch.tensor([[0.0], [1.30103], [2]])
    residual = y - torch.cat([torch.ones(3, 1), x], 1) @ torch.linalg.lstsq(torch.cat([torch.ones(3, 1), x], 1), y)[0]
    assert noisy[1] == pytest.approx(float((residual**2).sum() / 1 / 2).__pow__(0.5), rel=1e-4)
    assert growth.fit([1, 10], [1, 10]) == (pytest.approx(1), None)


# ---- ranks


def test_stores_that_differ_are_seen():
    def rows(values, status=(0, 0), name="drop.mag@0.45"):
        return {
            ("grad-cam", name): Series(np.array(values), np.array(status, np.uint8), {1: ("undefined", "empty map")})
        }

    assert ranks.largest(rows([0.5, 0.25]), rows([0.5, 0.25])) == 0
    assert ranks.largest(rows([0.5, 0.25]), rows([0.5, 0.5])) == 0.25
    with pytest.raises(DisagreementError, match="other undefined values"):
        ranks.largest(rows([0.5, np.nan], (0, 1)), rows([0.5, 0.25]))
    with pytest.raises(DisagreementError, match="different rows"):
        ranks.largest(rows([0.5, 0.25]), rows([0.5, 0.25], name="drop.mag@0.3"))
