"""The suite as a user runs it today against the same definitions by xeval's engine.

Quantus's Infidelity, FaithfulnessCorrelation, Complexity, Sparseness and MaxSensitivity with their defaults and
PixelFlipping with 32 features a step, for each explainer, and the published drop/increase loop at three thresholds for
Grad-CAM. xeval shares what does not depend on the explainer, makes no pass twice and packs the rest.
``--explainers 6`` runs the suite for Grad-CAM and five controls; ``--captum`` puts captum's infidelity with 64 random
squares in the place of Quantus's.

All values are compared before the clock starts: with the same subsets and the same noise on both sides, and Quantus
drawing for itself when it is timed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.drop_increase import packed, published
from benchmarks.pairs import Pair, agree, alternate, counted, seconds
from benchmarks.rows import Claim, DisagreementError, Options, Target, main, row_of
from benchmarks.stock import BATCH, DRAWN, EXPLAINERS, Draws, Subject, black, drawn, stock
from benchmarks.subjects import SIDE, device_of, engine_of, network, pictures, scene_of, sized
from xeval.engine import Engine
from xeval.explainers import EXPLAINERS as REAL
from xeval.metrics import METRICS, Explained, Scene
from xeval.metrics.complexity import entropy, gini
from xeval.metrics.continuity import BallSettings, ball
from xeval.metrics.correlation import pearson
from xeval.metrics.drop import DropSettings
from xeval.metrics.faithfulness import random_subsets
from xeval.metrics.infidelity import InfidelitySettings, Squares
from xeval.metrics.pixelflip import FlipSettings, flipping_curve

RUNS, SUBSET, PATCH, STEP = 100, 224, 4, 32  # Quantus's defaults, and the step that stock.py asks for
SQUARES = InfidelitySettings()
BALL = BallSettings(n=200, radius=0.2)  # Quantus's defaults, in normalised units
TOLERANCES = {"Complexity": 1e-6, "Sparseness": 1e-6}
OTHERS, DROP = 1e-5, 1e-6
FEW = 2
MANY = 256  # number of images that share the cost of one compilation
TARGETS = {("cnn-tiny", 1): 5.0, ("resnet18-cifar", 1): 2.5, ("resnet18-cifar", 6): 6.0}
CAPTUM = 1.3
IMAGES = {("cnn-tiny", 1): 32, ("cnn-tiny", 6): 16, ("resnet18-cifar", 1): 8, ("resnet18-cifar", 6): 4}


@dataclass(frozen=True)
class Shared:
    """What does not depend on the explainer: the drop of the class's logit under blocks and under random subsets.

    With captum's infidelity instead of Quantus's, ``blocks`` holds its squares.
    """

    blocks: Tensor | Squares
    subsets: Tensor
    mask: Tensor
    versions: Tensor


def class_logits(engine: Engine, compose: Callable[[Tensor, Tensor], Tensor], columns: int, targets: Tensor) -> Tensor:
    """Return the logit of each image's class under ``columns`` perturbations of it, packed in batches: (N, columns)."""
    parts = []
    total = len(targets) * columns
    for start in range(0, total, engine.batch_size):
        pair = torch.arange(start, min(start + engine.batch_size, total), device=targets.device)
        rows = pair.div(columns, rounding_mode="floor")
        logits = engine.logits(compose(rows, pair % columns))
        parts.append(logits.gather(1, targets[rows, None])[:, 0])
    return torch.cat(parts).reshape(len(targets), columns)


def shared_of(scene: Scene, clean: Tensor, *, captum: bool) -> Shared:
    """Make the passes that serve every explainer; ``clean`` (N,) are the logits of the unchanged images."""
    features, number = scene.images[0].numel(), _block_numbers(scene)
    mask = random_subsets(scene.seed, scene.keys, RUNS, SUBSET, features)

    def blocks(rows: Tensor, columns: Tensor) -> Tensor:
        return torch.where(number <= columns[:, None, None, None], scene.fill[rows], scene.images[rows])

    def subsets(rows: Tensor, columns: Tensor) -> Tensor:
        gone = mask[rows, columns].reshape(-1, *scene.images.shape[1:])
        return torch.where(gone, scene.fill[rows], scene.images[rows])

    def change(compose: Callable[[Tensor, Tensor], Tensor], columns: int) -> Tensor:
        return clean[:, None] - class_logits(scene.engine, compose, columns, scene.targets)

    squares = METRICS["infidelity"].prepare(scene, SQUARES) if captum else change(blocks, scene.pixels // PATCH**2)
    return Shared(squares, change(subsets, RUNS), mask, ball(scene, BALL))


def _block_numbers(scene: Scene) -> Tensor:
    """Return the number of the 4×4 block that each pixel lies in, row by row: H×W."""
    height, width = scene.size
    row, column = (torch.arange(side, device=scene.images.device) // PATCH for side in (height, width))
    return row[:, None] * (width // PATCH) + column


def infidelity(scene: Scene, one: Explained, change: Tensor | Squares) -> Tensor:
    """Return the mean squared difference of change and attribution, as Quantus or captum defines it.

    For Quantus the attribution is Σ a·(x − x') over growing sets of blocks, for captum, as in xeval's metric, Σ a over
    squares.
    """
    if isinstance(change, Squares):
        return METRICS["infidelity"].score(one, SQUARES, change)["infidelity.raw"].value
    weighted = (one.maps * (scene.images - scene.fill)).sum(1, keepdim=True).double()
    sums = F.avg_pool2d(weighted, PATCH).flatten(1).cumsum(1) * PATCH**2
    return ((sums - change) ** 2).mean(1)


def correlation(maps: Tensor, subsets: Tensor, change: Tensor) -> Tensor:
    """Return Quantus's FaithfulnessCorrelation: Pearson of the attributions' sums over the subsets and the change."""
    return pearson(torch.einsum("nrf,nf->nr", subsets.to(maps.dtype), maps.flatten(1)), change)


def own(subject: Subject, explainers: tuple[str, ...], options: Options) -> tuple[dict[str, Tensor], Shared]:
    """Return the numbers of :func:`benchmarks.stock.stock` from shared and packed passes, and what was shared."""
    scene = _scene(subject, options)
    logit = scene.logits.gather(1, subject.targets[:, None])[:, 0]
    shared = shared_of(scene, logit, captum=options.captum)
    found: dict[str, Tensor] = {}
    for name, one in explained(subject, scene, explainers).items():
        for metric, value in values(one, shared).items():
            found[f"{metric}/{name}"] = value
        if name == "grad-cam":
            found[f"drop/{name}"] = _drop(scene, one)
    return found, shared


def _scene(subject: Subject, options: Options) -> Scene:
    """Return the scene with Quantus's fill, the smallest value of each image, and its order of ties."""
    return Scene.of(
        engine_of(subject.model, options, subject.images),
        subject.images,
        subject.keys,
        targets=subject.targets,
        fill=black(subject.images),
        pixel=subject.images.new_ones(3, 1, 1),
        mean=subject.images.new_zeros(3, 1, 1),
        legacy_order=True,
    )


def explained(subject: Subject, scene: Scene, explainers: tuple[str, ...]) -> Mapping[str, Explained]:
    """Return the maps of each explainer; ``inverse`` derives everything from Grad-CAM."""

    def cam(images: Tensor, _number: int, **_: Any) -> Tensor:
        return scene.engine.explain(REAL["grad-cam"], subject.layer, images, scene.targets_of(images))

    found = {"grad-cam": Explained(scene, cam(subject.images, 0), cam, packed=True)}
    for name in explainers:
        if name == "inverse":
            found[name] = found["grad-cam"].inverted()
        elif name in DRAWN:

            def control(images: Tensor, number: int, *, name: str = name, **_: Any) -> Tensor:
                return drawn(subject, name, images, number)

            found[name] = Explained(scene, control(subject.images, 0), control)
    return {name: found[name] for name in explainers}


def values(one: Explained, shared: Shared) -> dict[str, Tensor]:
    """Return the six Quantus metrics of one explainer."""
    scene, maps = one.scene, one.maps
    flips = FlipSettings(semantics="0.6", step=STEP, legacy_order=True)
    normalised = _Normalised(one)
    sensitivity = METRICS["sensitivity"].score(one, BALL, shared.versions)
    return {
        "maps": maps,
        "Infidelity": infidelity(scene, one, shared.blocks),
        "FaithfulnessCorrelation": correlation(maps.expand_as(scene.images), shared.mask, shared.subsets),
        "Complexity": entropy(maps),
        "Sparseness": gini(maps / maps.abs().amax()),
        "MaxSensitivity": sensitivity["sensitivity.max"].value,
        "PixelFlipping": flipping_curve(normalised, flips),
    }


class _Normalised(Explained):
    """Maps divided by the largest magnitude of the batch, as Quantus ranks them by default; rounding may make ties."""

    def __init__(self, one: Explained) -> None:
        super().__init__(one.scene, one.maps / one.maps.abs().amax(), one.version)


def _drop(scene: Scene, one: Explained) -> Tensor:
    settings = DropSettings(tie=0.0)
    zero = Explained(replace(scene, fill=torch.zeros_like(scene.images)), one.native, one.version)
    scores = METRICS["drop"].score(zero, settings, None)
    return torch.stack([scores[f"drop.mag@{q:g}"].value for q in settings.thresholds], 1)


def require_equal(subject: Subject, explainers: tuple[str, ...], options: Options) -> tuple[str, dict[str, int]]:
    """Compare every number with the same draws on both sides; return a report and the passes of each side.

    The report says what agrees how closely. The drop is compared in float64, where rounding exchanges no pixels. Raises
    :class:`DisagreementError` where a number differs.
    """
    with counted(subject.model) as mine:
        ours, shared = own(subject, explainers, options)
    maps = {name: ours[f"maps/{name}"] for name in explainers}
    with counted(subject.model) as others:
        draws = Draws(shared.mask, shared.versions, maps)
        theirs = stock(subject, explainers, draws, captum=options.captum)
    if theirs.keys() != ours.keys():
        raise DisagreementError(f"the two sides compute different things: {sorted(theirs.keys() ^ ours.keys())}")
    sentences = []
    for metric, keys in groupby(sorted(key for key in theirs if not key.startswith("drop/")), _metric_of):
        names = list(keys)
        sides = [torch.cat([side[key].cpu().double() for key in names]) for side in (theirs, ours)]
        sentences.append(agree(metric, sides[0], sides[1], TOLERANCES.get(metric, OTHERS)))
    exact, images = copy.deepcopy(subject.model).double(), subject.images.double()
    loop, engine = published(exact, subject.layer, images), packed(exact, subject.layer, images, options)
    sentences.append(agree("drop.mag in float64", loop, engine, DROP))
    return "; ".join(sentences), {"peer": others.images, "own": mine.images}


def _metric_of(key: str) -> str:
    return key.partition("/")[0]


def subject_of(arch: str, images: int, options: Options) -> Subject:
    """Return a network with its images and the classes it predicts for them."""
    device = device_of(options)
    side = SIDE // 2 if options.quick else SIDE
    model, layer = network(arch, device, side=side)
    x = pictures(images, device, side=side)
    scene = scene_of(engine_of(model, options, x), x)
    return Subject(model, layer, x, scene.targets, scene.keys)


def measure(options: Options) -> Iterator[Claim]:
    """Yield one row for each architecture, for one explainer or for six."""
    names = EXPLAINERS[: options.explainers]
    for arch in options.networks(("cnn-tiny", "resnet18-cifar")):
        usual = IMAGES.get((arch, options.explainers), BATCH)
        subject = subject_of(arch, options.pick("images", usual, FEW), options)
        mine, prepared = _prepared(options, subject)
        few = replace(subject, images=subject.images[:FEW], targets=subject.targets[:FEW], keys=subject.keys[:FEW])
        checked, passes = require_equal(few, names, mine)
        pair = alternate(
            partial(stock, subject, names, captum=options.captum),
            partial(own, subject, names, mine),
            options.pick("rounds", 2 if len(names) == 1 else 1, 1),
            passes={side: number * len(subject.images) // len(few.images) for side, number in passes.items()},
        )
        if options.compile:
            yield _compiled_row(pair, arch, subject, prepared, checked)
            continue
        bound = CAPTUM if options.captum else TARGETS.get((arch, options.explainers))
        yield pair.row(
            f"the suite as a user runs it, {arch}, {subject.images.shape[-1]} px, {len(subject.images)} images, "
            f"{len(names)} {'explainer' if len(names) == 1 else 'explainers and controls'}"
            f"{', captum in the place of Quantus for infidelity' if options.captum else ''}",
            None if bound is None else Target("at least", bound),
            f"{checked}; {len(few.images)} images, the same draws on both sides",
            "backward passes are not counted",
        )


def _prepared(options: Options, subject: Subject) -> tuple[Options, float]:
    """Return the options with a batch size, and the seconds of finding it, folding the network and compiling it."""
    found: list[Options] = []
    spent = seconds(lambda: found.append(sized(options, subject.model, subject.images)))
    return found[0], spent


def _compiled_row(pair: Pair, arch: str, subject: Subject, prepared: float, checked: str) -> Claim:
    """Return the ratio at :data:`MANY` images, each at the time measured here, with the compilation counted once."""
    times = MANY / len(subject.images)
    both = zip(pair.peer_seconds, pair.own_seconds, strict=True)
    return row_of(
        f"the suite as a user runs it, {arch}, {subject.images.shape[-1]} px, 1 explainer, compiled, {MANY} images",
        "×",
        [peer * times / (own * times + prepared) for peer, own in both],
        Target("at least", 3.0) if arch == "resnet18-cifar" else None,
        passes={"peer": pair.peer_passes, "own": pair.own_passes},
        checked=checked,
        note=f"computed from {len(subject.images)} images and {prepared:.0f} s of preparation, counted once; "
        f"without it {max(pair.ratios):.2f}×",
        measurements={**asdict(pair), "prepared_seconds": prepared},
    )


if __name__ == "__main__":
    main("suite", __doc__, measure)
