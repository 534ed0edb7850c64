"""Named sets of definitions, and the difference that each published quirk makes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.runs import make_run
from tests.scenes import SIDE, control, explained, images, scene_of, small_model
from xeval.engine import Engine
from xeval.engine.folding import plain
from xeval.errors import UsageError
from xeval.metrics import METRICS, Scene
from xeval.models import ModelSpec, build
from xeval.models.layers import excon_layer
from xeval.scoring import plan as plan_module
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.protocols import PROTOCOLS, resolve
from xeval.scoring.scorer import make_scorer


def changed(scene: Scene, **fields) -> Scene:
    """The scene with other fields, without what it has derived."""
    return replace(scene, **fields)


def test_protocols_are_immutable_hashed_and_renamed_by_changes():
    assert set(PROTOCOLS) >= {"xeval", "excon-2022", "clxai-2026"}
    assert len({PROTOCOLS[name].hash() for name in PROTOCOLS}) == len(list(PROTOCOLS))
    with pytest.raises(ValidationError):
        PROTOCOLS["xeval"].fill = "blur"
    assert resolve("xeval", thresholds=(0.15, 0.3, 0.45)).name == "xeval"
    blurred = resolve("xeval", fill="blur", thresholds=(0.2,))
    assert blurred.name == "xeval+fill=blur+thresholds=0.2"
    assert blurred.hash() != PROTOCOLS["xeval"].hash()
    assert resolve("xeval", mask="soft").metric_settings("drop").mask == "soft"
    kept = resolve("excon-2022", thresholds=(0.2,))
    assert kept.metric_settings("drop").tie == 0  # a change leaves the protocol's other settings alone
    with pytest.raises(UsageError, match="did you mean 'clxai-2026'"):
        resolve("clxai-206")


def test_a_group_stands_for_its_members():
    assert set(resolve("xeval", metrics=("sanity", "drop")).metrics) == {"mprt", "logit", "drop"}


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_protocol_states_its_conventions(name):
    text = " ".join(PROTOCOLS[name].conventions())
    for metric in PROTOCOLS[name].metrics:
        assert METRICS[metric].convention(PROTOCOLS[name].metric_settings(metric)) in text
    assert PROTOCOLS[name].softmax in text


@pytest.mark.parametrize(
    ("arch", "size", "layer", "side"),
    [
        ("resnet50-cifar", 32, "backbone.layer2.3.conv3", 16),
        ("resnet50-cifar", 64, "backbone.layer4.2.conv3", 8),
        ("resnet18-cifar", 32, "backbone.layer2.1.conv2", 16),
        ("resnet18-cifar", 64, "backbone.layer4.1.conv2", 8),
    ],
)
def test_the_layer_of_the_excon_paper(arch, size, layer, side):
    with torch.device("meta"):
        model = build(ModelSpec(arch=arch, num_classes=10, image_size=size))
        shapes = []
        model.get_submodule(layer).register_forward_hook(lambda *parts: shapes.append(parts[2].shape))
        model(torch.zeros(1, 3, size, size))
    assert excon_layer(model, size) == layer
    assert shapes[0][-1] == side
    with pytest.raises(UsageError, match="--layer"):
        excon_layer(model, 16)


def test_the_layer_is_refused_elsewhere():
    with pytest.raises(UsageError, match="--layer"):
        excon_layer(nn.Linear(2, 2), 32)


class Saturated(nn.Module):
    """Logits so far apart that float32 softmax is exactly 1 whether or not half the image is missing."""

    def forward(self, x):
        score = 25 + x.mean((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


def drops(single: bool):
    x = images(6) + 2
    scene = scene_of(Saturated(), x)
    engine = Engine(Saturated(), single=single)
    p0 = engine.probabilities(x)[:, 0]
    scene = changed(scene, engine=engine, p0=p0)
    found = METRICS["drop"].score(explained(scene, images(6, 1)), METRICS["drop"].settings(tie=0.0), None)
    return {name: float(values.value.mean()) for name, values in found.items()}


def test_float32_softmax_ties_where_float64_does_not():
    """The published gap between 1 and drop + increase is saturation of float32."""
    assert drops(single=True)["drop.tie@0.45"] == 1
    assert drops(single=False)["drop.tie@0.45"] == 0
    assert drops(single=False)["drop.rate@0.45"] == 1


def test_unstable_argsort_keeps_the_first_rows_of_a_constant_map():
    scene = changed(scene_of(small_model(), images(3)), legacy_order=True)
    legacy = control(scene, "constant", explained(scene, images(3, 1))).ranking[0].flatten()
    order = np.argsort(-np.ones(SIDE * SIDE, dtype=np.float32))
    assert torch.equal(legacy[torch.from_numpy(order)], torch.arange(SIDE * SIDE))
    seeded = scene_of(small_model(), images(3))
    fair = control(seeded, "constant", explained(seeded, images(3, 1))).ranking
    kept_rows = (fair < 64).double().mean((0, 2))
    assert kept_rows.max() < 0.6  # spread over the image
    assert (legacy.reshape(SIDE, SIDE)[:4] < 64).double().mean() > 0.9  # four rows at the top


def test_both_orders_agree_without_ties():
    scene = scene_of(small_model(), images(3))
    maps = images(3, 1, seed=4)
    assert torch.equal(explained(scene, maps).ranking, explained(changed(scene, legacy_order=True), maps).ranking)


def test_clamping_the_normalised_image_zeroes_half_of_it():
    scene = scene_of(small_model(), images(4))
    metric = METRICS["ssim"]
    legacy = metric.prepare(scene, metric.settings(legacy_clip_normalised=True)).images
    ours = metric.prepare(scene, metric.settings()).images
    assert 0.4 < (legacy == 0).double().mean() < 0.6
    assert (ours == 0).double().mean() < 0.01
    assert legacy.min() >= 0
    assert legacy.max() <= 1


def scorer_of(run, **options):
    """A scorer whose network is in evaluation mode, which scoring itself sees to around all its passes."""
    chosen = ScoreOptions(limit=8, batch_size=64, **options)
    scorer = make_scorer(make_plan(run, chosen), chosen)
    scorer.engine.model.eval()
    return scorer


def test_the_map_is_scored_signed_or_as_min_max_of_its_relu(tmp_path):
    run, _ = make_run(tmp_path / "run")
    ours = scorer_of(run)
    theirs = scorer_of(run, protocol="clxai-2026")
    assert theirs.plan.protocol.metrics == ("pixelflip", "complexity", "ssim", "contrast")  # digits have no masks
    shown = {}
    for name, scorer in (("signed", ours), ("relu", theirs)):
        scene, _ = scorer.scene([0, 1, 2])
        shown[name] = dict(scorer.maps.of(scene, [0, 1, 2]))["grad-cam"][0].native
    assert shown["signed"].min() < 0
    relu = shown["signed"].clamp_min(0)
    expected = (relu - relu.amin((-2, -1), keepdim=True)) / (
        relu.amax((-2, -1), keepdim=True) - relu.amin((-2, -1), keepdim=True)
    ).clamp_min(1e-30)
    assert torch.allclose(shown["relu"], expected, atol=1e-6)


def test_noisy_baseline_equals_captum_with_the_same_noise():
    from captum.metrics import infidelity

    from xeval.metrics.infidelity import _noise

    metric = METRICS["infidelity"]
    settings = metric.settings(perturbation="noisy_baseline", n=40)
    scene = scene_of(small_model(), images(4))
    one = explained(scene, images(4, 1, seed=7))
    found = metric.score(one, settings, metric.prepare(scene, settings))
    assert set(found) == {"infidelity.beta"}
    keys, draws = scene.keys.repeat_interleave(40), torch.arange(40).repeat(4)
    noise = _noise(scene, keys, draws, settings)
    assert noise.std().item() == pytest.approx(0.2, rel=0.02)

    def perturb(_inputs):
        return (scene.images.repeat_interleave(40, 0) - noise).double(), noise

    with torch.no_grad():
        oracle = infidelity(
            lambda x: scene.engine.model(x).double().softmax(1),
            perturb,
            scene.images,
            one.maps.double().expand(-1, 3, -1, -1),
            target=scene.targets,
            n_perturb_samples=40,
            normalize=True,
        )
    assert torch.allclose(found["infidelity.beta"].value, oracle, atol=1e-6)


def bilinear(cam, side):
    """align_corners False, clamped at the borders, as a + w·(b − a) along each axis: flat borders stay exact ties."""
    for _ in range(2):
        place = np.clip((np.arange(side) + 0.5) * len(cam) / side - 0.5, 0, len(cam) - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, len(cam) - 1)
        cam = (cam[low] + (place - low)[:, None] * (cam[high] - cam[low])).T
    return cam


def published_loop(model, layer, x, fractions):
    """One image: predicted class, raw map before BatchNorm, bilinear, argsort, softmax; a row a fraction."""
    seen = []
    forward = model.get_submodule(layer).register_forward_hook(lambda *parts: seen.append(parts[2]))
    logits = model(x[None])[0]
    forward.remove()
    target = int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[target], seen[0])
    cam = sum(gradient[0, k].mean() * seen[0][0, k] for k in range(gradient.shape[1])).detach()
    side = x.shape[-1]
    order, rows = np.argsort(-bilinear(cam.numpy(), side).ravel()), []
    p0 = float(logits.detach().softmax(0)[target])
    for q in fractions:
        k = int(q * side * side + 1e-9)
        mask = torch.zeros(side * side, dtype=torch.bool)
        mask[torch.from_numpy(order[:k])] = True
        with torch.no_grad():
            p1 = float(model((x * mask.reshape(side, side))[None]).softmax(1)[0, target])
        rows.append((k, max(0, p0 - p1) / p0, max(0, p1 - p0) / p0, float(p1 < p0), float(p1 > p0)))
    return rows


def in_double(scorer, positions):
    """The scorer's scene with the network in float64: rounding then cannot exchange two pixels at a cut."""
    scene, _ = scorer.scene(positions)
    images, model = scene.images.double(), scorer.engine.model.double()
    scorer.engine.network = plain(model)
    with torch.no_grad():
        probabilities = model(images).softmax(1)
    p0, targets = probabilities.max(1)
    return replace(scene, images=images, fill=torch.zeros_like(images), p0=p0, targets=targets)


def compare_with_loop(scorer, positions):
    """The scorer's drop and increase against the loop; returns the numbers of pixels kept."""
    scene = in_double(scorer, positions)
    one = scorer.maps.explain(scene, "grad-cam")
    settings = scorer.plan.protocol.metric_settings("drop")
    found = METRICS["drop"].score(one, settings, None)
    counts = []
    for n in range(len(positions)):
        rows = published_loop(scorer.engine.model, scorer.plan.layer, scene.images[n], settings.thresholds)
        for q, (k, drop, increase, down, up) in zip(settings.thresholds, rows, strict=True):
            columns = ("drop.mag", "increase.mag", "drop.rate", "increase.rate")
            values = [found[f"{name}@{q:g}"].value[n].item() for name in columns]
            assert values[:2] == pytest.approx([drop, increase], abs=1e-6)
            if drop + increase > 1e-6:
                assert values[2:] == [down, up]
            counts.append(k)
    return sorted(set(counts))


def photo_run(tmp_path, photos, arch, size):
    """A run with random weights on the photographs."""
    from xeval.data import open_dataset

    info = open_dataset("tiny-imagenet", photos, size).info
    return make_run(tmp_path / f"{arch}-{size}", dataset="tiny-imagenet", arch=arch, root=photos, info=info)[0]


@pytest.mark.photos
def test_excon_2022_equals_the_published_loop(tmp_path, photos):
    run = photo_run(tmp_path, photos, "resnet18-cifar", 32)
    scorer = scorer_of(run, protocol="excon-2022", data=photos)
    assert scorer.plan.layer == "backbone.layer2.1.conv2"
    assert compare_with_loop(scorer, [0, 17, 300]) == [153, 307, 460]


@pytest.mark.photos
@pytest.mark.slow
@pytest.mark.parametrize(("size", "counts"), [(32, [153, 307, 460]), (64, [614, 1228, 1843])])
def test_excon_2022_of_a_resnet50_on_64_photographs(tmp_path, photos, size, counts):
    run = photo_run(tmp_path, photos, "resnet50-cifar", size)
    scorer = scorer_of(run, protocol="excon-2022", data=photos)
    assert compare_with_loop(scorer, list(range(0, 960, 15))) == counts


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_declared_columns_exist_and_have_a_direction(name):
    protocol = PROTOCOLS[name]
    columns = {
        c.name: c for metric in protocol.metrics for c in METRICS[metric].columns(protocol.metric_settings(metric))
    }
    assert protocol.primary
    assert all(columns[key].direction for key in protocol.primary)


def test_the_declared_drop_follows_the_thresholds():
    assert resolve("xeval", thresholds=(0.1, 0.2)).primary == ("drop.mag@0.2", "infidelity.skill", "deletion.gain")
    assert resolve("excon-2022", thresholds=(0.15, 0.3)).primary == ("drop.mag@0.15", "drop.mag@0.3")
    assert resolve("xeval", mask="soft").primary[0] == "drop.mag@soft"


def test_the_subset_changes_the_comparison_and_no_value(tmp_path):
    whole, common = (
        resolve("xeval", metrics=("complexity",)).model_copy(update={"subset": s}) for s in ("all", "correct-under-all")
    )
    assert whole.hash() != common.hash()
    assert "every compared checkpoint" in " ".join(common.conventions())
    tasks = [
        plan_module._task(p, METRICS["complexity"], p.metric_settings("complexity"), "layer") for p in (whole, common)
    ]
    assert tasks[0].definition == tasks[1].definition
