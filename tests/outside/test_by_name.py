"""Plain weights of other libraries are scored, imported and explained under the name of their network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.commands import here
from tests.data.makers import noise, png, write_tree
from tests.models.saved import SIDE, saved, vit
from xeval.checkpoints import sandbox
from xeval.checkpoints.load import load_model
from xeval.checkpoints.own import own_configuration
from xeval.data import open_dataset
from xeval.errors import CheckpointError, UsageError

FAST = ("--metrics", "complexity", "--explainers", "saliency", "--limit", "3")
OWN = "images are normalised with mean 0.5,0.4,0.3 std 0.2,0.3,0.4 (the configuration of hf:"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise, three pictures each, of 20 px."""
    names = [f"test/{kind}/{number}.png" for kind in ("a", "b", "c") for number in range(3)]
    files = {name: png(noise(1, 20, seed)[0]) for seed, name in enumerate(names)}
    return write_tree(tmp_path_factory.mktemp("pictures") / "images", files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("hf") / "vit", classes=3)


def scores_of(stdout: str) -> dict[str, Any]:
    found = re.search(r"scores in (.*)", stdout)
    assert found, stdout
    return json.loads((Path(found[1]) / "scores.json").read_text())  # type: ignore[no-any-return]


def test_a_plain_state_dict_of_timm_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = timm.create_model("test_vit", num_classes=10, in_chans=1, img_size=16).eval()
    path = tmp_path / "timm.pth"
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, path)
    status, shown, message = here(capsys, "score", str(path), "--arch", "timm:test_vit", "--dataset", "digits", *FAST)
    assert status == 0, message
    assert scores_of(shown)["checkpoint"]["arch"] == "timm:test_vit"
    loaded = load_model(path, arch="timm:test_vit", describe=lambda: open_dataset("digits").info)
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model.eval()(x), network(x))
    with pytest.raises(CheckpointError, match="does not fit timm:test_vit2: .* the number of classes and the size"):
        load_model(path, arch="timm:test_vit2", describe=lambda: open_dataset("digits").info)
    with pytest.raises(UsageError, match="did you mean timm:test_vit"):
        load_model(path, arch="timm:test_vitt", describe=lambda: open_dataset("digits").info)


def test_a_folder_of_transformers_brings_its_constants_and_size(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pictures have 20 px and no published constants: both come from the folder, unless the user says otherwise."""
    words = ("score", str(folder / "model.safetensors"), "--arch", f"hf:{folder}", "--dataset", f"folder:{images}")
    status, shown, message = here(capsys, *words, *FAST, "--out", str(tmp_path / "own"))
    assert status == 0, message
    found = scores_of(shown)
    assert any(OWN in line for line in found["conventions"])
    assert found["dataset"]["n"] == 3
    bicubic = open_dataset(f"folder:{images}", size=SIDE).interpolated("bicubic").split("test")
    assert found["dataset"]["manifest"] == bicubic.manifest()  # the hash of the very pixels
    assert found["dataset"]["manifest"] != open_dataset(f"folder:{images}", size=SIDE).split("test").manifest()
    opened = open_dataset(f"folder:{images}", size=SIDE).info
    loaded = load_model(folder / "model.safetensors", arch=f"hf:{folder}", describe=lambda _size: opened)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():  # stored under other names than those in memory
        assert torch.equal(loaded.model.eval()(x), vit(classes=3)(x).logits)
    status, shown, message = here(capsys, *words, *FAST, "--out", str(tmp_path / "told"), "--normalize", "imagenet")
    assert status == 0, message
    other = scores_of(shown)
    assert any("mean 0.485" in line for line in other["conventions"])
    assert found["checkpoint"]["sha256"] != other["checkpoint"]["sha256"]
    values = [one["scores"]["saliency"]["complexity.gini"]["mean"] for one in (found, other)]
    assert values[0] != values[1]


def test_other_weights_of_the_same_network_say_nothing_of_their_images(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = saved(tmp_path / "four", classes=4)
    save_file(vit(classes=3).state_dict(), tmp_path / "tuned.safetensors")
    words = ("score", str(tmp_path / "tuned.safetensors"), "--dataset", f"folder:{images}")
    status, _, message = here(capsys, *words, "--arch", f"hf:{four}", *FAST)
    assert (status, "position_embeddings has shape" in message) == (4, True)  # read at the pictures' own 20 px
    assert own_configuration(four, load_file(tmp_path / "tuned.safetensors"), f"hf:{four}") is None
    published = timm.create_model("test_vit").state_dict()
    assert own_configuration(four, published, "timm:test_vit") is not None
    for other in ({"num_classes": 10}, {"img_size": 96}, {"in_chans": 1}):
        assert own_configuration(four, timm.create_model("test_vit", **other).state_dict(), "timm:test_vit") is None


def test_an_import_keeps_what_the_folder_says_and_asks_for_the_name_again(
    folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandbox, "_limit_memory", lambda _: None)
    monkeypatch.setattr(sandbox, "_run_child", sandbox.main)
    run, arch = tmp_path / "run", f"hf:{folder}"
    words = ("import", str(folder / "model.safetensors"), "--out", str(run), "--dataset", f"folder:{images}")
    status, _, message = here(capsys, *words, "--arch", arch, "--seed", "0")
    assert status == 0, message
    card = json.loads((run / "run.json").read_text())
    assert card["model"]["arch"] == arch
    assert (card["dataset"]["mean"], card["dataset"]["size"]) == ([0.5, 0.4, 0.3], SIDE)
    assert card["dataset"]["interpolation"] == "bicubic"
    assert card["recipe"]["normalization"] == f"the configuration of {arch}"
    status, _, message = here(capsys, "score", str(run), *FAST)
    assert (status, "--arch hf:" in message) == (4, True)
    status, shown, message = here(capsys, "score", str(run), *FAST, "--arch", arch)
    assert status == 0, message
    assert any(OWN in line for line in scores_of(shown)["conventions"])


def test_a_function_of_ones_own_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_nets_here.py").write_text(
        "import torch.nn as nn\n"
        "def build(num_classes, in_channels):\n"
        "    pool = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(pool, nn.Linear(4, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    pool = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    save_file(nn.Sequential(pool, nn.Linear(4, 10)).state_dict(), tmp_path / "mine.safetensors")
    words = ("score", "mine.safetensors", "--arch", "own_nets_here:build", "--dataset", "digits")
    status, shown, message = here(capsys, *words, *FAST)
    assert status == 0, message
    assert scores_of(shown)["checkpoint"]["arch"] == "own_nets_here:build"
