"""Feature maps that lie N×h×w×C are turned: their maps are those of a twin that lies N×C×h×w."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.outside.networks import pixels, seeded
from xeval.engine import Engine
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import last_conv_stage

CAMS = ("grad-cam", "grad-cam++", "layer-cam", "hires-cam", "xgrad-cam", "ablation-cam", "eigen-cam", "score-cam")


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


class Equal(nn.Module):
    """As many channels as the map has rows and columns, which lie last; ``norm`` and ``pool`` are put behind it."""

    def __init__(self, norm: nn.Module, back: tuple[int, ...] | None = None, sides: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.stage = nn.Sequential(Functional(), norm)
        self.back = Turned(*back) if back else nn.Identity()
        self.sides = sides
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 8 * self.head(self.back(self.stage(self.conv(x))).mean(self.sides))


class Functional(nn.Module):
    """New numbers, channels last, of a kind that no module tells."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nkhw->nhwk", x).exp()


class OverAxisOne(nn.LayerNorm):
    """A LayerNorm over channels that lie first, as timm and torchvision have it, under the same base class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InRows(nn.Module):
    """Four rows and six columns of an image of 16×24 pixels, 12 channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 4, 4)
        self.turn = Turned(0, 2, 3, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 8 * self.head(self.turn(self.conv(x)).mean((1, 2)))


class Untold(nn.Module):
    """Equal sides, and a head on all of it: nothing tells which axis is which."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.mix = Functional()
        self.head = nn.Linear(512, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.conv(x)).flatten(1))


def grad_cam_by_hand(model: nn.Module, layer: str, images: Tensor, targets: Tensor, turn: Callable[[Tensor], Tensor]):
    """Every image alone, in plain loops over channels and cells; ``turn`` says how the test knows the output to lie."""
    maps = []
    for image, target in zip(images, targets, strict=True):
        kept: list[Tensor] = []
        handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        score = model(image[None])[0, target]
        handle.remove()
        (slope,) = torch.autograd.grad(score, kept[0])
        a, g = (turn(part.detach())[0].double() for part in (kept[0], slope))
        found = torch.zeros(a.shape[1:], dtype=torch.float64)
        for channel in range(len(a)):
            found += g[channel].sum() / g[channel].numel() * a[channel]
        maps.append(found[None])
    return torch.stack(maps).float()


def last(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def first(output: Tensor) -> Tensor:
    return output


TARGETS = torch.tensor([0, 1, 2, 3])
EQUAL = {
    "norm-inside": (lambda: Equal(nn.LayerNorm(8)), "stage", last),
    "norm-behind": (lambda: Equal(nn.LayerNorm(8)), "stage.0", last),
    "pooled": (lambda: Equal(nn.Identity()), "stage", last),
    "turned-back": (lambda: Equal(nn.LayerNorm(8), (0, 3, 1, 2), (2, 3)), "back", first),
    "convolution": (lambda: Equal(nn.LayerNorm(8)), "conv", first),
    "activation": (lambda: Equal(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout())), "stage.1.1", last),
    "axis-one": (
        lambda: Equal(nn.Sequential(Turned(0, 3, 1, 2), OverAxisOne(8)), sides=(2, 3)),
        "stage.1.1",
        first,
    ),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_three_equal_sides_are_told_apart_by_what_is_around(kind: str) -> None:
    build, layer, turn = EQUAL[kind]
    model = seeded(build)
    found = Engine(model).explain(EXPLAINERS["grad-cam"], layer, pixels(4), TARGETS)
    wanted = grad_cam_by_hand(model, layer, pixels(4), TARGETS, turn)
    other = grad_cam_by_hand(model, layer, pixels(4), TARGETS, first if turn is last else last)
    assert found.shape == (4, 1, 8, 8)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not torch.allclose(found, other, atol=1e-3), "the wrong reading would pass"


def test_images_that_are_not_square() -> None:
    model, images = seeded(InRows), pixels(4, 24)[..., :16, :]
    for layer, turn in (("turn", last), ("conv", first)):
        found = Engine(model).explain(EXPLAINERS["grad-cam"], layer, images, TARGETS)
        assert found.shape == (4, 1, 4, 6)
        assert torch.allclose(found, grad_cam_by_hand(model, layer, images, TARGETS, turn), atol=1e-6)


@pytest.mark.parametrize("name", CAMS)
def test_without_evidence_the_layer_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="8×8×8, and nothing around it tells which axis") as told:
        Engine(seeded(Untold)).explain(EXPLAINERS[name], "mix", pixels(4), TARGETS)
    assert "--layer" in told.value.remedy


def test_evidence_does_not_depend_on_the_images() -> None:
    """A broken image in front costs only itself; black images are explained like others."""
    model = seeded(lambda: Equal(nn.Identity()))
    images = pixels(4).clone()
    images[0] = torch.nan
    images[1] = 0
    found = Engine(model).explain(EXPLAINERS["grad-cam"], "stage", images, TARGETS)
    assert found[0].isnan().all()
    assert torch.allclose(found[1:], grad_cam_by_hand(model, "stage", images[1:], TARGETS[1:], last), atol=1e-6)


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
