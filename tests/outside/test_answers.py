"""What a foreign model answers is checked once: probabilities, chance, and neighbours in the batch."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import xeval
from tests.outside.networks import CLASSES, DropsAlways, Plain, Volumes, labels, pixels, seeded
from xeval.engine.folding import network_of
from xeval.errors import UsageError

CHOSEN = {"metrics": ("drop", "infidelity"), "explainers": ("grad-cam", "random")}


def scored(model: nn.Module, **options: object) -> pd.DataFrame:
    return xeval.score(model, [(pixels(), labels())], **CHOSEN, **options)


def same_means(a: pd.DataFrame, b: pd.DataFrame, explainers: tuple[str, ...] = ("grad-cam", "random")) -> None:
    """The same scores and the same probabilities; a gradient of log p is another map than one of a logit."""
    first, second = (list(one[one["explainer"].isin(explainers)]["mean"]) for one in (a, b))
    assert len(first) > 10
    assert first == pytest.approx(second, abs=2e-5, nan_ok=True)
    assert a.attrs["summary"]["model"] == pytest.approx(b.attrs["summary"]["model"], abs=1e-6)


def test_probabilities_are_refused_and_their_logarithm_scores_like_the_logits() -> None:
    model = seeded(lambda: Plain(nn.Softmax(1)))
    with pytest.raises(UsageError, match="probabilities, not logits") as told:
        scored(model)
    assert "output=" in told.value.remedy
    plain = seeded(Plain)
    plain.load_state_dict(model.state_dict())
    same_means(scored(model, output="probabilities"), scored(plain), ("random",))
    assert torch.allclose(model(pixels()).sum(1), torch.ones(12)), "the model is left as it was"


def test_a_sigmoid_inside_is_told_from_small_logits() -> None:
    with pytest.raises(UsageError, match="probabilities, not logits"):
        scored(seeded(lambda: Plain(nn.Sigmoid())))
    small = seeded(Plain)
    small.head.weight.data *= 0.001
    small.head.bias.data.fill_(0.05)  # logits near 0.4 for every image
    assert len(scored(small))


class Cosines(nn.Module):
    """Cosines between features that are never negative and weights that are none either: no class has one below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, CLASSES, bias=False)
        self.head.weight.data = nn.functional.normalize(self.head.weight.data.abs())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.normalize(torch.relu(self.conv(x)).mean((-2, -1))))


def test_cosines_of_a_linear_layer_are_logits() -> None:
    model = seeded(Cosines)
    found = model(100 * pixels())
    assert bool(((found > 0) & (found < 1)).all())
    p0 = model(pixels()).double().softmax(1).amax(1).mean()
    assert scored(model).attrs["summary"]["model"]["p0"] == pytest.approx(float(p0), abs=1e-6)


class AsTransformers(nn.Module):
    """Answers with an object that has logits among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Plain()

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=None, logits=self.inner(x))


def test_an_object_with_logits_is_an_answer() -> None:
    model, plain = seeded(AsTransformers), seeded(Plain)
    plain.load_state_dict(model.inner.state_dict())
    same_means(scored(model), scored(plain))
    maps = [xeval.explain(one, pixels(2), torch.tensor([0, 1]), explainer="saliency") for one in (model, plain)]
    assert torch.equal(*maps)
    assert isinstance(model(pixels(1)), SimpleNamespace), "the model is left as it was"


def test_log_probabilities_are_accepted_and_said() -> None:
    model, plain = seeded(lambda: Plain(nn.LogSoftmax(1))), seeded(Plain)
    found = scored(model)
    same_means(found, scored(plain), ("random",))
    assert "log-probabilities" in " ".join(found.attrs["summary"]["checkpoint"]["notes"])


def test_answers_that_change_from_call_to_call() -> None:
    model = seeded(lambda: Plain(norm=DropsAlways()))
    with pytest.raises(UsageError, match="differently each time") as told:
        scored(model)
    assert "allow_stochastic=True" in told.value.remedy
    assert len(scored(model, allow_stochastic=True))


def test_answers_that_depend_on_the_rest_of_the_batch() -> None:
    model = seeded(lambda: Plain(norm=nn.BatchNorm2d(8, track_running_stats=False)))
    with pytest.raises(UsageError, match="other images of its batch"):
        scored(model)
    assert len(scored(seeded(lambda: Plain(norm=nn.BatchNorm2d(8)))))


def test_weights_of_rank_five_are_scored() -> None:
    """No memory layout is forced on tensors that have no such layout, and the logits are the model's own."""
    model = seeded(Volumes)
    with torch.no_grad():
        network = network_of(model, pixels(1))
        assert torch.allclose(network(pixels()), model(pixels()), atol=1e-5)
    assert len(scored(model))


def test_types_and_modes() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(UsageError, match=str(kind)):
            scored(seeded(Plain).to(kind))
    with torch.inference_mode(), warnings.catch_warnings(action="error"):
        inside = scored(seeded_outside)
    same_means(inside, scored(seeded_outside))


seeded_outside = seeded(Plain)
