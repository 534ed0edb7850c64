"""Compares native metrics with captum, torch-cam, pytorch-grad-cam and plain loops, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xeval.engine import softmax64
from xeval.metrics import METRICS
from xeval.metrics.continuity import BallSettings, ball
from xeval.metrics.drop import DropSettings
from xeval.metrics.infidelity import InfidelitySettings, Squares
from xeval.perturb.masks import kept, minmax
from xeval.verify.check import Check, Side, Subject

THRESHOLDS: tuple[float, ...] = DropSettings().thresholds
EPSILON = 1e-7
"""What torch-cam adds to the clean probability before it divides by it."""


# ---- infidelity and sensitivity beside captum ------------------------------------------------------------------------


def _infidelity(column: str) -> Side:
    return lambda subject: subject.exact.values("infidelity", column)


def _captum_infidelity(normalize: bool) -> Side:
    def found(subject: Subject) -> Tensor:
        from captum.metrics import infidelity

        exact = subject.exact
        x, settings = exact.images, InfidelitySettings()
        inside = _squares(exact, exact.draws["infidelity"]).expand(-1, -1, *x.shape[1:])

        def perturb(_inputs: Tensor) -> tuple[Tensor, Tensor]:  # captum repeats each image n times, image by image
            repeated, where = x.repeat_interleave(settings.n, 0), inside.flatten(0, 1)
            return where.double(), torch.where(where, exact.scene.fill.repeat_interleave(settings.n, 0), repeated)

        with torch.no_grad():
            value: Tensor = infidelity(
                lambda images: softmax64(exact.model(images)),
                perturb,
                x,
                exact.one().maps.expand_as(x),
                target=exact.scene.targets,
                n_perturb_samples=settings.n,
                normalize=normalize,
            )
        return value

    return found


def _squares(subject: Subject, draws: Squares) -> Tensor:
    """Return where the native squares lie: bool N×n×1×H×W."""
    height, width = subject.scene.size
    rows = torch.arange(height, device=draws.top.device)[:, None]
    columns = torch.arange(width, device=draws.top.device)[None, :]
    y, x = draws.top[..., None, None], draws.left[..., None, None]
    return ((rows >= y) & (rows < y + draws.side) & (columns >= x) & (columns < x + draws.side)).unsqueeze(2)


def _captum_sensitivity(subject: Subject) -> Tensor:
    from captum.metrics import sensitivity_max

    exact, settings = subject.exact, BallSettings()
    versions, one = ball(exact.scene, settings), exact.one()

    def explain(inputs: Any, target: Tensor) -> tuple[Tensor]:
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        return (one.version(images, 1, targets=target),)

    value: Tensor = sensitivity_max(
        explain,
        exact.images,
        perturb_func=lambda *_: versions.flatten(0, 1),
        n_perturb_samples=settings.n,
        target=exact.scene.targets,
    )
    return value


# ---- drop and increase -----------------------------------------------------------------------------------------------


def _drops(name: str, mask: Literal["topk", "soft"] = "topk") -> Side:
    """Return native magnitudes, one column per threshold, without the band that counts as a tie."""

    def found(subject: Subject) -> Tensor:
        settings = DropSettings(mask=mask, tie=0.0)
        scores = METRICS["drop"].score(subject.exact.one(), settings, None)
        return torch.stack([scores[f"{name}@{key}"].value for key in settings.names], 1)

    return found


def _loop(sign: int) -> Side:
    """Return relative drops (sign 1) or increases (−1) by their definition, one image and one pixel at a time."""

    def found(subject: Subject) -> Tensor:
        exact = subject.exact
        scene, ranking = exact.scene, exact.one().ranking
        values = torch.zeros(len(scene.images), len(THRESHOLDS), dtype=torch.float64)
        for n, image in enumerate(scene.images):
            for j, q in enumerate(THRESHOLDS):
                count, masked = math.floor(Fraction(repr(q)) * scene.pixels), scene.fill[n].clone()
                for y, x in (ranking[n] < count).nonzero().tolist():
                    masked[:, y, x] = image[:, y, x]
                with torch.no_grad():
                    p0, p1 = softmax64(exact.model(torch.stack([image, masked])))[:, scene.targets[n]].tolist()
                values[n, j] = max(0.0, sign * (p0 - p1)) / p0
        return values.to(scene.images.device)

    return found


def _kept_masks(subject: Subject) -> list[Tensor]:
    """Return the native top-k masks N×H×W as maps of 0 and 1, which as soft masks keep or remove whole pixels."""
    ranking = subject.one().ranking
    return [(ranking < kept(q, subject.scene.pixels)).double() for q in THRESHOLDS]


class Extractor:
    """A stand-in for the CAM extractors of torch-cam that returns a finished map."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.maps = torch.empty(0)

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        """Return the map of the current images, in a list of one layer."""
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """Return the map of the only layer."""
        return cams[0]

    @contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


def _torchcam(metric: type, key: str, subject: Subject, maps: Tensor, **arguments: Any) -> Tensor:
    """Compute one of torch-cam's metrics for maps N×H×W, image by image."""
    extractor = Extractor(subject.model)
    values = []
    for n in range(len(maps)):
        extractor.maps = maps[n : n + 1]
        one = metric(extractor, softmax64, **arguments)
        one.update(subject.images[n : n + 1], class_idx=[int(subject.scene.targets[n])])
        values.append(one.summary()[key])
    return torch.tensor(values, dtype=torch.float64, device=maps.device)


def _torchcam_drop(subject: Subject, masks: list[Tensor]) -> Tensor:
    """Compute torch-cam's average drop, and take its epsilon out of the denominator again."""
    from torchcam.metrics import ClassificationMetric

    exact = subject.exact
    found = torch.stack([_torchcam(ClassificationMetric, "avg_drop", exact, mask) for mask in masks], 1)
    p0 = exact.scene.p0[:, None]
    return found * (p0 + EPSILON) / p0


def _torchcam_curve(key: str) -> Side:
    def found(subject: Subject) -> Tensor:
        from torchcam.metrics import DeletionInsertionMetric

        return _torchcam(DeletionInsertionMetric, key, subject.exact, subject.exact.tie_free()[:, 0], steps=32)

    return found


def _absolute(sign: str) -> Side:
    """Return the native magnitude times p0."""
    return lambda subject: _drops(f"{sign}.mag")(subject) * subject.exact.scene.p0[:, None]


def _grad_cam_change(sign: int) -> Side:
    """Return pytorch-grad-cam's change of the softmax under a multiplied map, clipped as its DropInConfidence."""

    def found(subject: Subject) -> Tensor:
        from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

        exact = subject.exact
        targets = [ClassifierOutputSoftmaxTarget(int(target)) for target in exact.scene.targets]
        changes = [
            CamMultImageConfidenceChange()(exact.images, mask.cpu().numpy(), targets, exact.model)
            for mask in _kept_masks(exact)
        ]
        change = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in changes], 1)
        return (-sign * change).clamp_min(0).to(exact.images.device)

    return found


CURVES = [
    Check(
        "infidelity.raw",
        "captum infidelity, same squares",
        "captum",
        1e-5,
        _infidelity("infidelity.raw"),
        _captum_infidelity(False),
    ),
    Check(
        "infidelity.beta",
        "captum infidelity, normalized",
        "captum",
        1e-5,
        _infidelity("infidelity.beta"),
        _captum_infidelity(True),
    ),
    Check(
        "sensitivity.max",
        "captum sensitivity_max, same noise",
        "captum",
        1e-5,
        lambda subject: subject.exact.values("sensitivity", "sensitivity.max"),
        _captum_sensitivity,
    ),
    Check("drop.mag", "a loop over pixels", "", 1e-6, _drops("drop.mag"), _loop(1)),
    Check("increase.mag", "a loop over pixels", "", 1e-6, _drops("increase.mag"), _loop(-1)),
    Check(
        "drop.mag",
        "torch-cam average drop, top-k masks",
        "torchcam",
        1e-6,
        _drops("drop.mag"),
        lambda subject: _torchcam_drop(subject, _kept_masks(subject.exact)),
    ),
    Check(
        "drop.mag, soft mask",
        "torch-cam average drop",
        "torchcam",
        1e-6,
        _drops("drop.mag", "soft"),
        lambda subject: _torchcam_drop(subject, [minmax(subject.exact.one().maps)[:, 0]]),
    ),
    Check(
        "drop.mag · p0",
        "pytorch-grad-cam DropInConfidence",
        "pytorch_grad_cam",
        1e-6,
        _absolute("drop"),
        _grad_cam_change(1),
    ),
    Check(
        "increase.mag · p0",
        "pytorch-grad-cam, rise in confidence",
        "pytorch_grad_cam",
        1e-6,
        _absolute("increase"),
        _grad_cam_change(-1),
    ),
    Check(
        "deletion.auc",
        "torch-cam DeletionInsertionMetric",
        "torchcam",
        1e-6,
        lambda subject: subject.exact.values("deletion", "deletion.auc"),
        _torchcam_curve("deletion_auc"),
    ),
    Check(
        "insertion.auc",
        "torch-cam DeletionInsertionMetric",
        "torchcam",
        1e-6,
        lambda subject: subject.exact.values("insertion", "insertion.auc"),
        _torchcam_curve("insertion_auc"),
    ),
]
