"""Writes the page on which explainer works on which network: ``python -m docs.generate.architectures docs``.

It takes minutes, because every explainer runs on every network, so ``make docs`` leaves it out. A network is small, of
its own library and family, and has random weights: whether an explainer works depends on neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from docs.generate.explainers import explainers
from docs.generate.text import page, section, table
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS, gradients, perturbation
from xeval.models import ModelSpec, build, frozen_eval, last_conv_stage

PAGE = "architectures.md"
CLASSES, SIDE = 5, 64
INTRO = (
    "Which explainer works on which network. Every cell was computed: *yes* is a finite map, a number is a refusal, "
    "whose words stand below. The networks are small ones of their families with random weights; what decides is how "
    "they are built. [Conventions](conventions.md#explainers) say what each explainer computes, and how the layer is "
    "found that is explained where none is named."
)
WRITTEN = "*Written by `python -m docs.generate.architectures docs`. A test computes some of the cells again.*"
TRANSFORMER = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@dataclass(frozen=True)
class Network:
    """A network of one family: what it is called on the page, and how it is built."""

    title: str
    build: Callable[[], nn.Module]


class _Logits(nn.Module):
    """A network of transformers without the container around its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits N×classes."""
        logits: Tensor = self.network(images).logits
        return logits


def _own(arch: str) -> nn.Module:
    return build(ModelSpec(arch=arch, num_classes=CLASSES, in_channels=3, image_size=SIDE))


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES)
    return network


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return network


def _transformers(kind: str, **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(image_size=SIDE, num_labels=CLASSES, **options)
    return _Logits(getattr(transformers, f"{kind}ForImageClassification")(config))


NETWORKS = {
    "resnet": Network("ResNet, xeval's own", partial(_own, "resnet-small")),
    "torchvision": Network("ResNet, torchvision", partial(_torchvision, "resnet18")),
    "densenet": Network("DenseNet, timm", partial(_timm, "densenet121", block_config=(2, 2), growth_rate=8)),
    "efficientnet": Network("EfficientNet, timm", partial(_timm, "test_efficientnet")),
    "convnext": Network("ConvNeXt, timm", partial(_timm, "convnext_atto", depths=(1, 1, 1, 1))),
    "mambaout": Network("MambaOut, timm", partial(_timm, "mambaout_femto", depths=(1, 1, 1, 1))),
    "hybrid": Network("MobileViT, timm", partial(_timm, "mobilevit_xxs")),
    "swin": Network(
        "Swin, timm",
        partial(
            _timm,
            "swin_tiny_patch4_window7_224",
            img_size=SIDE,
            embed_dim=12,
            depths=(1, 1),
            num_heads=(1, 2),
            window_size=4,
        ),
    ),
    "vit": Network("ViT, class token, timm", partial(_timm, "vit_tiny_patch16_224", img_size=SIDE, **TRANSFORMER)),
    "mean": Network(
        "ViT, mean of tokens, timm",
        partial(_timm, "vit_tiny_patch16_224", img_size=SIDE, class_token=False, global_pool="avg", **TRANSFORMER),
    ),
    "distilled": Network(
        "DeiT, distilled, timm", partial(_timm, "deit_tiny_distilled_patch16_224", img_size=SIDE, **TRANSFORMER)
    ),
    "registers": Network(
        "ViT, registers, timm",
        partial(_timm, "vit_small_patch14_reg4_dinov2", img_size=SIDE, patch_size=16, **TRANSFORMER),
    ),
    "pooled": Network(
        "SigLIP, attention pools, timm", partial(_timm, "vit_base_patch16_siglip_224", img_size=SIDE, **TRANSFORMER)
    ),
    "cait": Network("CaiT, timm", partial(_timm, "cait_xxs24_224", img_size=SIDE, embed_dim=32, depth=1, num_heads=2)),
    "hf-vit": Network(
        "ViT, transformers",
        partial(
            _transformers,
            "ViT",
            patch_size=16,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        ),
    ),
    "hf-swin": Network(
        "Swin, transformers",
        partial(_transformers, "Swin", embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4),
    ),
}


def made(key: str) -> nn.Module:
    """Return a network of the page with weights from a fixed seed; torch's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[key].build().eval()


def default_layer(model: nn.Module) -> str:
    """Return the layer that is explained where none is named."""
    return last_conv_stage(model, torch.zeros(1, 3, SIDE, SIDE))


def outcome(model: nn.Module, layer: str, explainer: str) -> str:
    """Return "yes", or the words with which the explainer refuses the network.

    Raises:
        ValueError: the map is not finite, which no explainer may give without a word.
    """
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    try:
        with frozen_eval(model), _few_passes():
            maps = EXPLAINERS[explainer].explain(model, layer, image, torch.tensor([0]))
    except UsageError as error:
        return error.problem
    if maps.shape[:2] != (1, 1) or not bool(maps.isfinite().all()):
        raise ValueError(f"{explainer} gives {tuple(maps.shape)}, not finite maps")
    return "yes"


@contextmanager
def _few_passes() -> Iterator[None]:
    """Let the methods that average many passes make few: whether they work does not depend on how many."""
    with (
        patch.object(perturbation, "SAMPLES", 80),
        patch.multiple(gradients, INTEGRATION_STEPS=2, SMOOTHGRAD_DRAWS=2),
    ):
        yield


def architectures_page(outcomes: Mapping[str, Mapping[str, str]], layers: Mapping[str, str]) -> str:
    """Return the page from network → explainer → outcome, and network → layer."""
    reasons = sorted({text for found in outcomes.values() for text in found.values()} - {"yes"})
    marks = {"yes": "yes", **{reason: str(number) for number, reason in enumerate(reasons, 1)}}
    named = [(one.title, f"`{layers[key]}`") for key, one in NETWORKS.items() if key in layers]
    header = ("explainer", *(NETWORKS[key].title for key in outcomes))
    rows = [
        (f"[`{name}`](explainers/{name}.md)", *(marks[found[name]] for found in outcomes.values()))
        for name in explainers()
    ]
    return page(
        "Architectures",
        INTRO,
        table(header, rows),
        section("Refused", "\n".join(f"{marks[reason]}. {reason}." for reason in reasons)),
        section("The layer explained by default", table(("network", "layer"), named)),
        WRITTEN,
    )


def main(docs: Path) -> None:
    """Compute every cell and write the page."""
    outcomes: dict[str, dict[str, str]] = {}
    layers: dict[str, str] = {}
    for key in NETWORKS:
        model = made(key)
        layers[key] = default_layer(model)
        outcomes[key] = {name: outcome(model, layers[key], name) for name in explainers()}
        print(key, layers[key], sum(text == "yes" for text in outcomes[key].values()), "work", flush=True)
    (docs / PAGE).write_text(architectures_page(outcomes, layers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
