"""What is around a user's network, what it is made of and what it keeps back: the same numbers, or words."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import xeval
from tests.outside.networks import CLASSES, Plain, labels, pixels, seeded
from xeval.errors import UsageError


def scored(model: nn.Module, **options: object) -> pd.DataFrame:
    chosen = {"metrics": "drop", "explainers": "grad-cam,random", **options}
    return xeval.score(model, [(pixels(), labels())], **chosen)


class CompiledPart(Plain):
    """A network of which one part is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.compile(self.features, backend="eager")


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model, backend="eager"))]
)
def test_wrappers_count_for_nothing(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Else two networks inside would be one architecture, and the same network inside and outside two."""
    inside, outside = scored(wrap(seeded(Plain))), scored(seeded(Plain))
    assert inside["mean"].tolist() == outside["mean"].tolist()
    for key in ("arch", "sha256"):
        assert inside.attrs["summary"]["checkpoint"][key] == outside.attrs["summary"]["checkpoint"][key]
    assert inside.attrs["summary"]["explained"]["layer"] == outside.attrs["summary"]["explained"]["layer"]
    maps = [xeval.explain(one, pixels(2), torch.tensor([0, 1])) for one in (wrap(seeded(Plain)), seeded(Plain))]
    assert torch.equal(*maps)


def test_a_compiled_part_is_run_as_it_is_written() -> None:
    part, plain = seeded(CompiledPart), seeded(Plain)
    assert scored(part)["mean"].tolist() == pytest.approx(scored(plain)["mean"].tolist(), abs=1e-6)


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, pixels(2))])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_cannot_be_watched(make: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(UsageError, match="the model is TorchScript, whose layers cannot be watched"):
        scored(make(seeded(Plain)))


class Prototypes(nn.Module):
    """Nothing that is learned: scalar products with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1)) @ self.means.T


def test_a_network_without_parameters_is_scored() -> None:
    model = Prototypes()
    found = scored(model, explainers="saliency,random").attrs["summary"]["model"]["p0"]
    by_hand = (pixels().mean((-2, -1)) @ model.means.T).double().softmax(1).amax(1).mean()
    assert found == pytest.approx(float(by_hand), abs=1e-6)


class KeptBack(Plain):
    """Computes no gradients at all."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Frozen(Plain):
    """Computes no gradients but those of its head."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pooled = self.features(x).mean((-2, -1))
        return 8 * self.head(pooled)


@pytest.mark.parametrize(
    ("build", "explainer", "problem"),
    [
        (KeptBack, "grad-cam", "the score has no gradient by the images"),
        (KeptBack, "integrated-gradients", "the score has no gradient by the images"),
        (Frozen, "saliency", "the score has no gradient by the images"),
        (Frozen, "grad-cam", "the score does not depend on the output of the explained layer"),
    ],
)
def test_gradients_that_are_kept_back_are_told(build: type[nn.Module], explainer: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        scored(seeded(build), explainers=(explainer, "random"), layer="features")
    plain = scored(seeded(Plain), explainers="occlusion,random")
    assert scored(seeded(build), explainers="occlusion,random")["mean"].tolist() == plain["mean"].tolist()


class Counting(Plain):
    """Changes a buffer in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


def test_a_buffer_that_changes_is_a_mistake_of_the_network() -> None:
    with pytest.raises(UsageError, match="changed the model's buffer 'passes'"):
        scored(seeded(Counting))
