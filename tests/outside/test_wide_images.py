"""Images of 48×96 pixels from end to end: a loader with masks, and a folder with masks and boxes."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn

import xeval
from tests.commands import here
from tests.data import makers
from tests.explainers.networks import OF_ATTENTION
from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import ModelSpec, build

HEIGHT, WIDTH, COUNT = 48, 96, 40
METRICS = ("drop", "infidelity", "pointing", "relevance", "topk")
ROWS = ("grad-cam", "random-cam", "centre", "edge")


class Net(nn.Module):
    """A tiny network of a user."""

    def __init__(self, seed: int, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(nn.Conv2d(channels, 6, 3, 4, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))
            self.head = nn.Linear(8, 4)
        self.head.weight.data *= 20

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((-2, -1)))


def squares() -> tuple[Tensor, Tensor]:
    """Grey noise with one bright square each, and where it is."""
    draws = np.random.default_rng(0)
    images = draws.integers(60, 120, (COUNT, 3, HEIGHT, WIDTH), dtype=np.uint8)
    where = np.zeros((COUNT, HEIGHT, WIDTH), bool)
    for number in range(COUNT):
        y, x = int(draws.integers(0, HEIGHT - 16)), int(draws.integers(0, WIDTH - 16))
        where[number, y : y + 16, x : x + 16] = True
        images[number, number % 3, y : y + 16, x : x + 16] = 255
    return torch.from_numpy(images), torch.from_numpy(where)


IMAGES, WHERE = squares()
LABELS = torch.arange(COUNT) % 4


def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(IMAGES[i : i + 8], LABELS[i : i + 8], WHERE[i : i + 8]) for i in range(0, COUNT, 8)]


def pictures(page: Path) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


@pytest.mark.usefixtures("no_figures")
def test_a_loader_from_the_score_to_the_page(tmp_path: Path) -> None:
    for method, seed in (("ours", 0), ("base", 1)):
        options: dict[str, Any] = {"metrics": METRICS, "explainers": ROWS, "dataset": "wide", "device": "cpu"}
        named: dict[str, Any] = {"name": method, "method": method, "training_seed": 0, "out": tmp_path / method}
        table = xeval.score(Net(seed), batches(), **named, **options)
        assert np.isfinite(table["mean"]).all()
        assert table.attrs["summary"]["dataset"]["size"] == [HEIGHT, WIDTH]
        assert table.attrs["summary"]["explained"]["cam_size"] == [6, 12]
    each = xeval.results(tmp_path / "ours")
    centred = each[each["explainer"] == "centre"].reset_index(drop=True)
    middle = WHERE[:, 23:25, 47:49].flatten(1).any(1)  # the four pixels that the Gaussian has its maximum at
    assert not centred["pointing.hit"][~middle.numpy()].any()
    made = xeval.compare(tmp_path, reference="base")
    (section,) = json.loads((made.out / "results.json").read_text())["sections"]
    assert set(section["methods"]) == {"ours", "base"}
    shown = pictures(made.page)
    assert sum(one.size == (WIDTH, HEIGHT) for one in shown) >= 8 * 5  # the images, and for each method map and mask
    kept = load_file(tmp_path / "ours" / "gallery.safetensors")
    assert kept["pixels"].shape == (COUNT, 3, HEIGHT, WIDTH)
    assert kept["maps"].shape == (COUNT, 1, 6, 12)
    points = load_file(tmp_path / "ours" / "artifacts.safetensors")["tsne.points"]
    assert points.shape == (2 * COUNT, 2)
    assert points.std() > 0


def folder(root: Path) -> Path:
    """The same images as files: a mask for half of the classes, boxes for the third, nothing for the last."""
    content: dict[str, bytes] = {"test/red/notes.txt": b"x", "val/red/0.png": b"x"}
    lines = ["path,x0,y0,x1,y1"]
    names = ("red", "green", "blue", "other")
    for number in range(COUNT):
        label = number % 4
        name = f"test/{names[label]}/{number:02d}.png"
        content[name] = makers.png(IMAGES[number].numpy())
        y, x = (int(line[0]) for line in WHERE[number].nonzero(as_tuple=True))
        if label < 2:
            content[f"masks/{name}"] = makers.png(WHERE[number].numpy().astype(np.uint8))
        elif label == 2:
            lines.append(f"{name},{x},{y},{x + 15},{y + 15}")
    return makers.write_tree(root, {**content, "boxes.csv": "\n".join(lines).encode()})


@pytest.mark.usefixtures("no_figures")
def test_a_folder_from_the_score_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, runs = folder(tmp_path / "my"), tmp_path / "runs"
    runs.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(ModelSpec(arch="cnn-tiny", num_classes=4, in_channels=3, image_size=(HEIGHT, WIDTH)))
    torch.save(network.state_dict(), runs / "net.pt")
    command = ("score", str(runs / "net.pt"), "--dataset", f"folder:{data}", "--arch", "cnn-tiny", "--device", "cpu")
    command = (*command, "--normalize", "none", "--metrics", "drop,pointing", "--explainers", "grad-cam,centre")
    left, _, last = here(capsys, *command)
    assert left == 0, last
    told = (
        "files passed over: 1 .txt",
        "the images are those of the folder test; not read: val",
        "10 of 40 images have no object mask or box, and no value of pointing",
    )
    summary = json.loads((runs / "net.pt.xeval" / "scores.json").read_text())
    assert (summary["dataset"]["size"], summary["dataset"]["notes"]) == ([HEIGHT, WIDTH], list(told))
    found = summary["scores"]["centre"]
    assert (found["pointing.hit"]["n"], found["pointing.hit"]["undefined"]) == (30, {"no object mask": 10})
    assert found["drop.mag@0.45"]["n"] == COUNT
    each = xeval.results(runs / "net.pt.xeval")
    for name, hit in zip(*(each[each["explainer"] == "centre"][key] for key in ("image", "pointing.hit")), strict=True):
        number = int(name[-6:-4])
        if number % 4 == 3:
            assert np.isnan(hit)
        elif not WHERE[number, 23:25, 47:49].any():
            assert hit == 0
        elif WHERE[number, 23:25, 47:49].all():
            assert hit == 1
    assert here(capsys, "compare", str(runs))[0] == 0
    page = (runs / "report" / "report.html").read_text()
    assert all(note in page for note in told)
    assert any(one.size == (WIDTH, HEIGHT) for one in pictures(runs / "report" / "report.html"))
    assert "nothing to do" in here(capsys, *command)[2]
    others = (tmp_path / "my" / "boxes.csv").read_text().splitlines()
    (tmp_path / "my" / "boxes.csv").write_text("\n".join([*others[:-1], others[-1].rpartition(",")[0] + ",47"]))
    assert "nothing to do" not in here(capsys, *command)[2]  # another box: these columns are scored again
    anew = json.loads((runs / "net.pt.xeval" / "scores.json").read_text())
    assert anew["dataset"]["key"] == summary["dataset"]["key"]
    changed = {name for name in anew["columns"] if anew["columns"][name] != summary["columns"][name]}
    assert changed == {"pointing.hit"}


def test_masks_that_changed_between_runs_are_not_compared(tmp_path: Path) -> None:
    for seed, turn in ((0, False), (1, True)):
        data = [(images, labels, where.flip(-1) if turn else where) for images, labels, where in batches()]
        options: dict[str, Any] = {"metrics": ("pointing",), "explainers": ("centre", "grad-cam"), "device": "cpu"}
        xeval.score(
            Net(seed), data, name=str(seed), method="m", training_seed=seed, out=tmp_path / str(seed), **options
        )
    with pytest.raises(DataError, match="different masks or boxes of the objects"):
        xeval.compare(tmp_path)


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (32, 33)])
def test_protocols_that_fix_the_size_refuse_others(size: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *size)
    model = build(ModelSpec(arch="resnet18", num_classes=4, in_channels=3, image_size=size)).eval()
    with pytest.raises(UsageError, match="defines no layer for this network and image size"):
        xeval.score(model, [(images, LABELS[:4])], protocol="excon-2022", device="cpu")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("channels", [1, 2, 16])
def test_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    images = torch.rand(8, channels, 12, 20, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"metrics": ("drop",), "explainers": ("grad-cam", "edge", "random"), "device": "cpu"}
    table = xeval.score(Net(0, channels), [(images, LABELS[:8])], out=tmp_path, fill="blur", **options)
    assert np.isfinite(table["mean"]).all()
    made = xeval.compare(tmp_path)
    assert any(one.size == (20, 12) for one in pictures(made.page))


@pytest.mark.parametrize("explainer", list(EXPLAINERS))
def test_every_explainer_at_a_size_that_is_not_square(explainer: str) -> None:
    images = torch.rand(2, 2, 16, 40, generator=torch.Generator().manual_seed(1))
    vit = {"img_size": (16, 40), "patch_size": 8, "in_chans": 2, "num_classes": 4}
    model = timm.create_model("test_vit", **vit) if explainer in OF_ATTENTION else Net(0, 2)
    maps = xeval.explain(model.eval(), images, explainer=explainer)
    assert maps.isfinite().all()
    height, width = maps.shape[2:]
    assert (height, width) == (8, 8) or abs(width / height - 2.5) < 0.6
