"""Every row of ``clxai-2026`` against :mod:`tests.scoring.clxai_by_hand`, and the difference that each switch makes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.runs import make_run
from tests.scoring import clxai_by_hand as hand
from xeval.data import normalize
from xeval.engine.folding import plain
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS, Explained, Scene
from xeval.metrics.metric import EMPTY_MAP, EMPTY_OTHER
from xeval.perturb.draws import normal
from xeval.perturb.masks import cam_minmax, complement, minmax
from xeval.scoring.cost import Meter
from xeval.scoring.maps import Maps
from xeval.scoring.options import ScoreOptions
from xeval.scoring.plan import make_plan
from xeval.scoring.protocols import PROTOCOLS, Protocol
from xeval.scoring.scorer import Scorer, make_scorer, task_blocks

PROTOCOL = "clxai-2026"
ROWS = ("grad-cam", "eigen-cam", "inverse")
NEVER, RARELY = 0, 1
"""Classes whose weights are all negative: their Grad-CAM is negative everywhere. The second is predicted for some."""

IMAGES = 6
NOISE = 2
SIDE = 32


def lively(model: nn.Module, x: Tensor) -> None:
    """Give a network the statistics of ``x``, a head of the size of a trained one, and two classes without evidence."""
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(x)
        model.eval()
        weight, bias = model.head.weight, model.head.bias
        weight.mul_(4)
        weight[[NEVER, RARELY]] = -weight[[NEVER, RARELY]].abs()
        bias.zero_()
        bias[NEVER] = -100
        logits = model(x)
        behind = logits.masked_fill(torch.eye(logits.shape[1]).bool()[RARELY], -torch.inf).amax(1) - logits[:, RARELY]
        bias[RARELY] = behind.sort().values[:3].mean()  # two or so of the images are predicted to be of this class


def changed(scorer: Scorer, **fields: Any) -> Scorer:
    """The scorer under a changed protocol."""
    plan = replace(scorer.plan, protocol=scorer.plan.protocol.model_copy(update=fields))
    return replace(scorer, plan=plan, maps=Maps(plan, scorer.engine))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """The protocol on photographs of shapes with exact masks, and a small residual network in float64."""
    run, _ = make_run(tmp_path_factory.mktemp("runs") / "run", dataset="shapes", arch="resnet-small")
    options = ScoreOptions(limit=IMAGES, protocol=PROTOCOL, explainers=ROWS)
    made = make_scorer(make_plan(run, options), options)
    model = made.engine.model
    lively(model, normalize(made.plan.split.read(list(range(IMAGES))), made.plan.info))
    made.engine.network = plain(model.double())
    return changed(made, settings={**made.plan.protocol.settings, "ssim": {"legacy_clip_normalised": True, "n": NOISE}})


def scene_of(scorer: Scorer) -> Scene:
    """The scene of the first images in float64, where rounding does not exchange two pixels."""
    scorer.engine.model.float()  # the weights are float32 numbers, so nothing is lost
    scene, _ = scorer.scene(list(range(IMAGES)))
    images = scene.images.double()
    with torch.no_grad():
        logits = scorer.engine.model.double()(images)
    p0, targets = logits.softmax(1).max(1)
    return replace(scene, images=images, fill=torch.zeros_like(images), logits=logits, p0=p0, targets=targets)


def columns_of(
    scorer: Scorer, *metrics: str, protocol: Protocol | None = None
) -> dict[tuple[str, str], list[float | None]]:
    """(row, column) → the value of each image, None where it is undefined, as scoring puts them into the store."""
    protocol = protocol or scorer.plan.protocol
    scene = scene_of(scorer)
    rows = list(scorer.maps.of(scene, list(range(IMAGES))))
    found: dict[tuple[str, str], list[float | None]] = {}
    for task in (task for task in scorer.plan.tasks if task.metric.name in metrics):
        chosen = replace(task, settings=protocol.metric_settings(task.metric.name))
        for key, block in task_blocks(chosen, scene, rows, Meter(scorer.engine, scorer.device)).items():
            assert not any(kind == "error" and where.any() for (kind, _), where in block.reasons.items()), key
            found[key] = [None if np.isnan(value) else float(value) for value in block.values]
    return found


@pytest.fixture(scope="module")
def found(scorer: Scorer) -> dict[tuple[str, str], list[float | None]]:
    return columns_of(scorer, *scorer.plan.protocol.metrics)


class ByHand:
    """The network as arrays, and the rows of one image by hand."""

    def __init__(self, scorer: Scorer) -> None:
        self.scene = scene_of(scorer)
        self.model, self.layer = scorer.engine.model, scorer.plan.layer
        classes = METRICS["contrast"].prepare(self.scene, METRICS["contrast"].settings())
        draws = normal(0, "ssim", self.scene.keys, NOISE, self.scene.images[0].numel())
        self.noise = draws.reshape(IMAGES, NOISE, *self.scene.images.shape[1:]).double().numpy()
        self.maps = {row: maps for row, (maps,) in scorer.maps.of(self.scene, list(range(IMAGES)))}
        self.random_other = classes.other.tolist()  # the draws belong to the package, the definitions do not

    def logits(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(images)).numpy()

    def seen(self, image: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Activations of the layer and the gradient of a logit there, K×h×w, by hook and backward pass."""
        kept: list[Tensor] = []
        handle = self.model.get_submodule(self.layer).register_forward_hook(lambda _m, _i, out: kept.append(out))
        logits = self.model(torch.from_numpy(image)[None])
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
        return kept[0][0].detach().numpy(), gradient[0].numpy()

    def native(self, row: str, image: np.ndarray, target: int) -> np.ndarray:
        activations, gradient = self.seen(image, target)
        return hand.eigen_cam(activations) if row == "eigen-cam" else hand.grad_cam(activations, gradient)

    def map(self, row: str, image: np.ndarray, target: int) -> np.ndarray:
        found = hand.shown(self.native(row, image, target), SIDE)
        return hand.turned(found) if row == "inverse" else found

    def bits(self, row: str, n: int, map_: np.ndarray) -> np.ndarray:
        """The same map to the last bit of the package's: many enlarged pixels differ by rounding alone.

        Beside a cell at 0 their values are products of the same weights, and their order decides on the curve.
        """
        found = self.maps[row].maps[n, 0].numpy()
        assert np.abs(found - map_).max() < 1e-12
        return found

    @cache  # noqa: B019 - the object lives as long as the module's tests
    def columns(self, row: str, n: int) -> dict[str, Any]:
        image, mask = self.scene.images[n].numpy(), self.scene.masks[n, 0].numpy()
        logits = self.logits(image[None])[0]
        order = sorted(range(len(logits)), key=lambda c: -logits[c])
        target, label = order[0], int(self.scene.labels[n])
        own = self.map(row, image, target)
        small = hand.scaled(np.maximum(self.native(row, image, target), 0))
        small = hand.turned(small) if row == "inverse" else small
        noisy = list(hand.noisy_versions(image, self.noise[n]))
        others = {"other": self.random_other[n], "runnerup": order[1], "least": order[-1]}
        entropy = hand.entropy(own)
        return {
            "pixelflip.auc": hand.pixel_flipping(self.logits, image, self.bits(row, n, own), label, "0.5"),
            "complexity.entropy": entropy,
            "complexity.area": None if entropy is None else np.exp(entropy) / SIDE**2,
            "complexity.gini": hand.gini(own),
            "complexity.native": hand.entropy(small),
            "complexity.empty": float(hand.empty(own)),
            "ssim.value": hand.continuity(own, [self.map(row, version, target) for version in noisy]),
            "ssim.flipped": float(np.mean(self.logits(np.array(noisy)).argmax(1) != target)),
            **{f"contrast.{name}": hand.contrast(own, self.map(row, image, c)) for name, c in others.items()},
            "pointing.hit": hand.pointing(own, mask),
            "relevance.mass": hand.localisation(own, mask),
        }


@pytest.fixture(scope="module")
def by_hand(scorer: Scorer) -> ByHand:
    return ByHand(scorer)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_equals_the_definitions_in_plain_numpy(row, scorer, found, by_hand) -> None:
    assert {name for of, name in found if of == row} == by_hand.columns(row, 0).keys()
    for n in range(IMAGES):
        for name, value in by_hand.columns(row, n).items():
            mine = found[row, name][n]
            if isinstance(value, set):  # tied maxima: the seeded tie-break takes one of them
                assert mine in value, (name, n)
            elif value is None:
                assert mine is None, (name, n)
            else:
                assert mine == pytest.approx(value, abs=1e-6), (name, n)


def test_the_images_are_of_every_kind(found, by_hand) -> None:
    """Both kinds of empty maps occur, and nothing is trivial."""
    empty = found["grad-cam", "complexity.empty"]
    assert 0 < sum(empty) < IMAGES
    assert [value is None for value in found["grad-cam", "contrast.least"]] == [bool(value) for value in empty]
    least = [value for value in found["grad-cam", "contrast.least"] if value is not None]
    assert max(least) < 0.25  # the map of the least likely class is empty for all
    assert len({round(value, 6) for value in least}) == len(least)
    decided = [by_hand.columns("grad-cam", n)["pointing.hit"] for n in range(IMAGES) if not empty[n]]
    assert sum(len(kinds) == 1 for kinds in decided) >= len(decided) - 1
    for row in ROWS:
        for name in ("complexity.entropy", "ssim.value", "relevance.mass", "pixelflip.auc"):
            defined = [value for value in found[row, name] if value is not None]
            assert len(defined) > IMAGES // 2
            assert np.std(defined) > 1e-4, (row, name)


def test_pixel_flipping_as_quantus_0_6_has_it(by_hand) -> None:
    settings = PROTOCOLS["clxai-2026-quantus-0.6"].metric_settings("pixelflip")
    mine = METRICS["pixelflip"].score(by_hand.maps["grad-cam"], settings, None)["pixelflip.auc"].value
    for n, label in enumerate(by_hand.scene.labels.tolist()[:3]):
        image, map_ = by_hand.scene.images[n].numpy(), by_hand.maps["grad-cam"].maps[n, 0].numpy()
        theirs = hand.pixel_flipping(by_hand.logits, image, map_, label, "0.6")
        assert mine[n].item() == pytest.approx(theirs, abs=1e-9)


# ---- the four switches -----------------------------------------------------------------------------------------------


def values(name: str, one: Explained) -> dict[str, Tensor]:
    settings = METRICS[name].settings()
    return {column: found.value for column, found in METRICS[name].score(one, settings, None).items()}


def test_scaling_again_changes_the_values_and_not_the_order(scorer) -> None:
    """It subtracts a minimum that enlarging lifts, unless the lowest cell lies in a corner or beside its equal."""
    scene = scene_of(scorer)
    native = torch.rand(IMAGES, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double() + 0.2
    inside, corner = [0, 1, 2], [3, 4, 5]
    native[inside, :, 2, 1] = 0
    native[corner, :, 0, 0] = 0
    native = cam_minmax(native)
    twice, once = (Explained(replace(scene, rescaled=on), native, lambda *_, **__: native) for on in (True, False))
    assert twice.maps.flatten(1).amin(1).tolist() == [0] * IMAGES
    assert twice.maps.flatten(1).amax(1).tolist() == pytest.approx([1] * IMAGES, abs=1e-6)
    assert once.maps.flatten(1).amin(1)[inside].min() > 0.01
    for n in range(IMAGES):
        by_hand = hand.enlarged(native[n, 0].numpy(), SIDE)
        assert np.abs(once.maps[n, 0].numpy() - by_hand).max() < 1e-12
        assert np.abs(twice.maps[n, 0].numpy() - hand.scaled(by_hand)).max() < 1e-12
    for name, column in (("complexity", "entropy"), ("complexity", "gini"), ("relevance", "mass")):
        away = (values(name, twice)[f"{name}.{column}"] - values(name, once)[f"{name}.{column}"]).abs()
        assert away[inside].min() > 1e-4, column
        assert away[corner].max() < 1e-6, column  # a share of the whole does not see the division
    assert torch.equal(twice.ranking, once.ranking)
    assert torch.equal(
        values("complexity", twice)["complexity.native"], values("complexity", once)["complexity.native"]
    )


def test_the_protocol_decides_how_a_map_is_scaled(scorer) -> None:
    signed, once, twice = (changed(scorer, map=kind) for kind in ("signed", "relu-minmax", "pytorch-grad-cam"))
    assert [scene_of(one).rescaled for one in (signed, once, twice)] == [False, False, True]
    native = [one.maps.explain(scene_of(one), "grad-cam").native for one in (signed, once, twice)]
    assert native[0].min() < 0
    assert torch.equal(native[1], minmax(native[0].clamp_min(0)))
    assert torch.equal(native[2], cam_minmax(native[0].clamp_min(0)))


def test_drawn_controls_are_scaled_only_where_they_are_enlarged(scorer) -> None:
    drawn = changed(scorer, controls=("random-cam", "centre", "constant"))
    rows = {name: maps[0].maps for name, maps in drawn.maps.of(scene_of(drawn), list(range(IMAGES)))}
    assert rows["random-cam"].flatten(1).amin(1).tolist() == [0] * IMAGES
    assert rows["constant"].min() == 1
    assert rows["centre"].min() > 0


def test_scaling_by_hand() -> None:
    maps = torch.tensor([[1.0, 3.0], [2.0, 1.0]], dtype=torch.float64)[None, None]
    assert cam_minmax(maps).flatten().tolist() == pytest.approx([0, 2 / (2 + 1e-7), 1 / (2 + 1e-7), 0], abs=1e-15)
    assert complement(maps).flatten().tolist() == pytest.approx([2 / (2 + 1e-7), 0, 1 / (2 + 1e-7), 2 / (2 + 1e-7)])
    faint = maps * 1e-7  # of the size of the constant: half, where a plain min-max gives 1
    assert cam_minmax(faint).max().item() == pytest.approx(2 / 3)
    assert minmax(faint).max() == 1
    assert not cam_minmax(torch.ones(1, 1, 4, 4)).any()


def test_maps_are_what_pytorch_grad_cam_returns(scorer) -> None:
    """In float32 as the library computes, sign of Eigen-CAM included."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    scene, model = scene_of(scorer), scorer.engine.model.float()
    scene = replace(scene, images=scene.images.float())
    layers, targets = [model.get_submodule(scorer.plan.layer)], [ClassifierOutputTarget(int(t)) for t in scene.targets]
    for row, method in (("grad-cam", "GradCAM"), ("eigen-cam", "EigenCAM")):
        with getattr(pytorch_grad_cam, method)(model, layers) as explain:
            theirs = explain(scene.images, targets)
        mine = scorer.maps.explain(scene, row).maps[:, 0].numpy()
        assert np.abs(mine - theirs).max() < 2e-6, row
        assert np.abs(theirs).max() > 0.9
    model.zero_grad()
    model.double()


@pytest.mark.parametrize(("channels", "side"), [(16, 8), (64, 4), (512, 4), (256, 7), (40, 6)])
def test_eigen_cam_of_numpy_has_the_sign_of_the_library(channels, side) -> None:
    """The library asks for all singular vectors; leaving out those that are not needed does not turn the first."""
    library = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    activations = torch.randn(6, channels, side, side, generator=torch.Generator().manual_seed(side)).relu()
    found = EXPLAINERS["eigen-cam-numpy"].explain(nn.Sequential(nn.Identity(), nn.Flatten()), "0", activations, None)
    theirs = library.get_2d_projection(activations.numpy())
    assert np.allclose(found[:, 0].numpy(), theirs, atol=1e-5 * np.abs(theirs).max())


def test_eigen_cam_takes_numpys_decomposition_under_this_protocol_only(scorer, monkeypatch) -> None:
    """Whichever way the libraries of this machine turn a map: with numpy's turned, only the switched row turns."""
    scene = scene_of(scorer)
    switched, default = scorer.maps, changed(scorer, svd="torch").maps
    before = {maps: maps.explain(scene, "eigen-cam").native for maps in (switched, default)}
    assert default.plan.protocol.explainer("eigen-cam") is EXPLAINERS["eigen-cam"]
    svd = np.linalg.svd

    def other_way(table: np.ndarray, **options: Any) -> Any:
        u, s, v = svd(table, **options)
        return u, s, -v

    monkeypatch.setattr(np.linalg, "svd", other_way)
    after = {maps: maps.explain(scene, "eigen-cam").native for maps in (switched, default)}
    assert torch.equal(after[default], before[default])
    assert (after[switched] - before[switched]).abs().flatten(1).amax(1).min() > 0.5  # the ReLU keeps the other half
    assert torch.equal(switched.explain(scene, "grad-cam").native, default.explain(scene, "grad-cam").native)


def test_an_empty_map_of_the_other_class_counts(scorer, found) -> None:
    settings = {name: of for name, of in scorer.plan.protocol.settings.items() if name != "contrast"}
    strict = columns_of(scorer, "contrast", protocol=scorer.plan.protocol.model_copy(update={"settings": settings}))
    name = ("grad-cam", "contrast.least")
    assert strict[name] == [None] * IMAGES  # class 0 has no evidence anywhere
    assert sum(value is not None for value in found[name]) > IMAGES // 2
    for of in ("contrast.other", "contrast.runnerup"):
        pairs = list(zip(strict["grad-cam", of], found["grad-cam", of], strict=True))
        assert all(a == b for a, b in pairs if a is not None)


def test_pairs_are_undefined_for_other_reasons_all_the_same(scorer) -> None:
    metric, scene = METRICS["contrast"], scene_of(scorer)
    one = scorer.maps.explain(scene, "grad-cam")
    for switch in (False, True):
        settings = metric.settings(legacy_empty_other=switch)
        undefined = metric.score(one, settings, metric.prepare(scene, settings))["contrast.least"].undefined
        assert torch.equal(undefined[EMPTY_MAP], one.empty)
        assert (EMPTY_OTHER in undefined) == (not switch)


def test_the_inverse_has_values_where_the_map_has(scorer, found) -> None:
    empty = [bool(value) for value in found["grad-cam", "complexity.empty"]]
    assert [value is None for value in found["inverse", "complexity.entropy"]] == empty
    negated = columns_of(changed(scorer, inverse="negated"), "complexity", "ssim", "contrast", "relevance", "pointing")
    for name in ("complexity.entropy", "ssim.value", "contrast.other", "relevance.mass", "pointing.hit"):
        assert negated["inverse", name] == [None] * IMAGES, name
        assert [value is None for value in found["inverse", name]] == empty, name


def test_the_inverse_has_the_reverse_order(scorer) -> None:
    rows = dict(scorer.maps.of(scene_of(scorer), list(range(IMAGES))))
    (one,), (inverse,) = rows["grad-cam"], rows["inverse"]
    assert torch.equal(inverse.ranking, SIDE**2 - 1 - one.ranking)
    full = ~one.empty
    assert torch.allclose(inverse.maps[full], one.maps[full].amax((-2, -1), keepdim=True) - one.maps[full], atol=1e-6)
    versions = one.scene.images.unsqueeze(1)
    assert torch.equal(inverse.again("same", versions), inverse.maps)
    assert torch.equal(inverse.version(one.scene.images, 0), inverse.maps)


@pytest.mark.parametrize("name", ["xeval", "excon-2022"])
def test_the_switches_are_off_elsewhere_and_in_no_definition(name) -> None:
    protocol = PROTOCOLS[name]
    assert (protocol.map, protocol.svd, protocol.inverse) == ("signed", "torch", "negated")
    assert not {"svd", "inverse"} & protocol.definition().keys()
    assert not METRICS["contrast"].settings().definition()
    assert not METRICS["contrast"].settings().legacy_empty_other


def test_every_switch_is_told() -> None:
    told = " ".join(PROTOCOLS[PROTOCOL].conventions())
    for words in ("and scaled in this way once more", "numpy's singular value", "control inverse is (max A − A)"):
        assert words in told
        assert words not in " ".join(PROTOCOLS["xeval"].conventions())
    assert "empty map of the other class counts like any other" in told
    assert "1e-7" in told
