"""Every registered metric: planted truth, batch independence, what it declares, odd maps, the meta device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.scenes import SIDE, MeanOfPixels, control, explained, images, live, region, scene_of, small_model
from xeval.explainers import CONTROLS
from xeval.metrics import METRICS, Explained
from xeval.metrics.metric import EXPECTED_REASONS
from xeval.scoring.scorer import average

NATIVE = [name for name in METRICS if not name.startswith("quantus:")]


def scores(name: str, one: Explained):
    metric = METRICS[name]
    settings = metric.settings()
    return metric.score(one, settings, metric.prepare(one.scene, settings))


def means(name: str, one: Explained) -> dict[str, float]:
    found = {}
    for column, values in scores(name, one).items():
        undefined = torch.zeros(len(values.value), dtype=torch.bool)
        for where in values.undefined.values():
            undefined |= where
        found[column] = float(values.value[~undefined].mean()) if (~undefined).any() else float("nan")
    return found


def of(family: str) -> list[str]:
    """The metrics of one family."""
    return [name for name in NATIVE if METRICS[name].family == family]


def directed(name: str) -> list[tuple[str, int]]:
    """(column, +1 if higher is better) of the columns that say so, without gains, which scoring fills in."""
    metric = METRICS[name]
    columns = [c for c in metric.columns(metric.settings()) if c.direction and c.name not in metric.gain_of]
    return [(c.name, 1 if c.direction == "higher" else -1) for c in columns]


# ---- planted truth ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """A network whose score is the mean of known pixels; bright images: keeping those pixels keeps the score."""
    torch.manual_seed(0)
    x = 1 + 0.2 * images(24)
    scene = scene_of(MeanOfPixels(region()), x)
    oracle = explained(scene, region().expand(24, 1, SIDE, SIDE) + 0.01 * images(24, 1, seed=5))
    return scene, oracle


@pytest.mark.parametrize("name", of("faithfulness"))
@pytest.mark.fault("P10")
def test_faithfulness_oracle_beats_random_beats_inverse(name, planted):
    scene, oracle = planted
    best, worst = means(name, oracle), means(name, oracle.inverted())
    draws = [scores(name, control(scene, "random", oracle, d)) for d in range(5)]
    random = {column: float(values.value.mean()) for column, values in average(draws).items()}
    for column, sign in directed(name):
        if column.startswith("increase"):
            assert best[column] == random[column] == worst[column] == 0  # nothing outside the region adds to the score
            continue
        if column == "drop.rate@0.15":  # less than the region is kept: every image drops whatever the map
            assert best[column] == random[column] == worst[column] == 1
            continue
        assert sign * (best[column] - random[column]) > 0.02, column
        assert sign * (random[column] - worst[column]) > 0.02 or column.startswith("drop.rate"), column


def test_increase_is_seen_where_the_network_prefers_the_masked_image():
    class PrefersDark(MeanOfPixels):
        """The score falls with the pixels outside the region: keeping only the region raises it."""

        def forward(self, x):
            outside = (x.mean(1) * (1 - self.where)).sum((-2, -1)) / (1 - self.where).sum()
            return super().forward(x) - torch.stack([3 * outside, torch.zeros_like(outside)], 1)

    scene = scene_of(PrefersDark(region()), 1 + 0.2 * images(8))
    oracle = explained(scene, region().expand(8, 1, SIDE, SIDE).clone())
    best, worst = means("drop", oracle), means("drop", oracle.inverted())
    assert best["increase.rate@0.3"] == 1
    assert best["increase.mag@0.3"] > 0.01 > worst["increase.mag@0.3"]
    assert best["drop.mag@0.3"] == 0


@pytest.mark.parametrize("name", of("complexity"))
@pytest.mark.fault("P10")
def test_complexity_one_hot_beats_blob_beats_uniform(name):
    scene = scene_of(small_model(), images(3))
    one_hot, uniform = torch.zeros(3, 1, SIDE, SIDE), torch.ones(3, 1, SIDE, SIDE)
    one_hot[..., 5, 6] = 1
    blob = control(scene, "centre", explained(scene, uniform)).maps
    found = [means(name, explained(scene, maps)) for maps in (one_hot, blob, uniform)]
    for column, sign in directed(name):
        assert sign * (found[0][column] - found[1][column]) > 0.05, column
        assert sign * (found[1][column] - found[2][column]) > 0.01, column


@pytest.mark.parametrize("name", of("continuity"))
@pytest.mark.fault("P10")
def test_continuity_constant_beats_smooth_beats_redrawn(name):
    scene = scene_of(small_model(), images(6))
    smooth_map = lambda x: torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2) + 0.5  # noqa: E731
    constant = explained(scene, torch.ones(6, 1, SIDE, SIDE))
    smooth = explained(scene, smooth_map(scene.images), lambda x, _number, **_: smooth_map(x))
    redrawn = control(scene, "random", constant)
    found = [means(name, one) for one in (constant, smooth, redrawn)]
    for column, sign in directed(name):
        assert sign * (found[0][column] - found[1][column]) > 0, column
        assert sign * (found[1][column] - found[2][column]) > 0.1, column


@pytest.mark.parametrize("name", of("localisation"))
@pytest.mark.fault("P10")
def test_localisation_oracle_beats_random_beats_inverse(name, planted):
    """The object is the region the network looks at; a little noise leaves the inverse something positive outside."""
    scene, oracle = planted
    found = [means(name, one) for one in (oracle, control(scene, "random", oracle), oracle.inverted())]
    for column, sign in directed(name):
        assert sign * (found[0][column] - found[1][column]) > 0.3, column
        assert sign * (found[1][column] - found[2][column]) > 0.1, column


@pytest.mark.parametrize("name", of("contrastivity"))
@pytest.mark.fault("P10")
def test_contrastivity_another_place_beats_half_of_it_beats_the_same(name):
    scene = scene_of(small_model(), images(6))
    own = region().expand(6, 1, SIDE, SIDE)

    def shifted(by: int) -> Explained:
        """Another class's map is the own one, moved."""

        def maps(_x, _number, *, targets=None, **_):
            return own if targets is None else own.roll(by, -1)

        return explained(scene, own, maps)

    found = [means(name, shifted(by)) for by in (8, 4, 0)]
    for column, sign in directed(name):
        assert sign * (found[0][column] - found[1][column]) > 0.1, column
        assert sign * (found[1][column] - found[2][column]) > 0.1, column


@pytest.mark.parametrize("name", of("randomisation"))
@pytest.mark.fault("P10")
def test_randomisation_learned_beats_blind(name):
    """A map that becomes noise for another network and another class, against one that knows neither."""
    scene = scene_of(small_model(), images(6))
    smooth = control(scene, "centre", explained(scene, torch.ones(6, 1, SIDE, SIDE))).maps.round(decimals=1)

    def maps(_x, _number, *, targets=None, model=None):
        return smooth if targets is None and model is None else images(6, 1, seed=9)

    found = [means(name, explained(scene, smooth, again)) for again in (maps, None)]
    for column, sign in directed(name):
        assert sign * (found[0][column] - found[1][column]) > 0.3, column


@pytest.mark.parametrize("name", of("model"))
def test_model_columns_are_the_same_for_every_map(name):
    scene = scene_of(small_model(), images(6))
    one, other = (scores(name, explained(scene, images(6, 1, seed=seed))) for seed in (1, 2))
    assert all(torch.equal(one[column].value, other[column].value) for column, _ in directed(name))


def test_every_family_is_covered():
    tested = {"faithfulness", "localisation", "complexity", "continuity", "contrastivity", "randomisation", "model"}
    assert {METRICS[name].family for name in NATIVE} == tested


# ---- batch independence ----------------------------------------------------------------------------------------------


def values_for(name: str, ids: list[int], batch_size: int) -> dict[str, torch.Tensor]:
    scene = scene_of(small_model(), images(64)[ids], batch_size=batch_size, ids=[str(i) for i in ids])
    return {column: values.value for column, values in scores(name, live(scene)).items()}


@pytest.mark.parametrize("name", NATIVE)
def test_neighbours_batch_size_and_order_do_not_matter(name):
    whole = values_for(name, list(range(12)), 64)
    by_seven = values_for(name, list(range(12)), 7)
    shuffled = values_for(name, [7, 3, 11, 0], 64)
    alone = values_for(name, [3], 1)
    for column, value in whole.items():
        assert torch.allclose(by_seven[column], value, atol=1e-5), column
        assert torch.allclose(shuffled[column], value[[7, 3, 11, 0]], atol=1e-5), column
        assert torch.allclose(alone[column], value[3:4], atol=1e-5), column
    again = values_for(name, list(range(12)), 64)
    assert all(torch.equal(again[column], value) for column, value in whole.items())


# ---- declarations, odd maps, the device ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NATIVE)
def test_declared_columns_are_what_comes_out(name):
    metric = METRICS[name]
    columns = metric.columns(metric.settings())
    scene = scene_of(small_model(), images(4))
    found = scores(name, explained(scene, images(4, 1)))
    assert set(found) == ({c.name for c in columns} | set(metric.curves)) - set(metric.gain_of)
    for column in columns:
        if column.name in metric.gain_of:
            continue
        value = found[column.name].value
        assert value.shape == (4,)
        assert column.low is None or (value >= column.low - 1e-9).all()
        assert column.high is None or (value <= column.high + 1e-9).all()
    assert metric.convention(metric.settings())
    assert metric.citation


def odd_maps(kind: str, n: int) -> torch.Tensor:
    one_pixel = torch.zeros(n, 1, SIDE, SIDE)
    one_pixel[..., 3, 3] = 1
    return {
        "empty": -torch.ones(n, 1, SIDE, SIDE),
        "zero": torch.zeros(n, 1, SIDE, SIDE),
        "constant": torch.full((n, 1, SIDE, SIDE), 0.3),
        "one pixel": one_pixel,
        "1×1 CAM": torch.full((n, 1, 1, 1), 2.0),
    }[kind]


@pytest.mark.fault("S9")
@pytest.mark.parametrize("kind", ["empty", "zero", "constant", "one pixel", "1×1 CAM"])
@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_maps_give_finite_values_or_a_reason(name, kind, channels):
    x = images(3, channels)
    x[1] = 0.25  # one constant image
    scene = scene_of(small_model(channels), x)
    for column, values in scores(name, explained(scene, odd_maps(kind, 3))).items():
        undefined = torch.zeros(3, dtype=torch.bool)
        for reason, where in values.undefined.items():
            assert reason in EXPECTED_REASONS
            undefined |= where
        assert values.value[~undefined].isfinite().all(), column


@pytest.mark.parametrize("name", NATIVE)
def test_no_host_round_trip(name):
    """The whole metric runs on the meta device, where reading a value back raises."""
    with torch.device("meta"):
        scene = scene_of(small_model(), torch.zeros(3, 3, SIDE, SIDE), ids=["a", "b", "c"])
        scene = replace(scene, keys=torch.zeros(3, dtype=torch.int64, device="meta"))
        one = live(scene)
        found = scores(name, one)
        for control_name, about in CONTROLS.items():
            if about.draw is not None:
                scores(name, control(scene, control_name, one))
        scores(name, one.inverted())
    assert all(values.value.device.type == "meta" for values in found.values())
