"""No host round trip in a hot loop: fills, explainers, masks and settings off their defaults run on the meta device.

There ``.item()``, ``.cpu()``, ``.tolist()``, ``if tensor`` and indexing with a boolean mask raise. The defaults of
every metric are tested in tests/metrics/test_metrics.py. captum reads the class back where a batch is a single image.
"""

from dataclasses import replace

import pytest
import torch

from tests.explainers.networks import OF_ATTENTION
from tests.scenes import SIDE, live, scene_of, small_model
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS
from xeval.perturb.fills import FILLS

# captum fits the linear models of the first two on the host, image by image; numpy knows no other place.
ON_THE_HOST = {"lime", "kernel-shap", "eigen-cam-numpy"}
OFF_DEFAULT = [
    ("drop", {"mask": "soft"}),
    ("drop", {"mask": "cutoff"}),
    ("drop", {"thresholds": (0.0, 0.5, 1.0)}),
    ("infidelity", {"perturbation": "noisy_baseline", "n": 3}),
    ("pixelflip", {"semantics": "0.5"}),
    ("ssim", {"legacy_clip_normalised": True}),
]


@pytest.fixture
def scene():
    """Three images on the meta device."""
    with torch.device("meta"):
        found = scene_of(small_model(), torch.zeros(3, 3, SIDE, SIDE), ids=["a", "b", "c"])
        yield replace(found, keys=torch.zeros(3, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("name", [name for name, _ in FILLS.items()])
def test_fills(scene, name):
    about = FILLS[name]
    fill = about.make(scene.images, scene.mean, scene.pixel, scene.keys, 0)
    found = METRICS["deletion"].score(
        live(replace(scene, fill=fill, compose=about.compose)), METRICS["deletion"].settings(), None
    )
    assert all(values.value.device.type == "meta" for values in found.values())


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in (*ON_THE_HOST, *OF_ATTENTION)])
def test_explainers(scene, name):
    model = scene.engine.model
    for layer in (model.pooled_layer, "backbone.layer2"):  # in closed form where there is one, and with a backward pass
        maps = scene.engine.explain(EXPLAINERS[name], layer, scene.images, scene.targets)
        assert maps.device.type == "meta"
        assert maps.shape[:2] == (3, 1)


@pytest.mark.parametrize("name", sorted(ON_THE_HOST))
def test_others_do_come_to_the_host(scene, name):
    """The list above holds what belongs there."""
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        scene.engine.explain(EXPLAINERS[name], scene.engine.model.pooled_layer, scene.images, scene.targets)


@pytest.mark.parametrize(("name", "changes"), OFF_DEFAULT, ids=str)
def test_settings_off_their_defaults(scene, name, changes):
    metric = METRICS[name]
    settings = metric.settings(**changes)
    found = metric.score(live(scene), settings, metric.prepare(scene, settings))
    assert all(values.value.device.type == "meta" for values in found.values())


@pytest.mark.parametrize(
    "look",
    [
        lambda maps: maps.sum().item(),
        lambda maps: maps.cpu(),
        lambda maps: maps.tolist(),
        lambda maps: 1 if maps.sum() > 0 else 0,
        lambda maps: maps[maps > 0],
        lambda maps: maps.numpy(),
    ],
    ids=["item", "cpu", "tolist", "if", "mask", "numpy"],
)
def test_a_look_at_the_host_would_be_seen(scene, look):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        look(live(scene).maps)
