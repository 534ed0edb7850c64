"""Maps of attention, derived a second time in plain loops from the queries, keys and values of small transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.explainers.networks import seeded, tiny_vit, torchvision_resnet
from tests.models.test_layers import Single, Tokens, of_class
from tests.scenes import images
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.models.attention import _Open, attention_of, reading_of

timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")

SIDE, WIDTH, HEADS, DEPTH = 32, 16, 2, 3
TARGETS = torch.tensor([0, 3])
NAMES = ("attention-rollout", "gradient-attention")
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {  # and the tokens in front of the patches
    "class": ("vit_tiny_patch16_224", {}, 1),
    "mean": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 0),
    "mean of patches": ("vit_tiny_patch16_224", {"global_pool": "avg"}, 1),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 2),
    "registers": ("vit_small_patch14_reg4_dinov2", {}, 5),
}
READ = {"class": [0], "mean": range(16), "mean of patches": range(1, 17), "distilled": [0, 1], "registers": [0]}


def transformer(kind: str) -> nn.Module:
    name, options, _ = KINDS[kind]
    size = {"img_size": SIDE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    model = seeded(timm.create_model, name, pretrained=False, num_classes=4, **size, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # so large that attention is far from even
        parameter.data = torch.randn(parameter.shape, generator=generator) / (2 if parameter.ndim < 2 else 3)
    return model.double()


def by_hand(model: nn.Module, tokens: Tensor, weights: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
    """The last tokens of one image from its first ones T×K, and the weights of every layer H×T×T, entry by entry."""
    made = []
    for number, block in enumerate(model.blocks):
        qkv = F.linear(block.norm1(tokens), block.attn.qkv.weight, block.attn.qkv.bias)
        query, key, value = qkv.reshape(len(tokens), 3, HEADS, WIDTH // HEADS).unbind(1)
        if weights is None:
            layer = torch.zeros(HEADS, len(tokens), len(tokens), dtype=tokens.dtype)
            for head in range(HEADS):
                for i in range(len(tokens)):
                    scores = [
                        float(query[i, head] @ key[j, head]) / math.sqrt(WIDTH / HEADS) for j in range(len(tokens))
                    ]
                    total = sum(math.exp(score) for score in scores)
                    layer[head, i] = torch.tensor([math.exp(score) / total for score in scores])
        else:
            layer = weights[number]
        made.append(layer)
        mixed = torch.stack([layer[head] @ value[:, head] for head in range(HEADS)], 1).flatten(1)
        tokens = tokens + block.ls1(block.attn.proj(mixed))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return tokens, made


def first_tokens(model: nn.Module, image: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _m, given: kept.append(given[0][0]))
    with torch.no_grad():
        model(image[None])
    handle.remove()
    return kept[0]


def slopes_by_hand(model: nn.Module, tokens: Tensor, weights: list[Tensor], target: int) -> list[Tensor]:
    """The derivative of the logit by every weight: later weights follow the earlier ones, which changes the tokens."""
    made: list[Tensor] = []

    def run(tokens: Tensor) -> Tensor:
        for block in model.blocks:
            qkv = block.attn.qkv(block.norm1(tokens)).reshape(len(tokens), 3, HEADS, WIDTH // HEADS)
            query, key, value = qkv.permute(1, 2, 0, 3)
            layer = (query @ key.transpose(1, 2) / math.sqrt(WIDTH / HEADS)).softmax(-1)
            made.append(layer.requires_grad_() if not layer.requires_grad else layer)
            tokens = tokens + block.ls1(block.attn.proj((layer @ value).transpose(0, 1).flatten(1)))
            tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        return model.forward_head(model.norm(tokens[None]))[0, target]

    found = torch.autograd.grad(run(tokens), made)
    assert all(torch.allclose(one, other) for one, other in zip(made, weights, strict=True))
    return list(found)


def rollout(weights: list[Tensor]) -> list[list[float]]:
    """Products of the matrices, written out."""
    count = weights[0].shape[-1]
    flow = [[float(i == j) for j in range(count)] for i in range(count)]
    for layer in weights:
        step = [[0.5 * float(layer[:, i, j].mean()) + 0.5 * (i == j) for j in range(count)] for i in range(count)]
        flow = [[sum(step[i][k] * flow[k][j] for k in range(count)) for j in range(count)] for i in range(count)]
    return flow


def gathered(weights: list[Tensor], slopes: list[Tensor]) -> list[list[float]]:
    """The rule for self-attention, written out."""
    count = weights[0].shape[-1]
    flow = [[float(i == j) for j in range(count)] for i in range(count)]
    for layer, slope in zip(weights, slopes, strict=True):
        step = [
            [sum(max(0.0, float(slope[h, i, j] * layer[h, i, j])) for h in range(HEADS)) / HEADS for j in range(count)]
            for i in range(count)
        ]
        more = [[sum(step[i][k] * flow[k][j] for k in range(count)) for j in range(count)] for i in range(count)]
        flow = [[flow[i][j] + more[i][j] for j in range(count)] for i in range(count)]
    return flow


def patches_of(flow: list[list[float]], kind: str) -> Tensor:
    rows, extra = list(READ[kind]), KINDS[kind][2]
    cells = [sum(flow[i][extra + cell] for i in rows) / len(rows) for cell in range(16)]
    return torch.tensor(cells, dtype=torch.float64).reshape(4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_plain_loops(kind: str) -> None:
    model, x = transformer(kind), images(2, side=SIDE).double()
    found = {name: EXPLAINERS[name].explain(model, "", x, TARGETS).detach() for name in NAMES}
    for n in range(2):
        tokens = first_tokens(model, x[n])
        with torch.no_grad():
            last, weights = by_hand(model, tokens)
            assert torch.allclose(model.forward_head(model.norm(last[None])), model(x[n : n + 1]), atol=1e-9)
        slopes = slopes_by_hand(model, tokens, weights, int(TARGETS[n]))
        for name, flow in (("attention-rollout", rollout(weights)), ("gradient-attention", gathered(weights, slopes))):
            wanted = patches_of(flow, kind)
            assert found[name].shape == (2, 1, 4, 4)
            assert torch.allclose(found[name][n, 0], wanted, atol=1e-9 * float(wanted.abs().max())), name
            assert float(wanted.std()) > 1e-3 * float(wanted.abs().max()), "nothing to compare"


def test_only_gradients_know_the_class() -> None:
    model, x = transformer("class"), images(2, side=SIDE).double()
    (rolled, raised), (again, other) = (
        [EXPLAINERS[name].explain(model, "", x, targets) for name in NAMES] for targets in (TARGETS, TARGETS.flip(0))
    )
    assert torch.equal(rolled, again)
    assert not torch.allclose(raised, other, rtol=0.1)


def test_slopes_are_those_of_finite_differences() -> None:
    """One weight of the last layer is moved, and the rest follows."""
    model, x = transformer("class"), images(1, side=SIDE).double()
    tokens = first_tokens(model, x[0])
    with torch.no_grad():
        _, weights = by_hand(model, tokens)
    slopes = slopes_by_hand(model, tokens, weights, 0)
    for head, i, j in ((0, 0, 3), (1, 0, 16), (0, 5, 2)):
        logits = []
        for step in (-1e-5, 1e-5):
            moved = [one.clone() for one in weights]
            moved[-1][head, i, j] += step
            with torch.no_grad():
                logits.append(model.forward_head(model.norm(by_hand(model, tokens, moved)[0][None]))[0, 0])
        assert float(slopes[-1][head, i, j]) == pytest.approx(float(logits[1] - logits[0]) / 2e-5, abs=1e-6)


# ---- one mechanism for every library


@pytest.mark.parametrize("name", NAMES)
def test_fused_and_written_out_attention_have_one_map(name: str) -> None:
    model, x = transformer("class"), images(2, side=SIDE).double()
    assert all(block.attn.fused_attn for block in model.blocks), "or both are written out"
    fused = EXPLAINERS[name].explain(model, "", x, TARGETS)
    assert all(block.attn.fused_attn for block in model.blocks)
    for block in model.blocks:
        block.attn.fused_attn = False
    assert torch.allclose(EXPLAINERS[name].explain(model, "", x, TARGETS), fused, rtol=1e-9, atol=0)


def test_torchs_own_module() -> None:
    """Its weights are those that it gives when it is asked, and its class's map is that of the rule."""
    model, x = tiny_vit(), images(2, side=32)
    asked: list[Tensor] = []
    for layer in model.encoder.layers:
        given = layer.self_attention.forward
        layer.self_attention.forward = lambda *a, given=given, **_: given(  # type: ignore[method-assign]
            *a, need_weights=True, average_attn_weights=False
        )
        layer.self_attention.register_forward_hook(lambda _m, _i, out: asked.append(out[1].detach()))
    model(x)
    wanted = list(asked)
    _, weights = attention_of(model, x, 17)
    assert len(weights) == len(wanted) == 2
    for one, other, again in zip(weights, wanted, asked[2:], strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert torch.equal(one, again), "who asks for weights gets them"


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_transformers(kind: str) -> None:
    """The weights are those of its option ``output_attentions``; how it computes attention stays as it was."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=4, **sizes)
    network = seeded(transformers.ViTForImageClassification, config)
    network.set_attn_implementation("eager")
    x = images(2, side=32)
    with torch.no_grad():
        wanted = network(x, output_attentions=True).attentions
    network.set_attn_implementation(kind)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x).logits

    _, weights = attention_of(Logits().eval(), x, 17)
    assert len(weights) == len(wanted) == 2
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(weights, wanted, strict=True))
    assert network.config._attn_implementation == kind
    found = EXPLAINERS["attention-rollout"].explain(Logits().eval(), "", x, TARGETS)
    for n in range(2):
        flow = rollout([one[n] for one in wanted])
        assert torch.allclose(found[n].flatten(), torch.tensor(flow[0][1:]), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(5, 5, generator=torch.Generator().manual_seed(2))},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(1)},
        {"enable_gqa": True},
    ],
)
def test_products_in_the_open_are_those_of_torch(options: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = 2 if "enable_gqa" in options else 4
    query = torch.randn(2, 4, 5, 6, generator=generator)
    key, value = (torch.randn(2, heads, 5, 6, generator=generator) for _ in range(2))
    wanted = F.scaled_dot_product_attention(query, key, value, **options)
    with _Open() as opened:
        found = F.scaled_dot_product_attention(query, key, value, **options)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(opened.weights[0].sum(-1), torch.ones(2, 4, 5))


class Breaks(nn.Module):
    """Fails behind its first attention."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.broken = inner, False

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.broken:
            raise RuntimeError("broken")
        return x


@pytest.mark.parametrize("build", [tiny_vit, lambda: transformer("class").float()])
def test_nothing_outlives_a_pass_that_fails(build: Any) -> None:
    before, model, x = F.scaled_dot_product_attention, Breaks(build()).eval(), images(2, side=32)
    wanted = model(x)
    model.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        attention_of(model, x, 17)
    assert F.scaled_dot_product_attention is before
    assert not torch.overrides._get_current_function_mode_stack()
    model.broken = False
    assert torch.equal(model(x), wanted)


# ---- what is read, and what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_that_the_score_reads(kind: str) -> None:
    reading = reading_of(transformer(kind), images(2, side=SIDE).double())
    wanted = torch.zeros(16 + KINDS[kind][2], dtype=torch.float64)
    wanted[list(READ[kind])] = 1 / len(READ[kind])
    assert torch.allclose(reading.shares, wanted)


class NoAttention(nn.Module):
    """Tokens that meet in a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def swin() -> nn.Module:
    sizes = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    return seeded(timm.create_model, "swin_tiny_patch4_window7_224", img_size=32, num_classes=4, **sizes)


class Windows(nn.Module):
    """Tokens that attend within stripes, written out, before all of them attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.keys = nn.Linear(8, 8)

    def attended(self, x: Tensor) -> Tensor:
        return x + (self.keys(x) @ x.transpose(1, 2)).softmax(-1) @ x

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.attended(x.reshape(-1, 4, 8)).reshape(x.shape)
        return self.head(self.norm(self.attended(x)).mean(1))


def reduced() -> nn.Module:
    """A pyramid whose first stage attends to pooled tokens, and only its last one between all of them."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_sizes": [8, 8], "num_attention_heads": [1, 1], "depths": [1, 1], "mlp_ratios": [1, 1]}
    stages = {"num_encoder_blocks": 2, "patch_sizes": [4, 2], "strides": [4, 2], "sequence_reduction_ratios": [2, 1]}
    config = transformers.PvtConfig(image_size=32, num_labels=4, **sizes, **stages)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = transformers.PvtForImageClassification(config)

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x).logits

    return seeded(Logits)


def pooled_by_attention() -> nn.Module:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 1, "num_heads": HEADS}
    return seeded(timm.create_model, "vit_base_patch16_siglip_224", num_classes=4, **size)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (torchvision_resnet, "no attention between tokens of a known grid"),
        (lambda: seeded(NoAttention), "no attention between all of its tokens"),
        (swin, "no attention between tokens of a known grid|within parts of an image"),
        (lambda: seeded(Windows), "attention of 4×4, within parts of an image"),
        (reduced, "attention of 64×16, within parts of an image or between other tokens than the 17"),
        (pooled_by_attention, "attention of 1×16, within parts of an image or between other tokens than the 16"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_refusals(build: Any, problem: str, name: str) -> None:
    with pytest.raises(UsageError, match=problem) as told:
        EXPLAINERS[name].explain(build(), "", images(2, side=32), TARGETS)
    assert "integrated-gradients" in told.value.remedy


def test_attention_without_heads_and_networks_of_ones_own() -> None:
    x = images(2)
    for build in (lambda: seeded(lambda: Tokens(of_class)), lambda: seeded(Single)):
        assert EXPLAINERS["attention-rollout"].explain(build(), "", x, TARGETS).shape == (2, 1, 4, 4)
        assert EXPLAINERS["gradient-attention"].explain(build(), "", x, TARGETS).shape == (2, 1, 4, 4)
