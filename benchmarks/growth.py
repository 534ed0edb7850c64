"""How the cost of scoring grows: exponents of seconds ∝ size^b, fitted by least squares on logarithms.

One size grows at a time while the others stay as they are: images, side in pixels, perturbations an image, classes,
explainers. A point that would take longer than ``SECONDS`` by the growth so far is left out, and the note says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.pairs import seconds
from benchmarks.rows import Claim, Options, main
from benchmarks.subjects import CLASSES, SIDE, device_of, engine_of, network, pictures, scene_of, sized
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import METRICS, Explained, Scene
from xeval.metrics.infidelity import InfidelitySettings

SECONDS, CHUNK = 30.0, 64


@dataclass(frozen=True)
class Size:
    """The size of what is scored: number and side of the images, perturbations per image, classes and explainers."""

    images: int = 256
    side: int = SIDE
    perturbations: int = 64
    classes: int = CLASSES
    explainers: int = 1


AXES: dict[str, tuple[int, ...]] = {
    "images": (100, 316, 1000, 3162, 10_000),
    "side": (32, 56, 112, 224),
    "perturbations": (16, 64, 256, 1024),
    "classes": (10, 32, 100, 316, 1000),
    "explainers": (1, 3, 5, 9),
}
QUICK = {
    "images": (4, 8, 16),
    "side": (16, 32),
    "perturbations": (4, 8, 16),
    "classes": (10, 100),
    "explainers": (1, 3),
}


def scored(size: Size, arch: str, options: Options) -> Callable[[], None]:
    """Return a function that scores infidelity, drop and complexity, in blocks of 64 images as scoring has them."""
    device = device_of(options)
    model, layer = network(arch, device, side=size.side, classes=size.classes)
    images = pictures(min(size.images, CHUNK), device, side=size.side)
    engine = engine_of(model, sized(options, model, images), images)

    def run() -> None:
        for start in range(0, size.images, CHUNK):
            block(scene_of(engine, images[: size.images - start]), layer, size)

    return run


def block(scene: Scene, layer: str, size: Size) -> None:
    """Compute all values of one block: the perturbations' passes once, those of the masks for each explainer."""
    settings = InfidelitySettings(n=size.perturbations)
    shared = METRICS["infidelity"].prepare(scene, settings)
    cam = scene.engine.explain(EXPLAINERS["grad-cam"], layer, scene.images, scene.targets)
    draw = CONTROLS["random-cam"].draw
    assert draw is not None  # because random-cam is a drawn control
    for number in range(size.explainers):
        maps = draw(scene.images, cam, scene.keys, number) if number else cam
        one = Explained(scene, maps, lambda *_, maps=maps, **__: maps)
        METRICS["infidelity"].score(one, settings, shared)
        for name in ("drop", "complexity"):
            METRICS[name].score(one, METRICS[name].settings(), None)


def fit(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float | None]:
    """Fit the exponent b of times ∝ size^b, and its standard error, which needs three points."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, times))
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / (x * x).sum())
    free = len(x) - 2
    residual = float(((y - slope * x) ** 2).sum())
    return slope, math.sqrt(residual / free / float((x * x).sum())) if free > 0 else None


def points(axis: str, arch: str, options: Options) -> tuple[dict[int, float], list[int]]:
    """Return the seconds at each size, the shorter of two runs, and the sizes that were left out as too long."""
    found: dict[int, float] = {}
    sizes = (QUICK if options.quick else AXES)[axis]
    for size in sizes:
        if found and found[last := max(found)] * size / last * (size / last if axis == "side" else 1) > SECONDS:
            break
        run = scored(replace(_base(axis, options), **{axis: size}), arch, options)
        if not found:
            run()  # the first run is a warm-up
        found[size] = min(seconds(run) for _ in range(options.pick("rounds", 2, 1)))
    return found, [size for size in sizes if size not in found]


def _base(axis: str, options: Options) -> Size:
    """Return the sizes that stay fixed on this axis; there are fewer images where their side grows."""
    return Size(images=options.pick("images", 32 if axis == "side" else 256, 4))


def row(axis: str, arch: str, options: Options) -> Claim:
    """Return the exponent of one axis with its standard error as spread."""
    found, left_out = points(axis, arch, options)
    exponent, error = fit(list(found), list(found.values()))
    missing = f"; left out, longer than {SECONDS:g} s: {', '.join(map(str, left_out))}" if left_out else ""
    shown = ", ".join(f"{size}: {spent:.3g} s" for size, spent in found.items())
    return Claim(
        f"growth with {axis}, {arch}",
        "exponent",
        exponent,
        (exponent - (error or 0), exponent + (error or 0)),
        note=f"{shown}{missing}; spread: ± one standard error",
        measurements={"seconds": {str(size): spent for size, spent in found.items()}, "standard_error": error},
    )


def measure(options: Options) -> Iterator[Claim]:
    """Yield one row for each axis."""
    for arch in options.networks(("cnn-tiny",)):
        yield from map(partial(row, arch=arch, options=options), AXES)


if __name__ == "__main__":
    main("growth", __doc__, measure)
