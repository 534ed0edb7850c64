import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.commands import ROOT
from tests.scenes import SIDE, MeanOfPixels, control, explained, images, region, scene_of, small_model
from xeval.errors import UsageError
from xeval.explainers import cam
from xeval.metrics import METRICS, Explained
from xeval.metrics.complexity import entropy, gini
from xeval.metrics.metric import CONSTANT_MAP, EMPTY_MAP, NO_MASK, PREDICTION_CHANGED
from xeval.models import Classifier
from xeval.quantus_bridge import bridge
from xeval.quantus_bridge import runtime as quantus_runtime
from xeval.quantus_bridge import survey as quantus_status
from xeval.quantus_bridge.table import ENTRIES, TABLE

RUNNING = [entry.full_name for entry in ENTRIES if not entry.refused]
REFUSED = [entry.full_name for entry in ENTRIES if entry.refused]
DRAWN = {
    "FaithfulnessCorrelation",
    "MonotonicityCorrelation",
    "LocalLipschitzEstimate",
    "MaxSensitivity",
    "AvgSensitivity",
    "RelativeInputStability",
    "RelativeOutputStability",
    "RelativeRepresentationStability",
    "SmoothMPRT",
    "RandomLogit",
}


def live(channels=3, n=5, model=None):
    model, x = model or small_model(channels), images(n, channels)
    scene = replace(scene_of(model, x), masks=region().bool().expand(n, 1, SIDE, SIDE))

    def maps(versions, _number, *, targets=None, model=None):
        network = scene.engine.model if model is None else model
        return cam.grad_cam(network, network.pooled_layer, versions, scene.targets if targets is None else targets)

    return Explained(scene, maps(x, 0), maps)


@pytest.fixture(scope="module", params=[1, 3])
def one(request):
    return live(request.param)


def values(name, of):
    metric = METRICS[name]
    return metric.score(of, metric.settings(), None)[f"{name}.value"]


def value(name, of):
    return values(name, of).value


def some(of, rows):
    """The same scene with some of its images only."""
    scene = of.scene
    parts = {key: getattr(scene, key)[rows] for key in ("images", "keys", "targets", "labels", "p0", "fill", "masks")}
    scene = replace(scene, **parts)

    def maps(versions, _number, *, targets=None, model=None):
        network = scene.engine.model if model is None else model
        return cam.grad_cam(network, network.pooled_layer, versions, scene.targets if targets is None else targets)

    return Explained(scene, of.native[rows], maps)


# ---- every metric ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNNING)
def test_every_metric_runs_and_changes_nothing_else(name, one, monkeypatch):
    """It explains again if and only if it says that it needs an explainer."""
    explained_again, version = [], one.version
    monkeypatch.setattr(one, "version", lambda *a, **more: explained_again.append(name) or version(*a, **more))
    model = one.scene.engine.model
    before = [
        one.scene.images.clone(),
        one.maps.clone(),
        one.positive.clone(),
        *(p.clone() for p in model.state_dict().values()),
    ]
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    found = value(name, one)
    assert found.shape == (5,)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert bool(explained_again) == ("explainer" in METRICS[name].needs)
    after = [one.scene.images, one.maps, one.positive, *model.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(p.grad is None for p in model.parameters())
    if TABLE[name.removeprefix("quantus:")].name != "NonSensitivity":  # the slowest, and free of draws
        assert torch.equal(value(name, one), found)


@pytest.mark.parametrize(
    "name",
    [e.full_name for e in ENTRIES if not e.refused and e.scope != "block" and e.name not in DRAWN | {"NonSensitivity"}],
)
def test_what_draws_nothing_does_not_depend_on_the_neighbours(name):
    whole = live()
    scaled = Explained(whole.scene, whole.native * torch.tensor([1.0, 1, 1e4, 1, 1]).reshape(-1, 1, 1, 1), whole._again)
    assert torch.allclose(value(name, some(whole, [3, 0])), value(name, whole)[[3, 0]], atol=1e-5)
    if name not in ("quantus:Infidelity", "quantus:Continuity", "quantus:InputInvariance"):  # these explain again
        assert torch.allclose(value(name, scaled)[[3, 0]], value(name, whole)[[3, 0]], atol=1e-5)


def test_the_table_names_every_class_of_quantus_with_its_direction():
    import quantus

    classes = [c for group in quantus.AVAILABLE_METRICS.values() for c in group.values()]
    assert {c.__name__ for c in classes} == set(TABLE)
    turned = {"RegionPerturbation", "Infidelity", "Consistency"}
    for c in classes:
        assert c.__name__ in turned or TABLE[c.__name__].direction == c.score_direction.value, c
    for group, members in quantus.AVAILABLE_METRICS.items():
        assert {TABLE[c.__name__].group for c in members.values()} == {group}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_metrics_say_why(name):
    assert name not in METRICS
    with pytest.raises(UsageError, match="is refused: it "):
        bridge.require_accepted(["drop", name])
    bridge.require_accepted(["drop", *RUNNING])


def test_quantus_is_imported_by_the_first_metric_that_runs():
    code = "import sys, xeval.quantus_bridge.survey; sys.exit('quantus' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- what is repaired ------------------------------------------------------------------------------------------------


def test_same_facets_as_the_default_engine(one):
    assert len(bridge.FACETS) == 5
    assert torch.allclose(value("quantus:Complexity", one), entropy(one.positive), atol=1e-6)
    assert torch.allclose(value("quantus:Sparseness", one), gini(one.positive), atol=1e-6)
    auc = METRICS["deletion"].score(one, METRICS["deletion"].settings(), None)["deletion.auc"].value
    assert (value("quantus:PixelFlipping", one) - auc).abs().max() < 0.05  # Quantus leaves out the clean point


def test_quantus_is_repaired_for_the_call_only():
    from quantus.helpers import asserts, utils, warn

    before = [
        hasattr(np, "trapz"),
        utils.PyTorchModel,
        asserts.assert_attributions,
        warn.warn_perturbation_caused_no_change,
    ]
    with bridge.quantus_runtime(0):
        assert np.trapz([0.0, 1.0], dx=1) == 0.5
        assert utils.PyTorchModel is not before[1]
    with pytest.raises(KeyError), bridge.quantus_runtime(0):
        raise KeyError
    after = [
        hasattr(np, "trapz"),
        utils.PyTorchModel,
        asserts.assert_attributions,
        warn.warn_perturbation_caused_no_change,
    ]
    assert after == before


def test_no_model_is_kept_alive():
    of = live(model=small_model(seed=3))
    value("quantus:PixelFlipping", of)
    value("quantus:MPRT", of)
    kept = weakref.ref(of.scene.engine.model)
    del of
    gc.collect()
    assert kept() is None


def test_road_imputes_each_position_once():
    """Against a loop: the most relevant positions imputed by Quantus's own function, one at a time, same draws."""
    from quantus.functions.perturb_func import noisy_linear_imputation

    of, x = live(), images(5)
    given = bridge.given(of, of.maps)
    for n in range(5):
        order = np.argsort(-given.a[n].ravel(), kind="stable")
        kept = []
        with quantus_runtime.seeded(given.seeds[n]):
            for share in range(10, 100, 10):
                imputed = noisy_linear_imputation(x[n].numpy(), order[: SIDE * SIDE * share // 100], noise=0.01)
                predicted = of.scene.engine.model(torch.as_tensor(imputed, dtype=torch.float32)[None]).argmax()
                kept.append(float(predicted == of.scene.targets[n]))
        assert value("quantus:ROAD", of)[n].item() == pytest.approx(np.mean(kept), abs=0.112)  # ties at the cut


def test_irof_on_one_channel_is_quantus_alone_as_an_area():
    import quantus

    of = live(1)
    given = bridge.given(of, of.maps)
    for n in range(3):
        arguments = {"perturb_baseline": 0.0, "return_aggregate": False, "normalise": False, "disable_warnings": True}
        image = given.image(n)
        stock = quantus_runtime.run(quantus.IROF(**arguments), of, image)[0]
        from skimage.segmentation import slic

        segments = len(np.unique(slic(np.moveaxis(image.x[0], 0, -1).astype("double"), start_label=0)))
        assert value("quantus:IROF", of)[n].item() == pytest.approx((stock - 1) / (segments - 1), abs=1e-6)


def test_monotonicity_puts_pixels_back():
    """The score is the mean of known pixels: with bright images it can only rise, with dark ones only fall."""
    scene = replace(
        scene_of(MeanOfPixels(region()).eval(), 1 + 0.05 * images(4)), targets=torch.zeros(4, dtype=torch.int64)
    )
    one = explained(scene, images(4, 1, seed=1))
    assert value("quantus:Monotonicity", one).tolist() == [1, 1, 1, 1]
    dark = replace(scene, images=-scene.images)
    assert value("quantus:Monotonicity", explained(dark, one.native)).tolist() == [0, 0, 0, 0]


def test_randomisation_leaves_the_unrandomised_network_out():
    import quantus

    of = live()
    found = quantus_runtime.run(quantus.MPRT(normalise=False, disable_warnings=True), of, bridge.given(of, of.maps))
    assert np.allclose(found["original"], 1)
    layers = [scores for name, scores in found.items() if name != "original"]
    assert len(layers) == sum(hasattr(m, "reset_parameters") for m in of.scene.engine.model.modules())
    assert np.allclose(value("quantus:MPRT", of).numpy(), np.mean(layers, 0))


@pytest.mark.parametrize("name", ["quantus:MPRT", "quantus:SmoothMPRT"])
def test_a_map_that_ignores_the_network_survives_its_randomisation(name):
    scene = live().scene
    fixed = Explained(scene, images(5, 1), lambda versions, _number, **_: versions[:, :1])
    if name == "quantus:MPRT":
        fixed = explained(scene, images(5, 1))
    assert value(name, fixed).min() > 0.8  # SmoothMPRT adds fresh noise for each layer


def test_explanations_that_do_not_move_have_no_lipschitz_constant():
    maps = images(5, 1, seed=4) * torch.tensor([1.0, 2, 3, 10, 100]).reshape(-1, 1, 1, 1)
    one = explained(live().scene, maps)
    for name in ("LocalLipschitzEstimate", "Continuity", "MaxSensitivity", "AvgSensitivity"):
        assert value(f"quantus:{name}", one).abs().max() < 1e-6, name


def test_input_invariance_tells_activations_from_inputs():
    of = live()
    assert value("quantus:InputInvariance", of).tolist() == [1] * 5
    input_itself = Explained(of.scene, of.scene.images[:, :1], lambda versions, _number, **_: versions[:, :1])
    assert value("quantus:InputInvariance", input_itself).tolist() == [0] * 5


def test_shift_is_taken_back_in_front_of_the_first_layer():
    model = small_model()
    moved = quantus_runtime.shifted(model, -1.0)
    assert isinstance(moved, Classifier)
    assert torch.allclose(moved(images(2) - 1), model(images(2)), atol=1e-5)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_random_logit_stays_within_the_classes():
    seen = []
    of = live()

    def maps(versions, _number, *, targets=None, model=None):
        seen.append(targets)
        return cam.grad_cam(of.scene.engine.model, "backbone.layer3", versions, targets)

    value("quantus:RandomLogit", Explained(of.scene, of.native, maps))
    assert ((seen[0] >= 0) & (seen[0] < 4) & (seen[0] != of.scene.targets)).all()


def test_localisation_by_hand():
    scene = live(n=2).scene
    inside, outside = region().expand(2, 1, SIDE, SIDE).clone(), 1 - region().expand(2, 1, SIDE, SIDE)
    for name in ("PointingGame", "TopKIntersection", "RelevanceMassAccuracy", "RelevanceRankAccuracy", "AUC"):
        assert value(f"quantus:{name}", explained(scene, inside)).tolist() == pytest.approx([1, 1]), name
        assert value(f"quantus:{name}", explained(scene, outside)).tolist() == pytest.approx([0, 0]), name
    half = explained(scene, torch.full((2, 1, SIDE, SIDE), 1.0) + 1e-6 * images(2, 1))
    assert value("quantus:AttributionLocalisation", half)[0].item() == pytest.approx(0.25, abs=1e-3)
    assert (values("quantus:AUC", explained(scene, inside)).undefined[NO_MASK] == 0).all()


def test_effective_complexity_counts_positive_pixels():
    scene = live(n=2).scene
    maps = torch.zeros(2, 1, SIDE, SIDE)
    maps[0, 0, 0, :5], maps[1, 0, 0, :7] = 1.0, 1e6
    assert value("quantus:EffectiveComplexity", explained(scene, maps)).tolist() == [5, 7]


# ---- undefined values ------------------------------------------------------------------------------------------------


def test_constant_and_empty_maps_are_undefined_one_by_one(one):
    maps = one.maps.clone()
    maps[1], maps[2] = 0.5, -1 - maps[2].abs()
    mixed = explained(one.scene, maps)
    found = values("quantus:Complexity", mixed)
    assert found.undefined[CONSTANT_MAP].tolist() == [False, True, False, False, False]
    assert found.undefined[EMPTY_MAP].tolist() == [False, False, True, False, False]
    found = values("quantus:PixelFlipping", mixed)
    assert found.undefined[CONSTANT_MAP].tolist() == [False, True, False, False, False]
    assert found.value[[0, 2, 3, 4]].isfinite().all()
    constant = values("quantus:Complexity", control(one.scene, "constant", one))
    assert constant.undefined[CONSTANT_MAP].all()


@pytest.mark.parametrize("name", [name for name in RUNNING if name != "quantus:NonSensitivity"])
def test_odd_maps_give_a_number_or_a_reason(name):
    scene = live(n=4).scene
    maps = torch.cat([images(1, 1), torch.zeros(1, 1, SIDE, SIDE), torch.full((2, 1, SIDE, SIDE), -0.3)])
    maps[3, 0, 2, 3] = 1.0
    for of in (explained(scene, maps), control(scene, "constant", explained(scene, maps))):
        found = values(name, of)
        reasons = torch.stack(list(found.undefined.values())).any(0)
        assert (found.value.isfinite() | reasons).all()
        assert found.undefined.get(CONSTANT_MAP, reasons)[1] or found.undefined[EMPTY_MAP][1] or of.maps.amin() == 1


def test_no_number_has_a_reason():
    class Flips(nn.Module):
        """Its prediction changes with the sign of the first pixel, which is nearly 0."""

        def forward(self, x):
            return torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)

    x = images(3)
    x[0, 0, 0, 0] = 1e-4
    of = explained(scene_of(Flips().eval(), x), images(3, 1), lambda versions, _number, **_: versions[:, :1])
    found = values("quantus:RelativeOutputStability", of)
    assert found.undefined[PREDICTION_CHANGED].tolist() == [True, False, False]


def test_a_block_of_one_image_has_nothing_to_compare_with():
    found = values("quantus:SensitivityN", some(live(), [0]))
    assert found.undefined[bridge.LONE_IMAGE].tolist() == [True]
    whole = value("quantus:SensitivityN", live())
    assert (whole == whole[0]).all()


def test_localisation_without_masks_is_a_mistake_of_the_user():
    of = live()
    with pytest.raises(UsageError, match="needs object masks"):
        value("quantus:AUC", Explained(replace(of.scene, masks=None), of.native, of._again))
    empty = replace(of.scene, masks=torch.zeros_like(of.scene.masks))
    assert values("quantus:PointingGame", Explained(empty, of.native, of._again)).undefined[NO_MASK].all()


# ---- the table of the docs -------------------------------------------------------------------------------------------


def test_status_columns_of_the_docs_are_what_a_run_shows():
    lines = (ROOT / "docs" / "quantus.md").read_text().splitlines()
    shown = [line.rsplit(" | ", 1)[0] for line in lines if line.startswith("| `quantus:")]
    found = [line.rsplit(" | ", 1)[0] for line in quantus_status.markdown(quantus_status.survey())[2:]]
    assert found == shown
