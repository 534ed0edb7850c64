"""The estimates of docs/cluster.md follow from what they say."""

import re
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.commands import ROOT
from xeval.models import ModelSpec, build
from xeval.sweep.matrix import find_matrix
from xeval.sweep.plan import Wish, make_plan

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
THROUGHPUT = 25e12 * 3600  # per hour
HELD_OUT = 0.2
IMAGES = {"cifar100": 50_000, "cifar10": 50_000, "tiny-imagenet": 100_000}
SCORED = 10_000
PASSES = {"ce": 3, "triplet": 3, "supcon-ori": 7, "supcon": 7}
ROWS = re.findall(r"^\| (\S+) \| (\S+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)


@cache
def flops(arch: str, size: int) -> tuple[float, float]:
    """FLOP of a forward pass of one image, and of a forward and a backward pass."""
    with torch.device("meta"):
        model = build(ModelSpec(arch=arch, num_classes=10, in_channels=3, image_size=size))
        images = torch.empty(2, 3, size, size)
    with FlopCounterMode(display=False) as forward:
        model(images)
    with FlopCounterMode(display=False) as both:
        model(images).sum().backward()
    return forward.get_total_flops() / 2, both.get_total_flops() / 2


@pytest.mark.parametrize(("arch", "size", "shown"), re.findall(r"^\| `(\S+)` \| (\d+) px \| ([\d.]+) \|", PAGE, re.M))
def test_the_operations_are_counted(arch, size, shown):
    forward, both = flops(arch, int(size))
    assert forward / 1e9 == pytest.approx(float(shown), rel=1e-3)
    assert both / forward == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("matrix", ["excon", "clxai"])
def test_every_row_is_the_arithmetic_of_its_recipe(matrix):
    shown = {(part, method): [float(cell.replace(",", "")) for cell in cells] for part, method, *cells in ROWS}
    runs = [run for run in make_plan(Wish(matrix)).runs if run.seed == 0]
    folders = {part.folder for part in find_matrix(matrix)[1].parts}
    assert {key for key in shown if key[0] in folders} == {(run.folder, run.method) for run in runs}
    total = 0.0
    for run in runs:
        recipe = run.choices[0].recipe
        images = IMAGES[recipe["dataset"]] * (1 - recipe["heldout"]) * recipe["epochs"]
        forward = flops(recipe["arch"], recipe["image_size"])[0]
        training = images * passes(recipe) * forward / THROUGHPUT
        scoring = SCORED * 933 * forward / THROUGHPUT
        expected = [images, passes(recipe), training, scoring, 5 * (training + scoring)]
        assert shown[run.folder, run.method] == pytest.approx(expected, abs=0.06, rel=1e-3)
        total += expected[-1]
    hours = re.search(rf"^\| `{matrix}` \| \d+ \| (\d+) \|", PAGE, re.M)
    assert hours is not None
    assert total == pytest.approx(float(hours[1]), abs=0.6)


def passes(recipe: dict) -> float:
    """Forward passes a training image and epoch, mean over the epochs."""
    method, looked_at = recipe["method"], HELD_OUT / (1 - HELD_OUT)
    if recipe["select_on"] == "loss":  # the head is a probe afterwards
        return {"supcon-ori": 6, "triplet": 3}[method]
    if method in PASSES:
        return PASSES[method] + looked_at
    explained = (recipe["epochs"] - max(recipe["excon"]["explain_from_epoch"], 1) + 1) / recipe["epochs"]
    return 7 + looked_at + explained * {"excon": 2, "exconb": 5}[method]
