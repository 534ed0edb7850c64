"""Checkpoints of other projects, made here exactly in their layouts, from one small network."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import transforms

from xeval.checkpoints.convert import import_checkpoint
from xeval.data import open_dataset
from xeval.models import Classifier, ModelSpec, build
from xeval.runtime.progress import Silent

INFO = open_dataset("digits").info


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def network(arch: str = "resnet-small", seed: int = 0) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(ModelSpec(arch=arch, num_classes=10, in_channels=1, image_size=16))


MODEL = network()
BACKBONE = MODEL.backbone.state_dict()
HEAD = {f"fc.{name}": tensor for name, tensor in MODEL.head.state_dict().items()}
PROJECTION = {f"head.{layer}.{part}": torch.ones(4) for layer in (0, 2) for part in ("weight", "bias")}
OURS = MODEL.state_dict()
ENCODER = {name: tensor for name, tensor in OURS.items() if name.startswith("backbone.")}


def cifar_style(prefix: str) -> dict[str, Tensor]:
    """The backbone as SupContrast's own networks name it."""
    return {f"{prefix}{name}".replace("downsample", "shortcut"): tensor for name, tensor in BACKBONE.items()}


def options(**more: Any) -> Namespace:
    """What a training script keeps of its command line."""
    augment = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    return Namespace(learning_rate=0.5, cosine=True, temp=None, lr_decay_epochs=[700, 800], augment=augment, **more)


def momentum() -> dict[str, Any]:
    """The state of an optimiser after one step."""
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def excon(**more: Any) -> dict[str, Any]:
    return {
        "opt": options(**more),
        "encoder": {**cifar_style("encoder.module."), **PROJECTION},
        "e_optimizer": momentum(),
        "classifier": HEAD,
        "c_criterion": momentum(),
        "epoch": 200,
    }


def supcontrast(**more: Any) -> dict[str, Any]:
    return {
        "opt": options(method="SupCon", trial="3", **more),
        "model": {**cifar_style("encoder.module."), **PROJECTION},
        "optimizer": momentum(),
        "epoch": 1000,
    }


def supce() -> dict[str, Any]:
    model = {f"module.{name}": tensor for name, tensor in {**cifar_style("encoder."), **HEAD}.items()}
    return {"opt": options(), "model": model, "optimizer": momentum(), "epoch": 500}


def moco() -> dict[str, Any]:
    both = {
        f"module.{side}.{name}": tensor
        for side in ("encoder_q", "encoder_k")
        for name, tensor in {**BACKBONE, "fc.0.weight": torch.ones(4, 4), "fc.2.weight": torch.ones(4, 4)}.items()
    }
    both["module.queue"], both["module.queue_ptr"] = torch.ones(4, 8), torch.zeros(1, dtype=torch.int64)
    return {"epoch": 200, "arch": "resnet18", "state_dict": both, "optimizer": momentum()}


def lightning() -> dict[str, Any]:
    own = {f"model.{name}": tensor for name, tensor in {**BACKBONE, **HEAD}.items()}
    hyper = {"lr": 0.1, "aug": transforms.Normalize(INFO.mean, INFO.std)}
    more = {"global_step": 5, "pytorch-lightning_version": "2.4.0", "callbacks": {}, "loops": {"fit_loop": {}}}
    return {"epoch": 3, "state_dict": own, "hyper_parameters": hyper, "optimizer_states": [momentum()], **more}


def timm() -> dict[str, Any]:
    return {"epoch": 9, "arch": "resnet18", "state_dict": {**BACKBONE, **HEAD}, "args": options(), "metric": 81.5}


WHOLE: dict[str, tuple[Callable[[], Any], str]] = {
    "excon": (excon, "ExCon"),
    "supce": (supce, "SupContrast"),
    "lightning": (lightning, "a training checkpoint with state_dict"),
    "timm": (timm, "a training checkpoint with state_dict"),
    "torchvision": (lambda: {**BACKBONE, **HEAD}, "torchvision or timm state dict"),
    "parallel": (lambda: {f"module.{n}": t for n, t in {**BACKBONE, **HEAD}.items()}, "torchvision or timm state dict"),
}


def bare_supcontrast() -> dict[str, Tensor]:
    return {**cifar_style("encoder."), **PROJECTION}


def brought(path: Path, content: Any, out: Path, **more: Any) -> tuple[Path, list[str]]:
    """Save, import: the result and what was said."""
    torch.save(content, path)
    told = Told()
    return import_checkpoint(path, out, "digits", told, **more), told.lines


def same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Equal names, types, shapes and bytes."""
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype
        and found[name].shape == wanted[name].shape
        and found[name].contiguous().numpy().tobytes() == wanted[name].contiguous().numpy().tobytes()
        for name in wanted
    )
