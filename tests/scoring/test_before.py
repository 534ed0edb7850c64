"""What is looked at before anything is timed: a mistake costs two images, not a search for the batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xeval
from xeval.engine import Engine
from xeval.errors import DataError, UsageError
from xeval.scoring.options import ScoreOptions
from xeval.scoring.scorer import Scorer
from xeval.scoring.tuned import Tuned

IMAGES, LABELS = torch.rand(6, 3, 8, 12, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class Net(nn.Module):
    """A convolution, tokens of it and a linear layer; ``seen`` counts the images of every pass."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.tokens, self.head = nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5, 3)
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        maps = self.conv(images)
        self.tokens(maps)
        return self.head(maps.mean((2, 3)))


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be timed."""

    def timed(*_: Any, **__: Any) -> None:
        raise AssertionError("something was timed before everything had been tried")

    monkeypatch.setattr("xeval.scoring.scorer.probe_batch_size", timed)
    monkeypatch.setattr(Engine, "rate", timed)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"layer": "tokens"}, "no N×K×h×w feature map"),
        ({"layer": "nowhere"}, "unknown layer"),
        ({"classes": ["a", "b"]}, "outputs for 2 classes"),
        ({"images": 5 * IMAGES}, "not pixels in"),
        ({"explainers": ("lrp",)}, "no rule for|cannot follow"),
    ],
)
def test_mistakes_end_before_the_first_timing(options: dict[str, Any], problem: str) -> None:
    model = Net()
    images = options.pop("images", IMAGES)
    with pytest.raises((UsageError, DataError), match=problem):
        xeval.score(model, [(images, LABELS)], metrics=("drop",), device="cpu", **options)
    assert sum(model.seen) <= 40


def test_no_more_images_are_timed_than_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    model, timed, own = Net(), [], Scorer.tune

    def watched(scorer: Scorer, options: ScoreOptions, images: float, known: Tuned | None = None) -> Tuned:
        before = sum(model.seen)
        found = own(scorer, options, images, known)
        timed.append((sum(model.seen) - before, images))
        return found

    monkeypatch.setattr(Scorer, "tune", watched)
    chosen: dict[str, Any] = {"metrics": ("drop",), "explainers": ("grad-cam", "constant"), "device": "cpu"}
    table = xeval.score(model, [(IMAGES, LABELS)], **chosen)
    ((made, there),) = timed
    passes = table.attrs["summary"]["cost"]["passes"]
    assert there == pytest.approx(passes, rel=0.1)  # two images tell it, but for what is passed once a block
    assert 0 < made <= min(there, passes)
