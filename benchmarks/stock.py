"""The suite as a user runs it today: stock Quantus, captum's Grad-CAM, and the published drop/increase loop.

Nothing of Quantus is replaced except the names that numpy 2.4 no longer has. When values are compared, Quantus gets
xeval's :class:`Draws` instead of its own random numbers; when times are taken it draws for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import infidelity
from benchmarks.drop_increase import published
from benchmarks.subjects import scene_of
from xeval.engine import Engine
from xeval.explainers import CONTROLS
from xeval.models import find_layer
from xeval.quantus_bridge.runtime import QUIET, old_numpy, replaced

Array = NDArray[Any]
Explain = Callable[..., Array]
EXPLAINERS = ("grad-cam", "inverse", "random", "random-cam", "centre", "edge")
BATCH = 64  # the default of Quantus


@dataclass(frozen=True)
class Draws:
    """Subsets of channel values, bool N×runs×F, perturbed images N×samples×C×H×W, and the maps that are ranked.

    Both sides' maps agree to about 1e-8. That difference is enough to exchange nearly equal pixels, so curves are
    compared on one side's maps, N×1×H×W by explainer.
    """

    subsets: Tensor
    versions: Tensor
    maps: Mapping[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """The input that both sides get: a network, the explained layer, normalised images and their explained classes."""

    model: nn.Module
    layer: str
    images: Tensor
    targets: Tensor
    keys: Tensor


def explain_function(subject: Subject, name: str) -> Explain:
    """Return the function that Quantus calls to explain: Grad-CAM by captum, or a control, with versions from 0."""
    numbers = count()

    def explain(model: nn.Module, inputs: Array, targets: Array, **_: Any) -> Array:
        images = torch.as_tensor(inputs, dtype=torch.float32, device=subject.images.device)
        classes = torch.as_tensor(targets, device=images.device)
        maps = (
            drawn(subject, name, images, next(numbers)) if name in DRAWN else _captum(model, subject, images, classes)
        )
        found: Array = (
            F.interpolate(-maps if name == "inverse" else maps, images.shape[-2:], mode="bilinear", align_corners=False)
            .cpu()
            .numpy()
        )
        return found

    return explain


DRAWN = tuple(name for name in EXPLAINERS if name in CONTROLS and CONTROLS[name].draw is not None)


def drawn(subject: Subject, name: str, images: Tensor, version: int) -> Tensor:
    """Return a control's maps of one version of the images, on its own grid."""
    draw = CONTROLS[name].draw
    assert draw is not None  # because DRAWN holds only drawn controls
    grid = images.new_zeros(len(images), 1, images.shape[-2] // 8, images.shape[-1] // 8)
    return draw(images, grid, subject.keys, version)


def _captum(model: nn.Module, subject: Subject, images: Tensor, classes: Tensor) -> Tensor:
    """Return the signed Grad-CAM from a forward pass and a backward pass."""
    from captum.attr import LayerGradCam

    maps: Tensor = LayerGradCam(model, find_layer(model, subject.layer)).attribute(images, classes).detach()
    return maps


def stock(
    subject: Subject, explainers: tuple[str, ...], draws: Draws | None = None, *, captum: bool = False
) -> dict[str, Tensor]:
    """Return every number of the suite, ``metric/explainer`` → values (N,), curves (N, K) or maps N×1×H×W."""
    found: dict[str, Tensor] = {}
    for name in explainers:
        for metric, value in _quantus(subject, name, draws, captum=captum).items():
            found[f"{metric}/{name}"] = torch.as_tensor(np.asarray(value, dtype=np.float64))
        if name == "grad-cam":
            found[f"drop/{name}"] = published(subject.model, subject.layer, subject.images)
    return found


def _quantus(subject: Subject, name: str, draws: Draws | None, *, captum: bool) -> dict[str, Any]:
    """Return the six metrics of one explainer, called as a user would; captum gives infidelity where asked for."""
    import quantus

    explain = explain_function(subject, name)
    x, y = subject.images.cpu().numpy(), subject.targets.cpu().numpy()
    a = explain(subject.model, x, y)
    options: dict[str, dict[str, Any]] = {
        "Infidelity": {},
        "FaithfulnessCorrelation": {"return_aggregate": False},
        "Complexity": {},
        "Sparseness": {},
        "MaxSensitivity": {} if draws is None else {"perturb_func": _versions(draws)},
        "PixelFlipping": {"features_in_step": 32},
    }
    found: dict[str, Any] = {"maps": a}
    if captum:
        del options["Infidelity"]
        found["Infidelity"] = _captum_infidelity(subject, a)
    ranked = a if draws is None else draws.maps[name].cpu().numpy()
    with _stock_runtime(draws):
        for metric, arguments in options.items():
            found[metric] = getattr(quantus, metric)(**QUIET, **arguments)(
                model=subject.model,
                x_batch=x.copy(),
                y_batch=y.copy(),
                a_batch=(ranked if metric == "PixelFlipping" else a).copy(),
                explain_func=explain,
                device=str(subject.images.device),
                batch_size=BATCH,
            )
    return found


def _captum_infidelity(subject: Subject, a: Array) -> Array:
    """Return captum's infidelity with 64 random squares per image, set to the image's smallest value."""
    scene = scene_of(Engine(subject.model, batch_size=BATCH), subject.images, fill=black(subject.images))
    found: Array = (
        infidelity.captum(infidelity.subject_with(scene, torch.as_tensor(a).to(scene.images)), BATCH).cpu().numpy()
    )
    return found


def black(images: Tensor) -> Tensor:
    """Return Quantus's fill: the smallest value of each image."""
    return images.amin((1, 2, 3), keepdim=True).expand_as(images)


def _versions(draws: Draws) -> Explain:
    versions = iter(draws.versions.unbind(1))
    return lambda arr, **_: next(versions).cpu().numpy().reshape(arr.shape)


@contextmanager
def _stock_runtime(draws: Draws | None) -> Iterator[None]:
    """Give Quantus 0.6.0 numpy's old names and, for the comparison, xeval's subsets instead of its own.

    Its refusal of batches in which every map is negative is switched off, because all inverted maps may be.
    """
    from quantus.helpers import asserts

    with ExitStack() as stack:
        stack.enter_context(replaced(asserts, "assert_attributions", lambda *_, **__: None))
        stack.enter_context(old_numpy())
        if draws is not None:
            subsets = (np.flatnonzero(image) for run in draws.subsets.unbind(1) for image in run.cpu().numpy())
            stack.enter_context(replaced(np.random, "choice", lambda *_, **__: next(subsets)))
        yield
