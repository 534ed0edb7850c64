"""Feature maps that lie N×h×w×C are turned: their maps are those of a twin that lies N×C×h×w."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.outside.networks import pixels, seeded
from xeval.engine import Engine
from xeval.explainers import EXPLAINERS
from xeval.models import last_conv_stage
from xeval.models.layers import channels_first

CAMS = ("grad-cam", "grad-cam++", "layer-cam", "eigen-cam", "score-cam")


class Turned(nn.Module):
    """Axes in another order, as a module, so that its output can be explained."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.axes)


class LikeSwin(nn.Module):
    """Convolution, then LayerNorm over channels that lie last, then the mean over positions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.GELU(), Turned(0, 2, 3, 1))
        self.norm = nn.LayerNorm(12)
        self.back = Turned(0, 3, 1, 2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 8 * self.head(self.back(self.norm(self.conv(x))).mean((-2, -1)))


class Ending(LikeSwin):
    """The same without turning back: the last map lies channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * self.head(self.norm(self.conv(x)).mean((1, 2)))


@pytest.mark.parametrize("name", CAMS)
def test_maps_are_those_of_the_twin(name: str) -> None:
    twin, model = seeded(LikeSwin), seeded(Ending)
    model.load_state_dict(twin.state_dict())
    targets = torch.tensor([0, 1, 2, 3])
    wanted = Engine(twin).explain(EXPLAINERS[name], "back", pixels(4), targets)
    found = Engine(model).explain(EXPLAINERS[name], "norm", pixels(4), targets)
    assert found.shape == wanted.shape == (4, 1, 8, 8)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_last_stage_is_found_whichever_way_it_lies() -> None:
    assert last_conv_stage(seeded(Ending), pixels(1)) == "norm"


def test_a_square_tells_where_the_channels_are() -> None:
    maps = torch.rand(2, 5, 7, 7)
    assert torch.equal(channels_first(maps), maps)
    assert torch.equal(channels_first(maps.permute(0, 2, 3, 1)), maps)
    assert channels_first(torch.rand(2, 7, 7, 7)).shape == (2, 7, 7, 7)
    assert channels_first(torch.rand(2, 5, 7, 6)).shape == (2, 5, 7, 6)


@pytest.mark.slow
def test_torchvision_swin_by_a_named_layer() -> None:
    """Grad-CAM of the norm, which lies channels last, and of the module that turns it, are one map."""
    model = seeded(lambda: torchvision.models.swin_t(num_classes=5))
    images, targets = pixels(2, 64), torch.tensor([0, 1])
    last, turned = (
        Engine(model).explain(EXPLAINERS["grad-cam"], name, images, targets) for name in ("norm", "permute")
    )
    assert last.shape == (2, 1, 2, 2)
    assert torch.allclose(last, turned, atol=1e-6)
