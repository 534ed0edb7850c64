"""Models scored through the API are runs: named, pooled by their seeds, compared like the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import xeval
from tests.commands import here
from xeval.errors import DataError
from xeval.scoring.module import Normalization

SEEDS = range(5)
OPTIONS = {"metrics": ("drop",), "explainers": ("grad-cam", "random"), "dataset": "stripes", "device": "cpu"}


class Net(nn.Module):
    """A user's own network."""

    def __init__(self, seed: int, width: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.linear = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(images)).mean((-2, -1)))


class Wide(Net):
    """Another architecture."""


def loader() -> list[tuple[Tensor, Tensor]]:
    images = torch.rand(40, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return [(images[i : i + 8], torch.arange(8) % 3) for i in range(0, 40, 8)]


def test_two_methods_of_five_seeds_are_compared_with_intervals_and_p_values(tmp_path: Path) -> None:
    for method, shift in (("ours", 0), ("base", 100)):
        for seed in SEEDS:
            out, name = tmp_path / f"{method}-{seed}", f"{method}-s{seed}"
            net = Net(shift + seed)
            xeval.score(net, loader(), name=name, method=method, training_seed=seed, out=out, **OPTIONS)
    made = xeval.compare(tmp_path, reference="base")
    (section,) = json.loads((made.out / "results.json").read_text())["sections"]
    assert (section["dataset"], section["arch"], section["reference"]) == ("stripes", "Net", "base")
    means = {method: found["explainers"]["grad-cam"]["drop.mag@0.45"] for method, found in section["methods"].items()}
    expected = {
        method: [
            json.loads((tmp_path / f"{method}-{seed}" / "scores.json").read_text())["scores"]["grad-cam"][
                "drop.mag@0.45"
            ]["mean"]
            for seed in SEEDS
        ]
        for method in ("ours", "base")
    }
    assert {method: found["values"] for method, found in means.items()} == {
        method: pytest.approx(values, rel=1e-6) for method, values in expected.items()
    }
    (contrast,) = [c for c in section["contrasts"] if c["column"] == "drop.mag@0.45" and c["family"] == "primary"]
    assert (contrast["row"], contrast["seeds"]) == ("ours", [5, 5])
    assert 0 < contrast["p"] < 1
    low, high = contrast["interval"]
    assert low < contrast["difference"] < high
    assert contrast["difference"] == pytest.approx(sum(expected["ours"]) / 5 - sum(expected["base"]) / 5, abs=1e-6)


def test_models_without_a_name_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for seed in (0, 1):
        xeval.score(Net(seed), loader(), out=tmp_path / str(seed), **OPTIONS)
    with pytest.raises(
        DataError, match="are both stripes, of unknown seed.*another --method or, .* each with its --training-seed"
    ):
        xeval.compare(tmp_path)


def test_other_architectures_are_other_sections(tmp_path: Path) -> None:
    for kind in (Net, Wide):
        xeval.score(kind(0), loader(), name=kind.__name__, out=tmp_path / kind.__name__, **OPTIONS)
    made = xeval.compare(tmp_path)
    sections = json.loads((made.out / "results.json").read_text())["sections"]
    found = [(section["arch"], list(section["methods"])) for section in sections]
    assert found == [("Net", ["Net"]), ("Wide", ["Wide"])]


def test_the_same_weights_in_another_network_are_scored_anew(tmp_path: Path) -> None:
    class Doubled(Net):
        def forward(self, images: Tensor) -> Tensor:
            return 9 * super().forward(images)

    class Scaled(Net):
        scale = 1.0

        def forward(self, images: Tensor) -> Tensor:
            return self.scale * super().forward(images)

    scaled = Scaled(0)
    scaled.scale = -9.0
    nets = (Net(0), Doubled(0), Scaled(0), scaled)
    tables = [xeval.score(net, loader(), out=tmp_path, **OPTIONS) for net in nets]
    assert len({table.attrs["summary"]["checkpoint"]["sha256"] for table in tables}) == 4
    assert (tables[0]["mean"] - tables[1]["mean"]).abs().max() > 1e-3
    assert (tables[2]["mean"] - tables[3]["mean"]).abs().max() > 1e-3


def test_the_same_bytes_under_other_constants_are_scored_anew(tmp_path: Path) -> None:
    data = [((255 * images).to(torch.uint8), labels) for images, labels in loader()]
    ways = (Normalization((0.0,), (1.0,)), Normalization((0.5,), (0.1,)))
    plain, moved = (xeval.score(Net(0), data, normalization=way, out=tmp_path, **OPTIONS) for way in ways)
    alone = xeval.score(Net(0), data, normalization=ways[1], **OPTIONS)
    assert moved["mean"].tolist() == alone["mean"].tolist() != plain["mean"].tolist()


def test_an_unknown_seed_is_no_repetition(tmp_path: Path) -> None:
    for seed in (None, 0):
        xeval.score(Net(seed or 7), loader(), method="mine", training_seed=seed, out=tmp_path / str(seed), **OPTIONS)
    with pytest.raises(DataError, match="the seed of the training is not known"):
        xeval.compare(tmp_path)


def test_a_new_label_is_written_without_scoring_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.pt"
    torch.save(_digits_net(), path)
    command = ("score", str(path), "--arch", "cnn-tiny", "--dataset", "digits", "--limit", "12", "--metrics", "drop")
    command = (*command, "--explainers", "grad-cam,random", "--out", str(tmp_path / "scores"))
    assert here(capsys, *command)[0] == 0
    left, _, last = here(capsys, *command, "--method", "mine", "--training-seed", "3")
    assert left == 0
    assert "nothing to do" not in last
    summary = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert {key: summary["checkpoint"][key] for key in ("name", "method", "seed")} == {
        "name": "m",
        "method": "mine",
        "seed": 3,
    }
    assert "nothing to do" in here(capsys, *command, "--method", "mine", "--training-seed", "3")[2]


def test_one_name_is_for_one_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, _, last = here(capsys, "score", str(tmp_path / "a"), str(tmp_path / "b"), "--name", "x")
    assert left == 2
    assert "--name is the name of one checkpoint" in last


def test_a_training_seed_is_of_one_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else every one of several would be the same repetition."""
    left, _, last = here(capsys, "score", str(tmp_path / "a"), str(tmp_path / "b"), "--training-seed", "0")
    assert (left, "--training-seed is that of one checkpoint" in last) == (2, True)


@pytest.mark.parametrize("option", ["--name", "--method"])
def test_names_are_one_line(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("", "two\nlines", "x" * 201):
        left, _, last = here(capsys, "score", str(tmp_path / "a"), option, text)
        assert (left, f"{option} {ascii(text)[:100]} is not one line of at most 200 characters" in last) == (2, True)


def _digits_net() -> dict[str, Tensor]:
    from xeval.models import ModelSpec, build

    return build(ModelSpec(arch="cnn-tiny", num_classes=10, in_channels=1, image_size=16)).state_dict()
