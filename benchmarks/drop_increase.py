"""Drop at three thresholds: xeval's packed passes against one image and one threshold at a time.

Both sides explain the same layer with Grad-CAM once per image and keep the same pixels, ties included, over a zero
fill: the ratio is that of batching alone. They must agree before they are timed, in float64, where rounding exchanges
no pixels.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from benchmarks.pairs import alternate
from xeval.engine import Engine, softmax64
from xeval.explainers import EXPLAINERS
from xeval.explainers.cam import upsample
from xeval.metrics import METRICS
from xeval.metrics.base import Explained, Scene
from xeval.metrics.drop import DropSettings
from xeval.models import ModelSpec, build, last_conv_stage
from xeval.perturb import image_keys, kept, ranks, tie_break

SIDE, IMAGES, TOLERANCE = 32, 32, 1e-8
SETTINGS = DropSettings()
CAM = EXPLAINERS["grad-cam"]


def network(arch: str) -> tuple[nn.Module, str]:
    """A network with seeded random weights, whose speed does not depend on them, and its last convolutional stage."""
    torch.manual_seed(0)
    model = build(ModelSpec(arch=arch, num_classes=100, in_channels=3, image_size=SIDE)).eval()
    return model, last_conv_stage(model, torch.zeros(1, 3, SIDE, SIDE))


def one_at_a_time(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The relative drop, images × thresholds, by forward passes of single images."""
    rows = []
    for number, x in enumerate(torch.split(images, 1)):
        with torch.no_grad():
            p0, target = model(x).double().softmax(1)[0].max(0)
        maps = upsample(CAM.explain(model, layer, x, target[None]), (SIDE, SIDE))
        place = ranks(maps, tie_break(0, image_keys([str(number)]), SIDE * SIDE))
        for q in SETTINGS.thresholds:
            with torch.no_grad():
                p1 = model(x * (place < kept(q, SIDE * SIDE))).double().softmax(1)[0, target]
            rows.append(max(0.0, float((p0 - p1) / p0)))
    return torch.tensor(rows, dtype=torch.float64).reshape(len(images), -1)


def packed(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The same through xeval's engine and its metric."""
    engine = Engine(model, batch_size=128)
    logits = engine.logits(images)
    p0, targets = softmax64(logits).max(1)
    zero = images.new_zeros(3, 1, 1)
    scene = Scene(
        engine=engine,
        images=images,
        logits=logits,
        keys=image_keys([str(number) for number in range(len(images))]),
        targets=targets,
        labels=targets,
        p0=p0,
        fill=torch.zeros_like(images),
        pixel=zero + 1,
        mean=zero,
    )
    maps = engine.explain(CAM, layer, images, targets)
    scores = METRICS["drop"].score(Explained(scene, maps, lambda *_, **__: maps), SETTINGS, None)
    return torch.stack([scores[f"drop.mag@{q:g}"].value for q in SETTINGS.thresholds], 1)


def main(arch: str) -> None:
    """Check that both agree, then time them in turn and print one line of JSON."""
    model, layer = network(arch)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    exact, doubled = model.double(), images.double()
    difference = float((one_at_a_time(exact, layer, doubled) - packed(exact, layer, doubled)).abs().max())
    if difference > TOLERANCE:
        raise SystemExit(f"the two differ by {difference:.2g}: nothing to time")
    model.float()
    claim = f"drop at three thresholds, {arch}, {SIDE} px, {IMAGES} images, against one image at a time"
    print(alternate(claim, lambda: one_at_a_time(model, layer, images), lambda: packed(model, layer, images)).as_json())


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["resnet18-cifar"]))
