"""What a foreign model or loader is refused for and no other file here looks at: each in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import xeval
from tests.outside.networks import Plain, labels, pixels, seeded
from tests.scenes import small_model
from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.models.layers import excon_layer
from xeval.scoring.module import Normalization


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type(kind: torch.dtype) -> None:
    with pytest.raises(UsageError, match=f"the model has weights of {kind}") as told:
        xeval.score(seeded(Plain).to(kind), [(pixels(), labels())])
    assert told.value.remedy == "score model.float()"


@pytest.mark.parametrize("mean", [(0.5,), (0.5,) * 4])
def test_one_constant_a_channel(mean: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=f"normalization has {len(mean)} constants for 3 channels"):
        xeval.score(seeded(Plain), [(pixels(), labels())], normalization=Normalization(mean, mean))


class Growing(Dataset[tuple[Tensor, int]]):
    """Every image is larger than the one before."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return pixels(1, 16 + 4 * number)[0], number


def test_items_of_several_sizes() -> None:
    with pytest.raises(DataError, match="items of the data set have several shapes"):
        xeval.score(seeded(Plain), Growing())


def test_labels_with_too_many_axes() -> None:
    with pytest.raises(DataError, match=r"labels have shape \(12, 2, 2\)"):
        xeval.score(seeded(Plain), [(pixels(), torch.zeros(12, 2, 2))])


@pytest.mark.parametrize(("model", "size"), [(small_model, 16), (lambda: nn.Linear(2, 2), 32)])
def test_the_layer_of_the_excon_paper(model, size: int) -> None:
    with pytest.raises(UsageError, match="defines no layer for this network and image size"):
        excon_layer(model(), size)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(3, 2, ceil_mode=True)])
def test_pooling_without_a_rule(pool: nn.Module) -> None:
    behind = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, *behind))
    with pytest.raises(UsageError, match="no rule for max pooling with dilation or ceil_mode"):
        EXPLAINERS["deep-lift"].explain(model, "", pixels(2), torch.tensor([0, 1]))


class MeanOverChannels(nn.Module):
    """A mean that is no pooling over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean(1).flatten(1))


def test_a_mean_without_a_rule() -> None:
    with pytest.raises(UsageError, match="no rule for this use of 'mean'"):
        EXPLAINERS["lrp"].explain(seeded(MeanOverChannels), "", pixels(2), torch.tensor([0, 1]))
