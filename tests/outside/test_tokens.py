"""Tokens N×T×K become the grid of their patches, found by evidence; what is no such grid is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xeval
from tests.outside.networks import labels, pixels, seeded
from tests.outside.test_axis_order import CAMS, TARGETS, grad_cam_by_hand
from xeval.engine import Engine
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS

PATCH, WIDTH = 4, 6


class Patches(nn.Module):
    """The embedding of patches, without a convolution: unfold and a linear layer; row by row, or column by column."""

    def __init__(self, *, columns: bool = False) -> None:
        super().__init__()
        self.unfold, self.embed, self.columns = nn.Unfold(PATCH, stride=PATCH), nn.Linear(3 * PATCH**2, WIDTH), columns

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(-1, -2) if self.columns else x
        return self.embed(self.unfold(x).transpose(1, 2))


class Block(nn.Module):
    """Attention between all tokens, with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.key, self.value = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + (self.key(y) @ y.transpose(1, 2)).softmax(-1) @ self.value(y)


class Transformer(nn.Module):
    """Patches and ``extra`` tokens, before or behind them, two blocks; the head sees the mean of all tokens."""

    def __init__(self, extra: int, *, behind: bool = False, patches: nn.Module | None = None) -> None:
        super().__init__()
        self.patches, self.behind = patches or Patches(), behind
        self.tokens = nn.Parameter(torch.randn(1, extra, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.tokens.expand(len(x), -1, -1), self.patches(x)]
        return 8 * self.head(self.blocks(torch.cat(parts[::-1] if self.behind else parts, 1)).mean(1))


def taken(start: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """The patches of a grid by their own numbers, one by one."""

    def turn(tokens: Tensor) -> Tensor:
        rows = [
            torch.stack([tokens[:, start + row * width + column] for column in range(width)], -1)
            for row in range(height)
        ]
        return torch.stack(rows, -2)

    return turn


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 2, 5, 8])
def test_the_grid_is_found_among_extra_tokens(extra: int, behind: bool) -> None:
    """16 and 17 tokens could be a grid of 3×3 with seven or eight others, 24 one of 4×4 only."""
    model = seeded(lambda: Transformer(extra, behind=behind))
    turn = taken(0 if behind else extra, 4, 4)
    for layer in ("blocks.0", "blocks.1.norm"):
        found = Engine(model).explain(EXPLAINERS["grad-cam"], layer, pixels(4), TARGETS)
        assert found.shape == (4, 1, 4, 4)
        assert torch.allclose(found, grad_cam_by_hand(model, layer, pixels(4), TARGETS, turn), atol=1e-6)


def test_three_by_three_with_eight_others() -> None:
    """As many tokens as 4×4 with one other: the cells tell them apart."""
    model, images = seeded(lambda: Transformer(8)), pixels(4, 16)[..., :12, :12]
    found = Engine(model).explain(EXPLAINERS["grad-cam"], "blocks.0", images, TARGETS)
    assert torch.allclose(found, grad_cam_by_hand(model, "blocks.0", images, TARGETS, taken(8, 3, 3)), atol=1e-6)


def test_images_that_are_not_square() -> None:
    model, images = seeded(lambda: Transformer(2)), pixels(4, 24)[..., :16, :]
    found = Engine(model).explain(EXPLAINERS["grad-cam"], "blocks.0", images, TARGETS)
    assert found.shape == (4, 1, 4, 6)
    assert torch.allclose(found, grad_cam_by_hand(model, "blocks.0", images, TARGETS, taken(2, 4, 6)), atol=1e-6)


@pytest.mark.parametrize("name", CAMS)
def test_every_cam_sees_the_grid(name: str) -> None:
    """The map of a twin whose layer turns its tokens to N×K×h×w itself."""
    model = seeded(lambda: Transformer(2))

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.grid = model, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.inner.blocks[0](
                torch.cat([self.inner.tokens.expand(len(x), -1, -1), self.inner.patches(x)], 1)
            )
            grid = self.grid(tokens[:, 2:].transpose(1, 2).reshape(len(x), WIDTH, 4, 4))
            tokens = torch.cat([tokens[:, :2], grid.flatten(2).transpose(1, 2)], 1)
            return 8 * self.inner.head(self.inner.blocks[1](tokens).mean(1))

    wanted = Engine(Twin().eval()).explain(EXPLAINERS[name], "grid", pixels(4), TARGETS)
    found = Engine(model).explain(EXPLAINERS[name], "blocks.0", pixels(4), TARGETS)
    assert torch.allclose(found, wanted, atol=1e-5)


class Merged(nn.Module):
    """Tokens of a stage of windows: 36 cells of a map that has been mixed before, no extra tokens, LayerNorm behind."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 36 * WIDTH), nn.Unflatten(1, (36, WIDTH)))
        self.norm = norm
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 8 * self.head(self.norm(self.mix(x)).mean(1))


def test_one_grid_without_others_needs_known_features() -> None:
    model = seeded(lambda: Merged(nn.LayerNorm(WIDTH)))
    found = Engine(model).explain(EXPLAINERS["grad-cam"], "mix", pixels(4, 24), TARGETS)
    wanted = grad_cam_by_hand(model, "mix", pixels(4, 24), TARGETS, taken(0, 6, 6))
    assert torch.allclose(found, wanted, atol=1e-6)
    with pytest.raises(UsageError, match="36×6 numbers an image, and nothing tells"):
        Engine(seeded(lambda: Merged(nn.Identity()))).explain(EXPLAINERS["grad-cam"], "mix", pixels(4, 24), TARGETS)


class Global(nn.Module):
    """Tokens, each of the whole image: 17 of them fit two grids, and no cell has one of its own."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, tokens * WIDTH), nn.Unflatten(1, (tokens, WIDTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.mix(x)).mean(1))


class ChannelsFirst(nn.Module):
    """N×K×T: a flattened feature map, of which either axis could count the cells of a grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.flat = nn.Sequential(nn.Conv2d(3, channels, 4, 4), nn.Flatten(2))
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(x).mean(2))


class InPieces(nn.Module):
    """A layer that sees windows as images of their own, one that gives a pair, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.windows, self.pair, self.unused = nn.Conv2d(3, 4, 3, 1, 1), Pair(), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.cat(x.chunk(2, -1))
        return self.head(self.pair(self.windows(pieces))[0].unflatten(0, (2, -1)).mean((0, 3, 4)))


class Pair(nn.Module):
    """Two maps, of which neither is the output."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, -x


@pytest.mark.parametrize(
    ("build", "layer", "problem"),
    [
        (lambda: Global(17), "mix", "17×6 numbers an image, and nothing tells"),
        (lambda: Global(20), "mix", "20×6 numbers an image, and nothing tells"),
        (lambda: Transformer(1, patches=Patches(columns=True)), "blocks.0", "17×6 numbers an image"),
        (lambda: ChannelsFirst(64), "flat", "64×16 numbers an image, and nothing tells"),
        (lambda: ChannelsFirst(16), "flat", "16×16 numbers an image, and nothing tells"),
        (InPieces, "windows", "no N×K×h×w feature map"),
        (InPieces, "pair", "gives a tuple, not one tensor"),
        (InPieces, "unused", "is not used in a forward pass"),
        (lambda: Transformer(1), "head", "no N×K×h×w feature map"),
    ],
)
@pytest.mark.parametrize("name", ["grad-cam", "eigen-cam"])
def test_what_is_no_grid_is_refused(build: Callable[[], nn.Module], layer: str, problem: str, name: str) -> None:
    with pytest.raises(UsageError, match=problem) as told:
        Engine(seeded(build)).explain(EXPLAINERS[name], layer, pixels(4), TARGETS)
    assert "--layer" in told.value.remedy


def test_a_network_of_tokens_is_scored_by_a_named_layer_and_by_its_last_tokens() -> None:
    model = seeded(lambda: Transformer(1))
    chosen: dict[str, Any] = {"metrics": ("drop",), "explainers": ("grad-cam", "random-cam")}
    found = xeval.score(model, [(pixels(), labels())], layer="blocks.0", **chosen)
    assert found.attrs["summary"]["explained"] == {"layer": "blocks.0", "cam_size": [4, 4], "target": "pred"}
    found = xeval.score(model, [(pixels(), labels())], **chosen)
    assert found.attrs["summary"]["explained"]["layer"] == "blocks"
