"""Drop at three thresholds: xeval's packed passes against loops over single images.

The published loop goes through all images once per threshold: for each image it predicts, explains with a forward and
a backward pass through the whole network, masks and predicts again. The second row is a more careful loop that
predicts and explains each image once. Everybody keeps the same pixels over a zero fill, in the order that numpy's
argsort gives; both loops must agree with xeval in float64, where rounding exchanges no pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pairs import agree, alternate
from benchmarks.rows import Claim, Options, Target, main
from benchmarks.subjects import device_of, engine_of, network, pictures, scene_of, sized
from xeval.explainers import EXPLAINERS
from xeval.explainers.cam import activations_and_gradient, upsample
from xeval.metrics import METRICS, Explained
from xeval.metrics.drop import DropSettings
from xeval.models import find_layer
from xeval.perturb.masks import kept

TOLERANCE = 1e-6
SETTINGS = DropSettings(tie=0.0)
CAM = EXPLAINERS["grad-cam"]


def published(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the relative drop, images × thresholds; every image is predicted and explained anew at each threshold."""
    columns = [
        [_drop(model, x, *_predicted(model, x), _explained_whole(model, layer, x), q) for x in torch.split(images, 1)]
        for q in SETTINGS.thresholds
    ]
    return torch.tensor(columns, dtype=torch.float64).T


def careful(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the same drops from one prediction and one map per image, by a backward pass that ends at the layer."""
    rows = []
    for x in torch.split(images, 1):
        p0, target = _predicted(model, x)
        activations, gradient = activations_and_gradient(model, layer, x, torch.tensor([target], device=x.device))
        place = _places((gradient.mean((-2, -1), keepdim=True) * activations).sum(1, keepdim=True), x)
        rows.append([_drop(model, x, p0, target, place, q) for q in SETTINGS.thresholds])
    return torch.tensor(rows, dtype=torch.float64)


def _predicted(model: nn.Module, x: Tensor) -> tuple[float, int]:
    """Return probability and number of the predicted class of one image."""
    with torch.no_grad():
        p0, target = model(x).softmax(1)[0].max(0)
    return float(p0), int(target)


def _explained_whole(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """Return ranks from Grad-CAM of the predicted class, with gradients of all parameters (``loss.backward()``)."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = find_layer(model, layer).register_forward_hook(keep)
    try:
        model.zero_grad()
        model(x)[0].max().backward()
    finally:
        handle.remove()
    gradient = seen[0].grad
    assert gradient is not None  # the hook retains it
    return _places((gradient.mean((-2, -1), keepdim=True) * seen[0]).sum(1, keepdim=True).detach(), x)


def _places(native: Tensor, x: Tensor) -> Tensor:
    """Return the rank of each pixel of one map, H×W."""
    values = upsample(native, (x.shape[-2], x.shape[-1]))[0, 0]
    order = np.argsort(-values.cpu().numpy().ravel())
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return torch.from_numpy(place).to(x.device).reshape(values.shape)


def _drop(model: nn.Module, x: Tensor, p0: float, target: int, place: Tensor, q: float) -> float:
    with torch.no_grad():
        p1 = float(model(x * (place < kept(q, place.numel()))).softmax(1)[0, target])
    return max(0.0, p0 - p1) / p0


def packed(model: nn.Module, layer: str, images: Tensor, options: Options) -> Tensor:
    """Return the same drops through xeval's engine and its metric."""
    engine = engine_of(model, options, images)
    scene = scene_of(engine, images, legacy_order=True)
    maps = engine.explain(CAM, layer, images, scene.targets)
    scores = METRICS["drop"].score(Explained(scene, maps, lambda *_, **__: maps), SETTINGS, None)
    return torch.stack([scores[f"drop.mag@{q:g}"].value for q in SETTINGS.thresholds], 1)


def measure(options: Options) -> Iterator[Claim]:
    """Check that all three agree in float64, then time each loop against xeval in float32."""
    device = device_of(options)
    for arch in options.networks(("cnn-tiny", "resnet18-cifar")):
        model, layer = network(arch, device)
        images = pictures(options.pick("images", 16, 2), device)
        mine = sized(options, model, images)
        exact, few = copy.deepcopy(model).double(), images[:4].double()
        own = packed(exact, layer, few, mine)
        for loop, name, bound in (
            (published, "the published loop", 12.0),
            (careful, "a loop that predicts and explains each image once", None),
        ):
            checked = agree("drop.mag in float64", loop(exact, layer, few), own, TOLERANCE)
            pair = alternate(
                partial(loop, model, layer, images),
                partial(packed, model, layer, images, mine),
                options.pick("rounds", 3, 1),
                model,
            )
            yield pair.row(
                f"drop and increase at three thresholds against {name}, {arch}, {images.shape[-1]} px, "
                f"{len(images)} images",
                None if bound is None else Target("at least", bound),
                checked,
                "the published loop's three backward passes an image are not counted" if bound else "",
            )


if __name__ == "__main__":
    main("drop_increase", __doc__, measure)
