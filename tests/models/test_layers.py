"""Which layer is explained by default, what is no map of one, and a function that says how an output lies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xeval
from tests.explainers.networks import tiny_vit
from tests.outside.networks import labels, pixels, seeded
from xeval.checkpoints.identity import function_identity
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import last_conv_stage

WIDTH, TARGETS = 6, torch.tensor([0, 1, 2, 3])


class Attention(nn.Module):
    """One head that gives its output and, through a module, its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.scores, self.weights = (
            nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Identity(), nn.Softmax(-1)
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.weights(self.scores((self.key(x) @ x.transpose(1, 2))[:, None]))
        return (weights @ self.value(x)[:, None])[:, 0], weights


class Block(nn.Module):
    """The norm before attention, or behind the sum."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.norm, self.attention, self.before = nn.LayerNorm(WIDTH), Attention(), before

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            return x + self.attention(self.norm(x))[0]
        return self.norm(x + self.attention(x)[0])


class Tokens(nn.Module):
    """Patches of 4×4 pixels and two tokens in front; the head reads what ``read`` takes of the last tokens."""

    def __init__(self, read: Callable[[Tensor], Tensor], *, before: bool = True, zero: bool = False) -> None:
        super().__init__()
        self.embed, self.tokens = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 2, WIDTH))
        self.blocks = nn.ModuleList(Block(before=before) for _ in range(2))
        self.norm, self.head, self.read = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4), read
        if zero:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), patches], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.read(self.norm(x)))


def of_class(x: Tensor) -> Tensor:
    return x[:, 0]


def of_two(x: Tensor) -> Tensor:
    return (x[:, 0] + x[:, 1]) / 2


def of_patches(x: Tensor) -> Tensor:
    return x[:, 2:].mean(1)


@pytest.mark.parametrize(
    ("read", "options", "layer"),
    [
        (of_class, {}, "blocks.1.norm"),
        (of_two, {}, "blocks.1.norm"),
        (of_patches, {}, "norm"),
        (of_class, {"before": False}, "blocks.0"),
        (of_class, {"zero": True}, "blocks.1.norm"),
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_the_last_tokens_whose_patches_the_score_reads(read: Any, options: Any, layer: str, size: Any) -> None:
    """A norm in front of the last attention, the block before it, or the last tokens of all; also of a new head."""
    model = seeded(lambda: Tokens(read, **options))
    assert last_conv_stage(model, torch.zeros(1, 3, *size)) == layer
    if "zero" not in options:  # the next layer would give a map of zeros, or the same one later
        images = pixels(4, 24)[..., : size[0], : size[1]]
        found = EXPLAINERS["grad-cam"].explain(model, layer, images, TARGETS)
        assert found.shape == (4, 1, size[0] // 4, size[1] // 4)
        assert bool((found.flatten(1).std(1) > 0).all())
        behind = "blocks.1" if layer != "norm" else "norm"
        slope = EXPLAINERS["layer-cam"].explain(model, behind, images, TARGETS)
        assert bool((slope == 0).all()) == (layer != "norm")


def test_torchvision_gives_attention_a_tuple_and_a_new_head_zeros() -> None:
    assert last_conv_stage(tiny_vit(), torch.zeros(1, 3, 32, 32)) == "encoder.layers.encoder_layer_1.ln_1"


def test_the_layer_is_found_without_a_trace() -> None:
    model = seeded(lambda: Tokens(of_class)).train()
    last_conv_stage(model, torch.zeros(1, 3, 16, 16))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not one._forward_hooks and not one._forward_pre_hooks for one in model.modules())


class Detached(nn.Module):
    """A score without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((-2, -1))).detach()


def test_without_any_gradient_every_map_counts() -> None:
    assert last_conv_stage(seeded(Detached), pixels(1)) == "conv"


class Aside(nn.Module):
    """A branch that the score does not read, behind the one that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.branch, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        self.branch(maps)
        return self.head(maps.mean((-2, -1)))


def test_a_layer_that_the_score_does_not_read() -> None:
    model = seeded(Aside)
    assert last_conv_stage(model, pixels(1)) == "conv"
    with pytest.raises(UsageError, match="does not depend on the output"):
        EXPLAINERS["grad-cam"].explain(model, "branch", pixels(4), TARGETS)


@pytest.mark.parametrize("layer", ["blocks.1.attention.weights", "blocks.1.attention.scores"])
@pytest.mark.parametrize("name", ["grad-cam", "eigen-cam"])
def test_weights_of_attention_are_no_maps(layer: str, name: str) -> None:
    """They are squares like maps of square images; what they become of is a square, too."""
    with pytest.raises(UsageError, match="weights of attention"):
        EXPLAINERS[name].explain(seeded(lambda: Tokens(of_class)), layer, pixels(4), TARGETS)


class Single(nn.Module):
    """Attention without heads: N×T×T."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.soft, self.head = nn.Conv2d(3, 16, 4, 4), nn.Softmax(-1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((self.soft(x @ x.transpose(1, 2)) @ x).mean(1))


def test_weights_without_heads_are_no_tokens() -> None:
    with pytest.raises(UsageError, match="weights of attention"):
        EXPLAINERS["grad-cam"].explain(seeded(Single), "soft", pixels(4), TARGETS)


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name.endswith("-cam") and "guided" not in name])
def test_the_first_of_several_things_is_the_output(name: str) -> None:
    """The module of attention gives a tuple, the norm in front of a twin of it a tensor: the same maps."""

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = model, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([model.tokens.expand(len(x), -1, -1), model.embed(x).flatten(2).transpose(1, 2)], 1)
            tokens = tokens + self.out(model.blocks[0].attention(model.blocks[0].norm(tokens))[0])
            return model.head(model.read(model.norm(model.blocks[1](tokens))))

    model = seeded(lambda: Tokens(of_patches))
    found = EXPLAINERS[name].explain(model, "blocks.0.attention", pixels(2), TARGETS[:2])
    wanted = EXPLAINERS[name].explain(Twin().eval(), "out", pixels(2), TARGETS[:2])
    assert found.shape == (2, 1, 4, 4)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))


# ---- a function in place of evidence


class Mixed(nn.Module):
    """Tokens of the whole image: nothing tells their grid."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 18 * WIDTH), nn.Unflatten(1, (18, WIDTH)))
        self.head = nn.Linear(18 * WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x).flatten(1))


def by_hand(output: Tensor, start: int = 2) -> Tensor:
    return output[:, start:].transpose(1, 2).reshape(len(output), WIDTH, 4, 4)


def test_a_given_function_is_taken_in_place_of_evidence() -> None:
    model, images = seeded(Mixed), pixels(4)
    with pytest.raises(UsageError, match="nothing tells"):
        xeval.explain(model, images, TARGETS, layer="mix")
    found = xeval.explain(model, images, TARGETS, layer="mix", reshape=by_hand)
    tokens = model.mix(images).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.head(tokens.flatten(1)).gather(1, TARGETS[:, None]).sum(), tokens)
    for n in range(4):
        for cell in range(16):
            wanted = sum(slope[n, 2:, k].mean() * tokens[n, 2 + cell, k] for k in range(WIDTH))
            assert torch.allclose(found[n, 0, cell // 4, cell % 4], wanted, atol=1e-6)
    with pytest.raises(UsageError, match="nothing tells"):  # the function is forgotten
        xeval.explain(model, images, TARGETS, layer="mix")


def test_a_given_function_wins_over_the_closed_form() -> None:
    from tests.scenes import small_model

    model, images = small_model(), pixels(2)
    plain = xeval.explain(model, images, TARGETS[:2])
    turned = xeval.explain(model, images, TARGETS[:2], layer=model.pooled_layer, reshape=lambda x: x.transpose(2, 3))
    assert torch.allclose(turned, plain.transpose(2, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("reshape", "problem"),
    [
        (lambda x: x.nothing, "reshape= fails on 4×18×6: "),
        (lambda x: x.float().softmax(-1)[:, None], "does more than to choose"),
        (lambda x: x[:, 2:].transpose(1, 2), "turns 4×18×6 to 4×6×16, not to N×K×h×w"),
        (lambda x: None, "turns 4×18×6 to a NoneType, not to N×K×h×w"),
        (lambda x: 2 * by_hand(x), "does more than to choose"),
        (lambda x: by_hand(x).flip(0), "does more than to choose"),
        (lambda x: torch.cat([by_hand(x), by_hand(x)], 1), "does more than to choose"),
    ],
)
def test_what_reshape_may_not_do(reshape: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        xeval.explain(seeded(Mixed), pixels(4), TARGETS, layer="mix", reshape=reshape)


def test_reshape_needs_a_layer() -> None:
    with pytest.raises(UsageError, match="reshape= is for one layer, and none is named"):
        xeval.explain(seeded(Mixed), pixels(4), TARGETS, reshape=by_hand)
    with pytest.raises(UsageError, match="reshape= is for a module"):
        xeval.score("a.pt", reshape=by_hand, layer="mix")


def test_rows_of_two_functions_are_two_rows(tmp_path: Any) -> None:
    """Another function is another thing that is scored; the same one finds its rows again, and says its name."""
    chosen: Any = {"metrics": ("drop",), "explainers": ("grad-cam",), "layer": "mix", "out": tmp_path}
    model, data = seeded(Mixed), [(pixels(), labels())]
    first = xeval.score(model, data, reshape=by_hand, **chosen).attrs["summary"]
    again = xeval.score(model, data, reshape=by_hand, **chosen).attrs["summary"]
    other = xeval.score(model, data, reshape=partial(by_hand, start=2), **chosen).attrs["summary"]
    assert first["checkpoint"]["sha256"] == again["checkpoint"]["sha256"] != other["checkpoint"]["sha256"]
    assert "the explained layer's output is turned by reshape=by_hand" in first["checkpoint"]["notes"]


def test_what_tells_functions_apart() -> None:
    def made(start: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x[:, start:]

    assert function_identity(made(1)) == function_identity(made(1)) != function_identity(made(2))
    assert function_identity(lambda x: x[:, 1:]) != function_identity(lambda x: x[:, 2:])
    assert function_identity(lambda x, a=1: x[:, a:]) != function_identity(lambda x, a=2: x[:, a:])
    assert function_identity(nn.Flatten(2)) != function_identity(nn.Flatten(1))
    assert function_identity(lambda x: [y + 2 for y in x]) != function_identity(lambda x: [y + 1 for y in x])
