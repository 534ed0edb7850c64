"""Faults while scoring: memory, devices, defects and gaps; what was finished is kept and what is missing counted."""

import numpy as np
import pytest
import torch
from torch import nn

import xeval
import xeval.scoring.scorer
from tests.commands import here
from tests.faults.scored import FAST, SMALL, Hears, among, equal, fault_at, images_of, read, table
from xeval.errors import DataError, InternalError, PartialError, ResourceError
from xeval.scoring import run as scoring
from xeval.scoring.completeness import missing_values
from xeval.scoring.maps import Maps
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.run import score
from xeval.scoring.scorer import Chunk, Scorer, make_scorer
from xeval.scoring.store import Series, Store

# ---- memory and devices


@pytest.mark.fault("S5")
def test_memory_for_64_images_gives_the_same_numbers(run, whole, tmp_path, monkeypatch):
    def full(images, _):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    fault_at(monkeypatch, lambda images: len(images) > 64, full)
    hears = Hears()
    out = score(run, hears, out=tmp_path, **{**FAST, "batch_size": 256})
    equal(table(out), whole, atol=1e-5)
    (said,) = (text for text in hears.said if "memory" in text)
    assert "256→64" in said


@pytest.mark.fault("S6")
def test_no_memory_for_one_image(run, tmp_path, capsys, monkeypatch):
    out = score(run, out=tmp_path, **{**FAST, "metrics": ("drop",)})
    kept = table(out)

    def full(images, _):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    fault_at(monkeypatch, lambda _: True, full)
    left, _, last = here(capsys, "score", str(run), "--out", str(tmp_path), *SMALL)
    assert left == 5
    assert "--batch-size" in last
    assert "--device cpu" in last
    equal(table(tmp_path), kept)


@pytest.mark.fault("S21")
@pytest.mark.parametrize("error", [getattr(torch, "AcceleratorError", RuntimeError), RuntimeError])
def test_a_device_that_fails_in_the_middle(run, whole, tmp_path, monkeypatch, error):
    saved, original = [], Store.put

    def put(self, first, blocks):
        original(self, first, blocks)
        saved.append(first)

    def lost(images, _):
        raise error("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", put)
        fault_at(patch, lambda _: bool(saved), lost)
        with pytest.raises(ResourceError, match="the device failed .CUDA error"):
            score(run, out=tmp_path, **FAST)
    assert len(table(tmp_path)["", "p0"].values) == 64
    equal(table(score(run, out=tmp_path, **FAST)), whole)


# ---- defects and gaps


def failing(monkeypatch, metric, image):
    """A metric that raises an error whenever a certain image is among those it is given."""
    original = xeval.scoring.scorer.task_blocks

    def task_blocks(task, scene, rows, meter):
        if task.metric.name == metric and bool(among(image)(scene.images).any()):
            raise RuntimeError("a defect")
        return original(task, scene, rows, meter)

    monkeypatch.setattr(xeval.scoring.scorer, "task_blocks", task_blocks)


@pytest.mark.fault("S7")
def test_a_metric_with_a_defect_loses_one_image_and_nothing_else(run, whole, tmp_path, monkeypatch):
    image, (name,) = images_of(run, [70])
    with monkeypatch.context() as patch:
        failing(patch, "complexity", image)
        with pytest.raises(
            InternalError, match=f"complexity failed on 1 images, first complexity on {name} "
        ) as caught:
            score(run, out=tmp_path, **FAST)
    trace = tmp_path / "traceback-complexity.txt"
    assert str(trace) in caught.value.remedy
    assert "RuntimeError: a defect" in trace.read_text()
    assert read(tmp_path)["status"] == "partial"
    for (explainer, column), series in table(tmp_path).items():
        expected = whole[explainer, column]
        kept = np.arange(100) != 70 if column.startswith("complexity") else np.ones(100, bool)
        assert np.allclose(series.values[kept], expected.values[kept], atol=1e-5, equal_nan=True)
        assert np.array_equal(series.ok[kept], expected.ok[kept])
        assert kept.all() or series.counts("error") == {"RuntimeError": 1}
    seen = []
    compute = Scorer.score_chunk
    with monkeypatch.context() as patch:
        patch.setattr(
            Scorer,
            "score_chunk",
            lambda self, *given: seen.append(given[:2]) or compute(self, *given),
        )
        again = score(run, out=tmp_path, **FAST)
    assert {(chunk.first, *(task.metric.name for task in tasks)) for chunk, tasks in seen} == {(64, "complexity")}
    assert read(again)["status"] == "complete"
    equal(table(again), whole, atol=1e-5)


@pytest.mark.fault("S7")
def test_a_defect_everywhere_keeps_the_other_metrics(run, whole, tmp_path, capsys, monkeypatch):
    original = xeval.scoring.scorer.task_blocks
    monkeypatch.setattr(
        xeval.scoring.scorer,
        "task_blocks",
        lambda task, scene, rows, meter: (
            1 / 0 if task.metric.name == "deletion" else original(task, scene, rows, meter)
        ),
    )
    options = ("--metrics", "drop,deletion", "--limit", "20", "--device", "cpu", "--out", str(tmp_path))
    left, out, last = here(capsys, "score", str(run), *options)
    assert left == 1
    assert "deletion failed on 20 images, first deletion on" in last
    assert "drop.mag@0.45" in out
    found = read(tmp_path)["scores"]["grad-cam"]
    assert found["drop.mag@0.45"]["n"] == 20
    assert found["deletion.auc"]["errors"] == {"ZeroDivisionError": 20}
    assert found["deletion.auc"]["mean"] is None


@pytest.mark.fault("S8", "S10")
def test_a_network_that_gives_nan_is_told_with_the_images(run, whole, tmp_path, capsys, monkeypatch):
    images, (first, second) = images_of(run, [3, 77])

    def nan(x, logits):
        return torch.where(among(images)(x)[:, None], torch.nan, logits)

    fault_at(monkeypatch, lambda x: bool(among(images)(x).any()), nan)
    left, _, last = here(capsys, "score", str(run), "--out", str(tmp_path), *SMALL)
    assert left == 3
    assert "the network has no value for 2 of 100 images (network output not finite: 2)" in last
    assert f"first {first}, {second}" in last
    summary, found = read(tmp_path), table(tmp_path)
    assert summary["status"] == "partial"
    others = np.setdiff1d(np.arange(100), [3, 77])
    for key, series in found.items():
        if key[1] != "label" and key[0] not in ("shuffled",):
            assert not series.ok[[3, 77]].any(), key
            assert np.allclose(series.values[others], whole[key].values[others], atol=1e-5, equal_nan=True), key
    assert summary["scores"]["grad-cam"]["drop.mag@0.3"]["n"] == 98
    left, _, last = here(capsys, "score", str(run), "--out", str(tmp_path), "--allow-partial", *SMALL)
    assert left == 7
    assert last.startswith("xeval: error[E700]: ")
    with pytest.raises(DataError, match="network output not finite"):
        score(run, out=tmp_path, **FAST)
    assert isinstance(
        scoring.run(run, ScoreOptions(out=tmp_path, allow_partial=True, **FAST), Hears()).shortfall, PartialError
    )


@pytest.mark.fault("S10")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_is_no_ranking(run, tmp_path, monkeypatch, value):
    """Ranks, and so finite scores, exist for NaN maps too: the map itself is looked at."""
    original = Maps._shown

    def shown(self, maps):
        maps = original(self, maps).clone()
        maps[0, 0, 0, 0] = value
        return maps

    monkeypatch.setattr(Maps, "_shown", shown)
    with pytest.raises(
        DataError, match=r"of grad-cam has no value for 2 of 100 images \(map not finite: 2\), first \S+, "
    ):
        score(run, out=tmp_path, explainers=("grad-cam", "random"), **FAST)
    found = table(tmp_path)
    assert found["grad-cam", "drop.mag@0.3"].counts("error") == {"map not finite": 2}
    assert found["random", "drop.mag@0.3"].ok.all()


@pytest.mark.fault("S8")
@pytest.mark.parametrize(("count", "told"), [(1, False), (10, False), (11, True), (50, True)])
def test_reasons_nobody_expects_are_tolerated_up_to_one_percent(count, told):
    status = np.zeros(1000, np.uint8)
    status[5 : 5 + count] = 1
    series = Series(np.zeros(1000), status, {1: ("undefined", "no number from Quantus"), 2: ("undefined", "empty map")})
    found = missing_values(series, "x", [f"image {n}" for n in range(1000)])
    assert (found is not None) == told
    assert not told or found.startswith(f"x has no value for {count} of 1,000 images (no number from Quantus: {count})")
    status[:] = 2
    assert missing_values(Series(np.zeros(1000), status, series.meaning), "x", ["i"] * 1000) is None


@pytest.mark.fault("S18")
def test_a_map_of_one_pixel_is_flagged():
    network = nn.Sequential(nn.Conv2d(1, 4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)).eval()
    data = [(torch.rand(6, 1, 16, 16), torch.arange(6) % 3)]
    found = xeval.score(network, data, metrics=("drop",), layer="0", device="cpu", batch_size=8)
    assert any("CAM resolution 1×1 at 0" in text for text in found.attrs["summary"]["warnings"])


# ---- the same numbers


@pytest.mark.fault("S11")
def test_thresholds_of_nothing_and_everything_are_defined(run, tmp_path):
    found = read(score(run, out=tmp_path, thresholds=(0.0, 1.0), metrics=("drop",), limit=20))["scores"]["grad-cam"]
    assert found["drop.mag@1"]["mean"] == 0
    assert found["increase.rate@1"]["mean"] == 0
    assert found["drop.mag@0"]["n"] == 20


@pytest.mark.fault("S12")
def test_limits(run, tmp_path):
    assert read(score(run, out=tmp_path / "one", limit=1, metrics=("drop", "complexity")))["dataset"]["n"] == 1
    hears = Hears()
    assert read(score(run, hears, out=tmp_path / "all", limit=9999, metrics=("complexity",)))["dataset"]["n"] == 360
    assert any("--limit 9,999" in text and "360 images" in text for text in hears.said)


@pytest.mark.fault("S13")
def test_the_order_of_the_images_changes_nothing(run):
    options = ScoreOptions(**{**FAST, "metrics": ("drop", "infidelity", "deletion", "ssim")})
    plan = make_plan(run, options)
    scorer = make_scorer(plan, options)
    places = [int(i) for i in plan.chosen[:24]]
    order = np.random.default_rng(0).permutation(24)
    straight = scorer.score_chunk(Chunk(0, places), list(plan.tasks))
    mixed = scorer.score_chunk(Chunk(0, [places[i] for i in order]), list(plan.tasks))
    for key, block in straight.items():
        assert np.allclose(block.values[order], mixed[key].values, rtol=0, atol=1e-5, equal_nan=True), key


@pytest.mark.fault("S14")
def test_the_same_command_twice(run, tmp_path):
    score(run, out=tmp_path, **FAST)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    hears = Hears()
    score(run, hears, out=tmp_path, **FAST)
    (said,) = hears.said
    assert said.startswith("nothing to do")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.fault("S19")
def test_a_clock_that_jumps_backwards(run, whole, tmp_path, monkeypatch):
    now = iter(range(10**6, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(now)))
    equal(table(score(run, out=tmp_path, **FAST)), whole)
