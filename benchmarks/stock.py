"""The suite as a user runs it today: stock Quantus, captum's Grad-CAM, and the published drop/increase loop.

Nothing of Quantus is replaced but the names that numpy 2.4 no longer has. For the comparison of values Quantus is given
xeval's :class:`Draws` in the place of its own random numbers; where times are taken it draws for itself.
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
from xeval.quantus_bridge.runtime import QUIET, replaced

Array = NDArray[Any]
Explain = Callable[..., Array]
EXPLAINERS = ("grad-cam", "inverse", "random", "random-cam", "centre", "edge")
BATCH = 64  # Quantus's own


@dataclass(frozen=True)
class Draws:
    """Subsets of channel values, bool N×runs×F, perturbed images N×samples×C×H×W, and the maps that are ranked.

    Both sides' maps agree to about 1e-8; that is enough to exchange nearly equal pixels, so a curve is compared for
    one side's maps, N×1×H×W by explainer.
    """

    subsets: Tensor
    versions: Tensor
    maps: Mapping[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """What both sides are given: a network, the explained layer, normalised images and their explained classes."""

    model: nn.Module
    layer: str
    images: Tensor
    targets: Tensor
    keys: Tensor


def explain_function(subject: Subject, name: str) -> Explain:
    """The explainer as the function Quantus calls: Grad-CAM by captum, or a control; versions are numbered from 0."""
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
    """A control's maps of one version of the images, on its own grid."""
    draw = CONTROLS[name].draw
    assert draw is not None  # these are the drawn ones
    grid = images.new_zeros(len(images), 1, images.shape[-2] // 8, images.shape[-1] // 8)
    return draw(images, grid, subject.keys, version)


def _captum(model: nn.Module, subject: Subject, images: Tensor, classes: Tensor) -> Tensor:
    """Signed Grad-CAM by a forward pass and a backward pass."""
    from captum.attr import LayerGradCam

    maps: Tensor = LayerGradCam(model, find_layer(model, subject.layer)).attribute(images, classes).detach()
    return maps


def stock(
    subject: Subject, explainers: tuple[str, ...], draws: Draws | None = None, *, captum: bool = False
) -> dict[str, Tensor]:
    """Every number of the suite, ``metric/explainer`` → values (N,), curves (N, K) or maps N×1×H×W."""
    found: dict[str, Tensor] = {}
    for name in explainers:
        for metric, value in _quantus(subject, name, draws, captum=captum).items():
            found[f"{metric}/{name}"] = torch.as_tensor(np.asarray(value, dtype=np.float64))
        if name == "grad-cam":
            found[f"drop/{name}"] = published(subject.model, subject.layer, subject.images)
    return found


def _quantus(subject: Subject, name: str, draws: Draws | None, *, captum: bool) -> dict[str, Any]:
    """The six metrics of one explainer, each as a user would call it; infidelity by captum where that is asked for."""
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
    """captum's infidelity with 64 random squares an image, set to the image's smallest value."""
    scene = scene_of(Engine(subject.model, batch_size=BATCH), subject.images, fill=black(subject.images))
    found: Array = (
        infidelity.captum(infidelity.subject_with(scene, torch.as_tensor(a).to(scene.images)), BATCH).cpu().numpy()
    )
    return found


def black(images: Tensor) -> Tensor:
    """Quantus's fill: the smallest value of each image."""
    return images.amin((1, 2, 3), keepdim=True).expand_as(images)


def _versions(draws: Draws) -> Explain:
    versions = iter(draws.versions.unbind(1))
    return lambda arr, **_: next(versions).cpu().numpy().reshape(arr.shape)


@contextmanager
def _stock_runtime(draws: Draws | None) -> Iterator[None]:
    """numpy's old names for Quantus 0.6.0 and, for the comparison, xeval's subsets in the place of its own.

    Its refusal of batches in which every map is negative, as an inverted map may be, is left out.
    """
    from quantus.helpers import asserts

    with ExitStack() as stack:
        stack.enter_context(replaced(asserts, "assert_attributions", lambda *_, **__: None))
        for name, value in (("trapz", np.trapezoid), ("NaN", np.nan)):
            if not hasattr(np, name):
                stack.enter_context(replaced(np, name, value))
        if draws is not None:
            subsets = (np.flatnonzero(image) for run in draws.subsets.unbind(1) for image in run.cpu().numpy())
            stack.enter_context(replaced(np.random, "choice", lambda *_, **__: next(subsets)))
        yield
