"""Answers in containers, of one logit and of probabilities are read as logits; what cannot be is refused and said."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import xeval
from tests.commands import here
from tests.outside.networks import CLASSES, Plain, labels, pixels, seeded
from tests.runs import make_run
from xeval.engine.folding import network_of
from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS
from xeval.models import frozen_eval
from xeval.models.answers import as_logits
from xeval.models.reading import KINDS, LOGITS, Reading
from xeval.runtime.files import read_json
from xeval.scoring.store import Store

OURS = tuple(name for name in METRICS if not name.startswith("quantus:"))
OF_ATTENTION = {"attention-rollout", "gradient-attention"}
ON_CONVOLUTIONS = tuple(name for name in EXPLAINERS if name not in OF_ATTENTION)
Pair = namedtuple("Pair", ("features", "logits"))
Pack = Callable[[Tensor], Any]


def convolutions(classes: int = CLASSES) -> nn.Sequential:
    """A network that every explainer of convolutional networks takes."""
    norm = nn.BatchNorm2d(6)
    norm.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    layers = (nn.Conv2d(3, 6, 3, 2, 1), norm, nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


class Packed(nn.Module):
    """Answers with what ``pack`` makes of the logits."""

    def __init__(self, inner: nn.Module, pack: Pack) -> None:
        super().__init__()
        self.inner, self.pack = inner, pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.inner(x))


INNER = seeded(convolutions)
LAYER = "inner.4"
BARE = Packed(INNER, lambda z: z).eval()
CONTAINERS: dict[str, tuple[Pack, str]] = {
    "object": (lambda z: SimpleNamespace(loss=None, logits=z), "logits"),
    "named": (lambda z: Pair(z[:, :2], z), "logits"),
    "tuple": (lambda z: (z, z[:, :2]), "logits"),
    "list": (lambda z: [z], "logits"),
    "dict": (lambda z: {"logits": z, "aux": z[:, :2]}, "logits"),
    "lone": (lambda z: {"out": z, "extra": None}, "logits"),
    "key": (lambda z: {"logits": z[:, :2], "scores": z}, "scores"),
    "item": (lambda z: (z[:, :2], z), "1"),
    "attribute": (lambda z: SimpleNamespace(logits=z[:, :2], scores=z), "scores:logits"),
}


@contextmanager
def read(model: nn.Module, output: str) -> Iterator[nn.Module]:
    with as_logits(model, Reading.of(output)), frozen_eval(model):
        yield model


def explained(model: nn.Module, name: str, targets: Tensor, layer: str = LAYER, side: int = 16) -> Tensor:
    images = pixels(len(targets), side).to(next(model.parameters()))
    return EXPLAINERS[name].explain(model, layer, images, targets)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_explainer_gives_the_maps_of_the_plain_network(container: str) -> None:
    pack, output = CONTAINERS[container]
    targets = torch.tensor([2, 0])
    cheap = [name for name in ON_CONVOLUTIONS if name not in ("lime", "kernel-shap") or container == "dict"]
    with read(Packed(INNER, pack), output) as model:
        for name in cheap:
            assert torch.equal(explained(model, name, targets), explained(BARE, name, targets)), name


def test_maps_of_attention_are_those_of_the_plain_network() -> None:
    inner = seeded(lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=CLASSES))
    bare, targets = Packed(inner, lambda z: z).eval(), torch.tensor([1, 3])
    with read(Packed(inner, CONTAINERS["dict"][0]), "logits") as model:
        for name in OF_ATTENTION:
            assert torch.equal(explained(model, name, targets, "", 32), explained(bare, name, targets, "", 32)), name


def scored(model: nn.Module, given: Tensor, output: str = "logits", **options: Any) -> pd.DataFrame:
    images = pixels(len(given))
    masks = torch.zeros(len(given), 16, 16, dtype=torch.bool)
    masks[:, 4:12, 2:9] = True
    chosen = {"metrics": OURS, "explainers": ("grad-cam", "random", "untrained"), "layer": LAYER, **options}
    return xeval.score(model, [(images, given, masks)], output=output, **chosen)


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    return scored(BARE, labels(4))


@pytest.mark.parametrize("container", ["object", "tuple", "dict", "key"])
def test_every_metric_gives_the_values_of_the_plain_network(container: str, plain: pd.DataFrame) -> None:
    pack, output = CONTAINERS[container]
    found = scored(Packed(INNER, pack), labels(4), output)
    pd.testing.assert_frame_equal(found, plain, check_exact=True)
    summaries = [frame.attrs["summary"] for frame in (found, plain)]
    for part in ("model", "curves", "reliability"):
        assert summaries[0][part] == summaries[1][part]
    assert summaries[0]["cost"]["network"] == summaries[1]["cost"]["network"]
    assert len(found["column"].unique()) > 40


def test_networks_in_containers_are_folded_and_default_layers_found() -> None:
    with read(Packed(INNER, CONTAINERS["object"][0]), "logits") as model:
        network = network_of(model, pixels(1))
        assert network.folded
        assert torch.equal(network(pixels()), network_of(BARE, pixels(1))(pixels()))
    one = torch.tensor([1, 2])
    found = xeval.explain(Packed(INNER, CONTAINERS["key"][0]), pixels(2), one, output="scores")
    assert torch.equal(found, xeval.explain(BARE, pixels(2), one))
    by_default = xeval.explain(Packed(INNER, CONTAINERS["key"][0]), pixels(2), output="scores")
    assert torch.equal(by_default, xeval.explain(BARE, pixels(2)))


def test_two_readings_of_one_network_never_share_rows(tmp_path: Path) -> None:
    model = Packed(INNER, lambda z: {"logits": z, "other": z.flip(1)}).eval()
    few = {"metrics": ("complexity",), "explainers": ("grad-cam",), "out": tmp_path}
    first, second = scored(model, labels(4), **few), scored(model, labels(4), "other", **few)
    assert first["mean"].equals(second["mean"]), "the predicted class is the same logit"
    with Store(tmp_path / "scores.sqlite", read_only=True) as store:
        before = store.cells()
    keys = {cell.checkpoint for _, cell in before}
    assert len(keys) == 2
    again = scored(model, labels(4), "other", **few).attrs["summary"]["checkpoint"]["sha256"]
    assert again in keys
    assert again != first.attrs["summary"]["checkpoint"]["sha256"]
    with Store(tmp_path / "scores.sqlite", read_only=True) as store:
        assert store.cells() == before, "and one reading finds its own again"


def test_readings_have_one_spelling() -> None:
    for text in (*KINDS, "scores:probabilities", "1:multilabel", "a:b:logits"):
        assert str(Reading.of(text)) == text
    assert Reading.of("logits") == LOGITS
    assert Reading.of("scores") == Reading.of("scores:logits")
    with pytest.raises(UsageError, match="unknown kind of output 'probs'") as told:
        Reading.of("scores:probs")
    assert "probabilities" in told.value.remedy


def test_a_key_goes_with_probabilities() -> None:
    model = Packed(INNER, lambda z: {"z": z, "p": z.softmax(1)}).eval()
    with read(model, "p:probabilities"):
        assert torch.allclose(model(pixels()).softmax(1), INNER(pixels()).softmax(1))
    with read(Packed(INNER, lambda z: {"logits": -z, "probabilities": z.softmax(1)}), "probabilities") as model:
        assert torch.allclose(model(pixels()).softmax(1), INNER(pixels()).softmax(1))


class Boxes(nn.Module):
    """Answers as detectors of torchvision do."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [{"boxes": one.new_zeros(3, 4), "scores": one.new_zeros(3)} for one in x]


@pytest.mark.parametrize(
    ("build", "output", "problem"),
    {
        "list": (lambda: Packed(INNER, lambda z: ([z], z)), "logits", "does not return logits N×classes, but a list"),
        "text": (lambda: Packed(INNER, lambda z: "cat"), "logits", "the model answers with a str that has no parts"),
        "ambiguous": (
            lambda: Packed(INNER, lambda z: {"a": z, "b": z}),
            "logits",
            "a dict that has the parts a, b, and it is not clear which part are the logits",
        ),
        "key": (lambda: Packed(INNER, lambda z: {"a": z}), "b", "has no part 'b', but the parts a"),
        "tensor": (lambda: INNER, "probabilites", "'probabilites:logits' names a part of the answer"),
        "classes": (lambda: Packed(INNER, lambda z: z.argmax(1)), "logits", "whole numbers"),
        "tokens": (lambda: Packed(INNER, lambda z: z[:, None]), "logits", "several boxes or tokens"),
        "rows": (lambda: Packed(INNER, lambda z: torch.cat([z, z])), "logits", "2 images with 4 rows of numbers"),
        "boxes": (Boxes, "logits", "boxes of objects (detection)"),
        "queries": (
            lambda: Packed(INNER, lambda z: {"logits": z[:, None], "pred_boxes": z[:, None]}),
            "logits",
            "boxes of objects (detection)",
        ),
        "pixels": (lambda: nn.Conv2d(3, 4, 1), "logits", "classes of pixels N×C×H×W (segmentation)"),
        "segmentation": (
            lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3),
            "logits",
            "classes of pixels N×C×H×W (segmentation)",
        ),
        "outside": (
            lambda: INNER,
            "probabilities",
            "(output='probabilities') and lie outside [0, 1]",
        ),
    }.values(),
)
def test_other_answers_are_refused_with_the_reason(build: Callable[[], nn.Module], output: str, problem: str) -> None:
    with pytest.raises(UsageError) as told:
        scored(seeded(build), labels(4), output, layer=None)
    assert problem in told.value.problem
    assert told.value.remedy


def test_regression_is_refused() -> None:
    quantities = torch.tensor([0.3, 1.7, 22.4, 5.0])
    with pytest.raises(DataError, match=r"a quantity \(regression\) has no probability"):
        scored(ONE, quantities)
    with pytest.raises(DataError, match="the label 2 is none of 2 classes"):
        scored(ONE, quantities.round())


CODE = """
import torch
from torch import nn

class Answers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(4, 10)

    def forward(self, x):
        z = self.head(self.conv(x).relu().mean((-2, -1)))
        return {"logits": z, "scores": z.softmax(1), "few": z[:, :3]}

def build(num_classes):
    return Answers()
"""


def test_the_command_reads_answers_of_a_file_whose_network_is_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("answering_code.py").write_text(CODE)
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    torch.save(seeded(scope["Answers"]).state_dict(), "mine.pt")
    typed = ["score", "mine.pt", "--arch", "answering_code:build", "--dataset", "digits", "--limit", "4"]
    typed += ["--metrics", "drop", "--explainers", "grad-cam,random"]
    found = {}
    for output in ("logits", "scores:probabilities"):
        status, _, message = here(capsys, *typed, "--out", output[:6], "--output", output)
        assert status == 0, message
        found[output] = read_json(Path(output[:6]) / "scores.json", "xeval.scores/1")
    plain, made = found.values()
    means = [[one["mean"] for one in part["scores"]["random"].values()] for part in (plain, made)]
    assert means[0] == pytest.approx(means[1], abs=1e-5, nan_ok=True)
    assert plain["model"] == pytest.approx(made["model"], abs=1e-6)
    assert plain["checkpoint"]["sha256"] != made["checkpoint"]["sha256"]
    for output, status, problem in (
        ("few", 3, "answers with 3 classes, digits has 10"),
        ("multilabel", 2, "an image of a data set has one label"),
        ("nothing", 2, "no part 'nothing', but the parts logits, scores, few"),
    ):
        told = here(capsys, *typed, "--out", "no", "--output", output)
        assert (told[0], problem in told[2]) == (status, True), told


def test_other_networks_of_files_answer_with_logits(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "digits-excon-s0")
    with pytest.raises(UsageError, match="--output is for networks of your own code"):
        xeval.score(run, output="scores", limit=4)
    with pytest.raises(UsageError, match="similar_to= is for a module"):
        xeval.score(run, similar_to="itself")


# --- one logit ---


def with_head(weight: Tensor, bias: Tensor) -> nn.Module:
    model = convolutions(len(bias)).eval()
    model.load_state_dict({**INNER.state_dict(), "7.weight": weight, "7.bias": bias})
    return Packed(model, lambda z: z).eval()


W, B = 6 * INNER[7].weight[:1].detach(), torch.tensor([0.1])
ONE = with_head(W, B)
AGAINST = with_head(torch.cat([-W, W]), torch.cat([-B, B]))
ZERO = with_head(torch.cat([0 * W, W]), torch.cat([0 * B, B]))


def test_every_explainer_takes_one_logit_for_one_class_and_its_negative_for_the_other() -> None:
    targets, against = torch.tensor([1, 0]), copy.deepcopy(AGAINST).double()
    with read(copy.deepcopy(ONE).double(), "logits") as model:
        for name in ON_CONVOLUTIONS:
            wanted = explained(against, name, targets)
            size = float(wanted.abs().max())
            assert size > 0, name
            assert float((explained(model, name, targets) - wanted).abs().max()) < 1e-6 * size, name
        one, other = (explained(model, "grad-cam", torch.full((2,), n)) for n in (0, 1))
        assert torch.equal(one, -other)


def test_one_logit_scores_like_two_classes_of_which_one_has_the_logit_0() -> None:
    ones = torch.ones(4, dtype=torch.int64)
    apart = ("contrast", "logit", "mprt")  # the map of the logit 0 is empty; a head of one row is drawn anew otherwise
    chosen = {"metrics": tuple(name for name in OURS if name not in apart), "explainers": ("grad-cam", "random")}
    found, wanted = (scored(model, ones, target="label", **chosen) for model in (ONE, ZERO))
    assert found["column"].tolist() == wanted["column"].tolist()
    assert found["mean"].tolist() == pytest.approx(wanted["mean"].tolist(), rel=1e-4, abs=1e-6, nan_ok=True)
    assert found.attrs["summary"]["model"] == pytest.approx(wanted.attrs["summary"]["model"], abs=1e-6)
    told = "one output z: the logits of the two classes are −z and z, softmax stands for their sigmoids"
    assert told in found.attrs["summary"]["checkpoint"]["notes"]
    assert told in found.attrs["summary"]["conventions"]


def test_both_classes_of_one_logit_have_its_sigmoid(tmp_path: Path) -> None:
    given = torch.tensor([0, 1, 0, 1])
    few = {"target": "label", "metrics": ("drop", "deletion"), "explainers": ("grad-cam", "random")}
    found, wanted = scored(ONE, given, out=tmp_path, **few), scored(ZERO, given, **few)
    rows = [frame[frame["explainer"] == "random"]["mean"].tolist() for frame in (found, wanted)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-6, nan_ok=True)
    each = xeval.results(tmp_path)[:4]
    with torch.no_grad():
        p = ONE(pixels(4))[:, 0].sigmoid()
    assert each["p0"].tolist() == pytest.approx(torch.where(given == 1, p, 1 - p).tolist(), abs=1e-6)
    assert each["predicted"].tolist() == (p > 0.5).long().tolist()
    assert each["correct"].tolist() == ((p > 0.5) == (given == 1)).tolist()


def test_one_logit_without_an_axis_of_its_own_and_as_a_probability() -> None:
    few = {"metrics": ("drop",), "explainers": ("grad-cam", "random")}
    given = torch.tensor([0.0, 1.0, 0.0, 1.0])  # as for a binary cross-entropy
    wanted = scored(ONE, given.long(), **few)
    squeezed = scored(Packed(ONE.inner, lambda z: z.squeeze()), given[:, None], **few)
    pd.testing.assert_frame_equal(squeezed, wanted, check_exact=True)
    sigmoid = seeded(lambda: Packed(ONE.inner, torch.sigmoid))
    with pytest.raises(UsageError, match="probabilities, not logits"):
        scored(sigmoid, given, **few)
    found = scored(sigmoid, given, "probabilities", **few)
    assert found["mean"].tolist() == pytest.approx(wanted["mean"].tolist(), abs=1e-4)


def test_metrics_that_take_a_softmax_are_refused_for_one_logit() -> None:
    with pytest.raises(UsageError, match=r"quantus:Complexity has no meaning here: .* sigmoids, not a softmax"):
        scored(ONE, labels(4) % 2, engine="quantus", metrics=None)


def test_a_sigmoid_inside_of_one_of_several_is_taken_relative_to_the_sum() -> None:
    found = scored(seeded(lambda: Packed(Plain(), torch.sigmoid)), labels(4), "probabilities", layer=None)
    assert "divided by their sum" in " ".join(found.attrs["summary"]["checkpoint"]["notes"])


@pytest.mark.parametrize("name", ["deep-lift", "lrp"])
def test_rules_for_layers_have_none_for_the_logarithm_of_probabilities(name: str) -> None:
    model = seeded(lambda: nn.Sequential(INNER, nn.Sigmoid()))
    with read(model, "probabilities"), pytest.raises(UsageError, match="logarithm of probabilities behind the network"):
        explained(model, name, torch.tensor([0, 1]), "0.4")
