"""Images that are not square, of one to sixteen channels: every number that has to do with places, in plain loops.

A height and a width taken for each other, or a side for both, move masks, squares and maps to other places: the loops
here know nothing but (y, x).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import reference
from xeval.engine import Engine
from xeval.explainers.controls import centre, edge, random, random_cam
from xeval.metrics import METRICS, Explained, Scene
from xeval.metrics.infidelity import square_sums
from xeval.perturb.draws import image_keys, uniform
from xeval.perturb.fills import FILLS
from xeval.perturb.imputation import linear_imputation
from xeval.perturb.masks import box_masks, kept

SIZES = [(9, 17), (17, 9)]
Size = tuple[int, int]


class Places(nn.Module):
    """Three classes whose logits are sums of the pixels with weights of their own: every pixel counts differently."""

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("weight", torch.randn(3, channels, *size, generator=generator) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", images, self.weight)


def pictures(n: int, channels: int, size: Size, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def scene_of(channels: int, size: Size, n: int = 3, *, fill: str = "mean") -> Scene:
    x = pictures(n, channels, size)
    keys = image_keys([f"image-{i}" for i in range(n)])
    mean, pixel = torch.full((channels, 1, 1), 0.5), torch.full((channels, 1, 1), 4.0)
    made = FILLS[fill]
    return Scene.of(
        Engine(Places(channels, size), batch_size=7),
        x,
        keys,
        mean=mean,
        pixel=pixel,
        fill=made.make(x, mean, pixel, keys, 0),
        compose=made.compose,
        masks=box_masks(torch.tensor([[2, 1, 7, 4]] * n), *size),
    )


def fixed(scene: Scene, maps: Tensor) -> Explained:
    return Explained(scene, maps, lambda *_, **__: maps)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 4, 16])
def test_drop_and_deletion(channels: int, size: Size) -> None:
    scene = scene_of(channels, size)
    model, maps = scene.engine.model, pictures(3, 1, size, seed=8)
    one = fixed(scene, maps)
    drop, deletion = (METRICS[name] for name in ("drop", "deletion"))
    found = drop.score(one, drop.settings(), None)
    area = deletion.score(one, deletion.settings(steps=9), None)["deletion.auc"].value
    for n in range(3):
        about = (model, scene.images[n], torch.zeros(channels, *size), maps[n, 0], int(scene.targets[n]))
        for q in (0.15, 0.3, 0.45):
            for name, value in reference.drop_increase(*about, q).items():
                assert found[f"{name}@{q:g}"].value[n].item() == pytest.approx(value, abs=1e-6)
        assert area[n].item() == pytest.approx(reference.deletion_auc(*about, 9), abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_small_maps_are_enlarged_along_the_right_axes(size: Size) -> None:
    """Bilinear, align_corners off: the value at a pixel is interpolated between the centres of the cells."""
    native = pictures(1, 1, (2, 3), seed=2)
    found = fixed(scene_of(1, size, 1), native).maps[0, 0]
    for y, x in itertools.product(range(size[0]), range(size[1])):
        row, column = ((place + 0.5) * cells / side - 0.5 for place, cells, side in ((y, 2, size[0]), (x, 3, size[1])))
        value = 0.0
        for i, j in itertools.product(range(2), range(3)):
            near = (max(0.0, 1 - abs(min(max(row, 0), 1) - i)), max(0.0, 1 - abs(min(max(column, 0), 2) - j)))
            value += near[0] * near[1] * float(native[0, 0, i, j])
        assert found[y, x].item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 4])
def test_infidelity(channels: int, size: Size) -> None:
    scene = scene_of(channels, size, 2)
    maps, metric = pictures(2, 1, size, seed=3), METRICS["infidelity"]
    settings = metric.settings(n=12, side=0.3)
    shared = metric.prepare(scene, settings)
    found = metric.score(fixed(scene, maps), settings, shared)
    side, u = round(0.3 * min(size)), uniform(0, "infidelity", scene.keys, 12, 2)
    corners = set()
    for n in range(2):
        sums, changes = [], []
        for top, left in ((int(a * (size[0] - side + 1)), int(b * (size[1] - side + 1))) for a, b in u[n].tolist()):
            corners.add((top, left))
            hidden, total = scene.images[n].clone(), 0.0
            for y, x in itertools.product(range(top, top + side), range(left, left + side)):
                hidden[:, y, x] = 0
                total += channels * float(maps[n, 0, y, x])
            target = int(scene.targets[n])
            sums.append(total)
            changes.append(scene.p0[n].item() - reference.softmax_of(scene.engine.model, hidden, target))
        raw = sum((s - d) ** 2 for s, d in zip(sums, changes, strict=True)) / 12
        r = float(np.corrcoef(sums, changes)[0, 1])
        assert found["infidelity.raw"].value[n].item() == pytest.approx(raw, rel=1e-4)
        assert found["infidelity.skill"].value[n].item() == pytest.approx(r * abs(r), abs=1e-4)
    assert max(top for top, _ in corners) + side <= size[0]
    assert max(left for _, left in corners) + side > min(size) or size[1] < size[0]  # the wide axis is used to its end


def test_squares_are_no_longer_than_the_shorter_side() -> None:
    metric, scene = METRICS["infidelity"], scene_of(1, (40, 4), 1)
    shared = metric.prepare(scene, metric.settings(n=4))
    assert shared.side == 1  # round(4 / 8); a square of 40 / 8 pixels would not fit
    assert square_sums(torch.ones(1, 1, 40, 4), shared.top, shared.left, 1).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [2])
def test_sensitivity(channels: int, size: Size) -> None:
    """The map is the mean of the channels, so its change is that of the noise; every norm is a loop over places."""
    scene, metric = scene_of(channels, size, 2), METRICS["sensitivity"]

    def again(images: Tensor, _number: int, **_: object) -> Tensor:
        return images.mean(1, keepdim=True)

    one = Explained(scene, again(scene.images, 0), again)
    shared = metric.prepare(scene, metric.settings())
    found = metric.score(one, metric.settings(), shared)
    versions = shared.images if hasattr(shared, "images") else shared
    for n in range(2):
        ratios = []
        for version in versions[n]:
            change = power = 0.0
            for y, x in itertools.product(range(size[0]), range(size[1])):
                before, after = float(scene.images[n, :, y, x].mean()), float(version[:, y, x].mean())
                change, power = change + (after - before) ** 2, power + before**2
            ratios.append(math.sqrt(change / power))
        assert found["sensitivity.max"].value[n].item() == pytest.approx(max(ratios), rel=1e-4)
        assert found["sensitivity.avg"].value[n].item() == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_localisation(size: Size) -> None:
    scene, maps = scene_of(1, size), pictures(3, 1, size, seed=6)
    one = fixed(scene, maps)
    found: dict[str, Tensor] = {}
    for name in ("pointing", "relevance", "topk"):
        metric = METRICS[name]
        found |= {key: values.value for key, values in metric.score(one, metric.settings(), None).items()}
    inside = set(itertools.product(range(1, 5), range(2, 8)))  # y from 1 to 4, x from 2 to 7
    for n in range(3):
        values = {(y, x): float(maps[n, 0, y, x]) for y, x in itertools.product(range(size[0]), range(size[1]))}
        best = max(values, key=lambda place: values[place])
        mass = sum(max(0, values[place]) for place in inside) / sum(max(0, value) for value in values.values())
        top = reference.most_relevant(maps[n, 0], len(inside))
        assert found["pointing.hit"][n].item() == float(best in inside)
        assert found["relevance.mass"][n].item() == pytest.approx(mass, rel=1e-6)
        assert found["topk.iou"][n].item() == pytest.approx(len(top & inside) / len(top | inside))


@pytest.mark.parametrize("size", SIZES)
def test_controls(size: Size) -> None:
    height, width = size
    x, keys = pictures(2, 16, size), image_keys(["a", "b"])
    native = torch.zeros(2, 1, 3, 5)
    found, edges = centre(x, native, keys, 0)[0, 0], edge(x, native, keys, 0)[1, 0]
    grey = x[1].mean(0).double()
    for i, j in itertools.product(range(height), range(width)):
        distance = (i - (height - 1) / 2) ** 2 + (j - (width - 1) / 2) ** 2
        assert found[i, j].item() == pytest.approx(math.exp(-distance / (2 * (min(size) / 4) ** 2)), rel=1e-4)
        near = [
            [float(grey[min(max(i + a, 0), height - 1), min(max(j + b, 0), width - 1)]) for b in (-1, 0, 1)]
            for a in (-1, 0, 1)
        ]
        across = sum(w * (row[2] - row[0]) for w, row in zip((1, 2, 1), near, strict=True))
        down = sum(w * (low - high) for w, low, high in zip((1, 2, 1), near[2], near[0], strict=True))
        assert edges[i, j].item() == pytest.approx(math.hypot(across, down), abs=1e-4)
    assert random(x, native, keys, 0).shape == (2, 1, *size)
    drawn = random_cam(x, native, keys, 1)
    assert drawn.shape == native.shape
    assert len(drawn[0].unique()) == 15
    transposed = centre(x.mT, native, keys, 0)[0, 0]
    assert torch.equal(transposed, found.T)


@pytest.mark.parametrize("size", [(6, 11), (11, 6)])
def test_road_solves_the_system_of_its_definition(size: Size) -> None:
    """The system is written down pixel by pixel and solved by numpy."""
    height, width = size
    x = pictures(1, 2, size).double()
    keep = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1)) < 0.15
    keep[0, 0, 0, 0] = True
    found = linear_imputation(x, keep)[0]
    places = list(itertools.product(range(height), range(width)))
    for channel in range(2):
        system, right = np.eye(height * width), np.zeros(height * width)
        for number, (i, j) in enumerate(places):
            if keep[0, 0, i, j]:
                right[number] = float(x[0, channel, i, j])
                continue
            around = {
                (i + a, j + b): 1 / 6 if a == 0 or b == 0 else 1 / 12
                for a, b in itertools.product((-1, 0, 1), repeat=2)
                if (a, b) != (0, 0) and 0 <= i + a < height and 0 <= j + b < width
            }
            for place, weight in around.items():
                system[number, place[0] * width + place[1]] = -weight / sum(around.values())
        solved = np.linalg.solve(system, right).reshape(height, width)
        assert np.allclose(found[channel].numpy(), solved, atol=1e-4)


@pytest.mark.parametrize("size", [(12, 40), (40, 12)])
def test_blur_has_the_width_of_the_shorter_side(size: Size) -> None:
    from scipy.ndimage import gaussian_filter

    scene = scene_of(2, size, 1, fill="blur")
    sigma = min(size) / 8
    for channel, blurred in zip(scene.images[0].numpy(), scene.fill[0].numpy(), strict=True):
        expected = gaussian_filter(channel.astype(np.float64), sigma, mode="mirror", radius=round(2 * sigma))
        assert np.allclose(blurred, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "apart"), [("mean", 1e-5), ("black", 1e-5), ("blur", 1e-5), ("road", 0.05)])
def test_a_transposed_problem_has_the_same_answer(name: str, apart: float) -> None:
    """Height and width changed for each other in image, network and map; the little noise of road is drawn anew."""
    found = []
    for turn in (lambda part: part, lambda part: part.mT.contiguous()):
        scene = turned(scene_of(3, (9, 17), fill="mean"), turn, name)
        metric, maps = METRICS["drop"], turn(pictures(3, 1, (9, 17), seed=4))
        found.append(metric.score(fixed(scene, maps), metric.settings(), None)["drop.mag@0.3"].value)
    assert torch.allclose(*found, atol=apart)


def turned(scene: Scene, turn: Callable[[Tensor], Tensor], fill: str) -> Scene:
    """The scene with its images and the weights of its network turned, under another fill."""
    x, made = turn(scene.images), FILLS[fill]
    model = Places(3, (9, 17))
    model.weight = turn(model.weight)
    noise = made.make(x, scene.mean, scene.pixel, scene.keys, 0)
    return Scene.of(Engine(model), x, scene.keys, mean=scene.mean, pixel=scene.pixel, fill=noise, compose=made.compose)


def test_kept_counts_pixels_of_both_sides() -> None:
    assert kept(0.15, 48 * 96) == 691
