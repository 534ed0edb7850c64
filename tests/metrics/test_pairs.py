"""Every metric with every explainer: finite values or a counted reason, on flat images and maps, of 8 to 224 px."""

from __future__ import annotations

import pytest
import torch

from tests.explainers.networks import OF_ATTENTION, attentive
from tests.scenes import explained, images, live, scene_of, small_model
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS, Explained
from xeval.metrics.metric import EXPECTED_REASONS

CHEAP = {
    "drop": {"thresholds": (0.3,)},
    "deletion": {"steps": 2},
    "insertion": {"steps": 2},
    "infidelity": {"n": 4},
    "faithcorr": {"n": 4},
    "ssim": {"n": 2},
    "sensitivity": {"n": 2},
    "lipschitz": {"n": 2},
    "pixelflip": {"step": 32},
}
MANY_PASSES = {"lime", "kernel-shap", "smoothgrad"}
ALL = [
    pytest.param(name, marks=pytest.mark.slow) if name in MANY_PASSES else name
    for name in EXPLAINERS
    if name not in OF_ATTENTION
]
NATIVE = [name for name in METRICS if not name.startswith("quantus:")]


def pictures(channels: int, side: int) -> torch.Tensor:
    """One random image, one of a single colour, one black."""
    x = images(3, channels, side)
    x[1], x[2] = 0.25, -2.0
    return x


def assert_finite(one: Explained, **changes: dict[str, object]) -> None:
    for name in NATIVE:
        metric = METRICS[name]
        settings = metric.settings(**{**CHEAP.get(name, {}), **changes.get(name, {})})
        for column, values in metric.score(one, settings, metric.prepare(one.scene, settings)).items():
            undefined = torch.zeros(len(values.value), dtype=torch.bool)
            for reason, where in values.undefined.items():
                assert reason in EXPECTED_REASONS
                undefined |= where
            assert values.value[~undefined].isfinite().all(), column


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_every_explainer(name, channels):
    assert_finite(live(scene_of(small_model(channels), pictures(channels, 8)), name))


@pytest.mark.parametrize("name", OF_ATTENTION)
def test_every_explainer_of_attention(name):
    model = attentive(8)
    model.pooled_layer = ""  # which they do not read
    assert_finite(live(scene_of(model, pictures(3, 8)), name))


def maps_of(kind: str, side: int) -> torch.Tensor:
    maps = torch.zeros(3, 1, 1 if kind == "1×1 CAM" else side, 1 if kind == "1×1 CAM" else side)
    maps[..., 0, 0] = 1 if kind in ("one pixel", "1×1 CAM") else 0
    return {"constant": maps + 0.3, "empty": maps - 1}.get(kind, maps)


@pytest.mark.parametrize("kind", ["constant", "empty", "one pixel", "1×1 CAM"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "side", [8, 28, pytest.param(64, marks=pytest.mark.slow), pytest.param(224, marks=pytest.mark.slow)]
)
def test_every_size(side, channels, kind):
    scene = scene_of(small_model(channels), pictures(channels, side))
    assert_finite(explained(scene, maps_of(kind, side)), pixelflip={"step": max(1, side**2 // 8)})
