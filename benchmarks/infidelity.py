"""Infidelity: captum's, fed the very perturbations that xeval draws, against xeval's metric.

Both sides get one Grad-CAM map an image, replace the same 64 squares by the fill and take the softmax in float64.
captum builds its perturbed images from the squares; drawing the squares is not part of its time. The suite with
captum's infidelity in the place of Quantus's is ``python -m benchmarks.suite --captum``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.pairs import agree, alternate
from benchmarks.rows import Claim, Options, Target, main
from benchmarks.subjects import device_of, engine_of, network, pictures, scene_of, sized
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS, Explained, Scene
from xeval.metrics.infidelity import InfidelitySettings
from xeval.perturb.draws import uniform
from xeval.verify.check import Probabilities

SETTINGS = InfidelitySettings()
ABOUT = METRICS["infidelity"]
TOLERANCE, CAPTUM_BATCH = 1e-5, 128
IMAGES = {"cnn-tiny": 64, "resnet18-cifar": 32}


@dataclass(frozen=True)
class Subject:
    """A scene, one explainer's maps in it, and a mask that shows where the squares lie: bool N×n×1×H×W."""

    scene: Scene
    maps: Tensor
    inside: Tensor


def subject_of(model: nn.Module, layer: str, images: Tensor, options: Options) -> Subject:
    """Return Grad-CAM's maps at the images' size and xeval's squares."""
    scene = scene_of(engine_of(model, options, images), images)
    native = scene.engine.explain(EXPLAINERS["grad-cam"], layer, images, scene.targets)
    return subject_with(scene, _explained(scene, native).maps)


def subject_with(scene: Scene, maps: Tensor) -> Subject:
    """Return the squares of a scene together with maps that have been made before."""
    return Subject(scene, maps, _inside(scene))


def _explained(scene: Scene, maps: Tensor) -> Explained:
    return Explained(scene, maps, lambda *_, **__: maps)


def _inside(scene: Scene) -> Tensor:
    """Return where the metric's squares lie, drawn as the metric draws them but without its passes."""
    side = max(1, round(scene.size[0] * SETTINGS.side))
    u = uniform(scene.seed, "infidelity", scene.keys, SETTINGS.n, 2)
    rows, columns = (torch.arange(length, device=u.device) for length in scene.size)
    y, x = ((u[..., axis, None] * (scene.size[axis] - side + 1)).long() for axis in (0, 1))
    down, across = (rows >= y) & (rows < y + side), (columns >= x) & (columns < x + side)
    return (down[..., :, None] & across[..., None, :]).unsqueeze(2)


def own(subject: Subject) -> Tensor:
    """Return xeval's raw and β-scaled infidelity, (N, 2)."""
    shared = ABOUT.prepare(subject.scene, SETTINGS)
    scores = ABOUT.score(_explained(subject.scene, subject.maps), SETTINGS, shared)
    return torch.stack([scores["infidelity.raw"].value, scores["infidelity.beta"].value], 1)


def captum(subject: Subject, batch_size: int | None, *, scaled: bool = False) -> Tensor:
    """Return captum's value (N,); None makes all perturbed images one batch, as captum does by default."""
    from captum.metrics import infidelity

    images, fill = subject.scene.images, subject.scene.fill
    done = 0

    def perturb(_inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next squares; captum asks for some perturbations of every image at a time."""
        nonlocal done
        n = len(_inputs) // len(images)
        where = subject.inside[:, done : done + n].flatten(0, 1)
        done += n
        perturbed = torch.where(where, fill.repeat_interleave(n, 0), images.repeat_interleave(n, 0))
        return where.expand_as(perturbed).to(images.dtype), perturbed

    with torch.no_grad():
        value: Tensor = infidelity(
            Probabilities(subject.scene.engine.model).eval(),
            perturb,
            images,
            subject.maps.expand_as(images),
            target=subject.scene.targets,
            n_perturb_samples=SETTINGS.n,
            max_examples_per_batch=None if batch_size is None else max(batch_size, len(images)),
            normalize=scaled,
        )
    assert done == SETTINGS.n  # every square has been used once
    return value


def measure(options: Options) -> Iterator[Claim]:
    """Compare both columns in float64, then time captum's raw value against all of xeval's, in two batch sizes."""
    device = device_of(options)
    for arch in options.networks(("cnn-tiny", "resnet18-cifar")):
        model, layer = network(arch, device)
        images = pictures(options.pick("images", IMAGES.get(arch, 64), 2), device)
        mine = sized(options, model, images)
        exact = subject_of(copy.deepcopy(model).double(), layer, images[:2].double(), mine)
        theirs = torch.stack([captum(exact, CAPTUM_BATCH, scaled=scaled) for scaled in (False, True)], 1)
        checked = agree("infidelity.raw and infidelity.beta in float64", theirs, own(exact), TOLERANCE)
        subject = subject_of(model, layer, images, mine)
        for size, bound in ((CAPTUM_BATCH, 1.3), (None, 1.0)):
            pair = alternate(partial(captum, subject, size), partial(own, subject), options.pick("rounds", 2, 1), model)
            yield pair.row(
                f"captum's infidelity in {'one batch' if size is None else f'batches of {size}'}, the same "
                f"{SETTINGS.n} squares, {arch}, {images.shape[-1]} px, {len(images)} images",
                Target("at least", bound),
                checked,
                "captum passes the clean images again with every batch",
            )


if __name__ == "__main__":
    main("infidelity", __doc__, measure)
