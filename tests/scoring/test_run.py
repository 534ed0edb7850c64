import json
import sqlite3
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests import reference
from tests.runs import make_run
from xeval.checkpoints.load import load_model
from xeval.data import normalize, open_dataset
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.explainers import cam
from xeval.scoring import run as scoring
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.run import score
from xeval.scoring.scorer import Scorer, chunks
from xeval.scoring.store import Store

FAST = {"metrics": ("drop", "complexity"), "limit": 40}


def read(out):
    return json.loads((out / "scores.json").read_text())


def table(out):
    """Every stored value: (explainer, column) → values."""
    with Store(out / "scores.sqlite") as store:
        return {(cell.explainer, cell.name): store.read(number) for number, cell in store.cells()}


def equal(a, b, atol=0.0):
    assert set(a) == set(b)
    for key, series in a.items():
        assert np.array_equal(series.status, b[key].status), key
        assert np.allclose(series.values, b[key].values, atol=atol, equal_nan=True), key


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    return score(run, out=tmp_path_factory.mktemp("scores"), limit=40)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_scores(run, tmp_path):
    """Continuous columns to 1e-5; an indicator may differ where the change itself is within the tie's band."""
    options = {"metrics": ("drop", "infidelity", "ssim"), "explainers": ("grad-cam",), "limit": 40, "batch_size": 32}
    plain = score(run, out=tmp_path / "plain", **options)
    fast = score(run, out=tmp_path / "fast", compile="on", **options)
    assert read(fast)["cost"]["network"]["compiled"] is True
    assert read(plain)["cost"]["network"]["compiled"] is False
    found, expected = table(fast), table(plain)
    assert set(found) == set(expected)
    for key, series in expected.items():
        close = np.isclose(found[key].values, series.values, rtol=0, atol=1e-5, equal_nan=True)
        indicator = key[1].partition("@")[0].endswith((".rate", ".tie", ".flipped"))
        assert close.mean() >= (0.95 if indicator else 1), key


def test_the_cost_of_every_part_is_recorded(scored):
    cost = read(scored)["cost"]
    assert cost["images"] == 40
    assert cost["network"] == {"folded": True, "compiled": False, "layout": "channels last"}
    assert cost["explainers"]["grad-cam"]["passes"] == 40  # the closed form: one pass and no backward pass
    assert cost["explainers"]["centre"]["passes"] == 0
    assert cost["metrics"]["infidelity"]["shared"]["passes"] == 40 * 64
    assert cost["metrics"]["infidelity"]["rows"]["random"]["passes"] == 0  # shared by all rows
    assert cost["metrics"]["insertion"]["rows"]["inverse"]["passes"] == 0  # the reference's own curve backwards
    parts = [*cost["explainers"].values()]
    for about in cost["metrics"].values():
        parts += [about["shared"], *about["rows"].values()]
    chunk_passes = 40  # the clean pass of every image belongs to no part
    assert cost["passes"] == sum(part["passes"] for part in parts) + chunk_passes
    assert sum(part["seconds"] for part in parts) < cost["seconds"]


def test_numbers_equal_a_loop_over_images(run, scored):
    """The stored drop and increase of the whole pipeline against a loop written from the definition."""
    model = load_model(run).model.eval()
    split = open_dataset("digits").split("test")
    plan = make_plan(run, ScoreOptions(limit=40))
    stored = table(scored)
    with torch.no_grad():
        for place in (0, 7, 39):
            x = normalize(split.read([int(plan.chosen[place])]), split.info)
            target = int(model(x).argmax())
            map_ = cam.upsample(cam.grad_cam(model, model.pooled_layer, x, torch.tensor([target])), (16, 16))[0, 0]
            if len(set(map_.flatten().tolist())) < 256:
                map_ = None  # ties: their order is the seeded one, tested elsewhere
                continue
            expected = reference.drop_increase(model, x[0], torch.zeros_like(x[0]), map_, target, 0.3)
            for name, value in expected.items():
                assert stored["grad-cam", f"{name}@0.3"].values[place] == pytest.approx(value, abs=1e-6)


def test_summary_is_the_mean_of_the_store(scored):
    summary, stored = read(scored), table(scored)
    correct = stored["", "correct"].values > 0
    assert summary["model"]["accuracy"] == pytest.approx(correct.mean())
    assert summary["dataset"]["n"] == 40
    for row, columns in summary["scores"].items():
        for name, found in columns.items():
            series = stored[row, name]
            assert found["n"] == series.ok.sum()
            if found["n"]:
                assert found["mean"] == pytest.approx(series.values[series.ok].mean())
                right = series.ok & correct
                assert found["n_correct"] == right.sum()
            assert found["n"] + sum(found["undefined"].values()) + sum(found["errors"].values()) == 40
            assert not found["errors"]
    keep = stored["grad-cam", "insertion.curve"].values.mean(0)
    assert summary["curves"]["keep"]["grad-cam"] == pytest.approx(keep)
    assert summary["curves"]["fractions"][1] == 1 / 32


def test_gains_inverse_and_random(scored):
    stored = table(scored)
    gain = stored["random", "deletion.auc"].values - stored["grad-cam", "deletion.auc"].values
    assert np.allclose(stored["grad-cam", "deletion.gain"].values, gain)
    assert np.abs(stored["random", "deletion.gain"].values).max() == 0
    skill, inverse = stored["grad-cam", "infidelity.skill"].values, stored["inverse", "infidelity.skill"].values
    assert np.allclose(skill, -inverse, equal_nan=True)
    assert np.allclose(stored["inverse", "insertion.auc"].values, stored["grad-cam", "deletion.auc"].values)


def test_without_the_random_control_there_is_no_gain_over_it(run, scored, tmp_path):
    """The other columns are those of a run with the control, to the last bit."""
    own = score(run, out=tmp_path, limit=40, metrics=("deletion", "drop"), explainers=("grad-cam", "inverse"))
    summary, stored, whole = read(own), table(own), table(scored)
    assert summary["status"] == "complete"
    assert "deletion.auc" in summary["columns"]
    assert "deletion.gain" not in summary["columns"]
    for row in ("grad-cam", "inverse"):
        assert np.array_equal(stored[row, "deletion.auc"].values, whole[row, "deletion.auc"].values)


@pytest.mark.fault("S13")
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter(run, tmp_path, batch_size):
    whole = table(score(run, out=tmp_path / "a", batch_size=256, limit=12))
    small = table(score(run, out=tmp_path / "b", batch_size=batch_size, limit=12))
    equal(whole, small, atol=1e-5)


@pytest.mark.fault("S14")
def test_the_same_command_twice_does_nothing(run, tmp_path):
    out = score(run, out=tmp_path, **FAST)
    before, values = (out / "scores.json").read_bytes(), table(out)

    class Hears:
        said: ClassVar[list[str]] = []

        def say(self, text):
            self.said.append(text)

        def track(self, items, total, label, *weigh):
            yield from items

    score(run, Hears(), out=tmp_path, **FAST)
    (said,) = Hears.said
    assert said.startswith("nothing to do")
    assert (out / "scores.json").read_bytes() == before
    equal(values, table(out))


def test_a_repeated_run_gives_the_same_rows(run, tmp_path):
    equal(table(score(run, out=tmp_path / "a", **FAST)), table(score(run, out=tmp_path / "b", **FAST)))


def test_interrupted_scoring_goes_on(run, tmp_path, monkeypatch):
    whole = table(score(run, out=tmp_path / "whole", metrics=("drop",)))
    original, calls = Store.put, []

    def dies_at_the_third(self, first, blocks):
        calls.append(first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, first, blocks)

    monkeypatch.setattr(Store, "put", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        score(run, out=tmp_path / "cut", metrics=("drop",))
    monkeypatch.setattr(Store, "put", original)
    done = set(calls[:2])
    seen = []
    compute = Scorer.score_chunk
    monkeypatch.setattr(
        Scorer,
        "score_chunk",
        lambda self, *given: seen.append(given[0].first) or compute(self, *given),
    )
    out = score(run, out=tmp_path / "cut", metrics=("drop",))
    assert not done & set(seen[2:])  # after the rehearsal
    equal(whole, table(out))


def test_more_metrics_later_compute_only_what_is_missing(run, tmp_path, monkeypatch):
    score(run, out=tmp_path, metrics=("drop",), limit=40)
    tasks_seen = []
    compute = Scorer.score_chunk

    def spy(self, chunk, tasks, *pixels):
        tasks_seen.extend(task.metric.name for task in tasks)
        return compute(self, chunk, tasks, *pixels)

    monkeypatch.setattr(Scorer, "score_chunk", spy)
    out = score(run, out=tmp_path, **FAST)
    assert set(tasks_seen) == {"complexity"}
    assert set(read(out)["columns"]) >= {"drop.mag@0.45", "complexity.gini"}


def test_other_definitions_never_mix(run, tmp_path):
    first = read(score(run, out=tmp_path, **FAST))
    other = read(score(run, out=tmp_path, fill="blur", **FAST))
    assert other["protocol"]["name"] == "xeval+metrics=drop,complexity+fill=blur"
    assert other["protocol"]["hash"] != first["protocol"]["hash"]
    assert other["scores"]["grad-cam"]["drop.mag@0.45"]["mean"] != first["scores"]["grad-cam"]["drop.mag@0.45"]["mean"]
    again = read(score(run, out=tmp_path, **FAST))
    assert again["scores"] == first["scores"]


def test_the_model_is_unchanged_and_counted(run, scored):
    assert read(scored)["cost"]["passes"] > 40 * 300
    plan = make_plan(run, ScoreOptions(limit=4, **{"metrics": ("drop",)}))
    assert [c.first for c in chunks(plan)] == [0]


def test_sample_is_stratified_and_seeded(run, tmp_path):
    labels = table(score(run, out=tmp_path, **FAST))["", "label"].values
    assert set(np.bincount(labels.astype(int))) == {4}
    assert read(tmp_path)["dataset"]["selection"] == "stratified sample, seed 0"


def test_artifacts(scored):
    from safetensors.numpy import load_file

    tensors, about = load_file(scored / "artifacts.safetensors"), json.loads((scored / "artifacts.json").read_text())
    assert about["classes"] == ["0", "2", "4", "6", "8"]
    assert tensors["tsne.points"].shape == (40, 2)
    assert tensors["tsne.masked"].tolist() == [0] * 20 + [1] * 20
    assert tensors["features"].dtype == np.float16
    assert about["embedding"]["separation_ratio"] > 0
    assert 0 <= about["embedding"]["knn_accuracy"] <= 1


def test_exported_file_scores_the_same(run, tmp_path):
    from xeval.checkpoints.load import export

    export(run, tmp_path / "ckpt.pt")
    out = score(tmp_path / "ckpt.pt", **FAST)
    assert out == tmp_path / "ckpt.pt.xeval"
    equal(table(out), table(score(run, out=tmp_path / "x", **FAST)))


@pytest.mark.fault("S26")
def test_files_that_differ_in_their_suffix_keep_their_scores_apart(run, tmp_path):
    from xeval.checkpoints.load import export

    export(run, tmp_path / "m.pt")
    export(run, tmp_path / "m.pth", weights="last")
    folders = [score(tmp_path / name, **FAST) for name in ("m.pt", "m.pth")]
    assert folders == [tmp_path / "m.pt.xeval", tmp_path / "m.pth.xeval"]
    assert len({read(folder)["checkpoint"]["sha256"] for folder in folders}) == 2


def test_a_folder_under_its_earlier_name_goes_on_where_the_weights_are_the_same(run, tmp_path):
    from xeval.checkpoints.load import export

    export(run, tmp_path / "m.pt")
    export(run, tmp_path / "m.pth", weights="last")
    earlier = score(tmp_path / "m.pth", **FAST).rename(tmp_path / "m.xeval")
    before = (earlier / "scores.sqlite").read_bytes()
    assert score(tmp_path / "m.pth", **FAST) == earlier
    assert (earlier / "scores.sqlite").read_bytes() == before  # nothing was to do
    assert score(tmp_path / "m.pt", **FAST) == tmp_path / "m.pt.xeval"
    (earlier / "scores.json").write_text("{")
    assert score(tmp_path / "m.pth", **FAST) == tmp_path / "m.pth.xeval"


def test_maps_are_kept_on_request(run, tmp_path):
    from safetensors.torch import load_file

    out = score(run, out=tmp_path, save_maps=True, **FAST)
    assert load_file(out / "maps.safetensors")["grad-cam"].shape == (40, 1, 4, 4)


@pytest.mark.fault("S17")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dataset": "digit"}, UsageError, "did you mean 'digits'"),
        ({"dataset": "shapes"}, DataError, "the head has 10 outputs, shapes has"),
        ({"metrics": ("dropp",)}, UsageError, "did you mean 'drop'"),
        ({"explainers": ("gradcam",)}, UsageError, "did you mean 'grad-cam'"),
        ({"explainers": ("random",)}, UsageError, "only control explainers"),
        ({"layer": "backbone.stag"}, UsageError, "did you mean 'backbone.stage'"),
        ({"protocol": "xevall"}, UsageError, "did you mean 'xeval'"),
        ({"fill": "noize"}, UsageError, "unknown fill"),
        ({"limit": 0}, UsageError, "--limit"),
        ({"target": "other"}, UsageError, "--target"),
        ({"split": "tests"}, UsageError, "did you mean 'test'"),
        ({"weights": "worst"}, UsageError, "--weights"),
        ({"surprise": 1}, UsageError, "--surprise"),
        ({"thresholds": (0.15, 1.5)}, UsageError, "the threshold 1.5"),
    ],
)
def test_mistakes_are_named(run, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        score(run, out=tmp_path / "out", **options)
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.mark.fault("S4")
def test_an_unwritable_output_is_told_before_the_work(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"):
        score(run, out=tmp_path / "file" / "below", **FAST)
    with pytest.raises(UsageError, match="does not exist"):
        score(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="no complete run"):
        score(tmp_path)


def test_foreign_class_order_and_normalisation_are_refused(run, tmp_path):
    import shutil

    for change, message in ((("classes", list("9876543210")), "other classes"), (("mean", [0.1]), "trained with mean")):
        copy = tmp_path / change[0]
        shutil.copytree(run, copy)
        card = json.loads((copy / "run.json").read_text())
        card["dataset"][change[0]] = change[1]
        (copy / "run.json").write_text(json.dumps(card))
        with pytest.raises(DataError, match=message):
            score(copy, **FAST)


def test_a_damaged_manifest_is_named(run, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"schema": "xeval.run/1", "loss": NaN}')
    with pytest.raises(DataError, match="not valid JSON"):
        score(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"schema": "xeval.run/1"}')
    with pytest.raises(DataError, match=r"run\.json: name"):
        score(tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").write_bytes(b"")
    with pytest.raises((CheckpointError, DataError)):
        score(tmp_path / "run" / "best.safetensors")


@pytest.mark.fault("D13")
def test_low_accuracy_is_flagged(run, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    card["selection"]["best_accuracy"] = 0.99
    (tmp_path / "run" / "run.json").write_text(json.dumps(card))
    warnings = read(score(tmp_path / "run", **FAST))["warnings"]
    assert any("more than 5 points below the 0.990" in text for text in warnings)
    assert any("level of chance" in text for text in warnings)


def test_calibration_by_hand():
    from xeval.scoring.summary import expected_calibration_error, reliability

    confidence, correct = np.array([0.9, 0.9, 0.62, 0.62]), np.array([True, False, True, True])
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.38)
    assert sum(reliability(confidence, correct)["count"]) == 4


def test_store_survives_as_plain_sqlite(scored):
    assert sqlite3.connect(scored / "scores.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert scoring.SCORES == "scores.json"
