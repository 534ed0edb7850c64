"""Weights in several files that an index names, as transformers saves large networks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import here
from tests.models.saved import SIDE, vit
from xeval.checkpoints.load import load_model
from xeval.checkpoints.shards import weights_hash
from xeval.checkpoints.weightfiles import read_tensors
from xeval.data import open_dataset
from xeval.errors import CheckpointError
from xeval.training.learner import fresh_learner
from xeval.training.recipe import load_recipe

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for digits in several files, as the library itself writes it."""
    folder = tmp_path_factory.mktemp("large") / "vit"
    vit(channels=1).save_pretrained(folder, max_shard_size="5KB")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    copy = tmp_path / "vit"
    copy.mkdir()
    for file in written.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def loaded(folder: Path) -> Any:
    return load_model(folder / INDEX, arch=f"hf:{folder}", describe=lambda: open_dataset("digits").info)


def test_the_network_answers_as_the_library_does(folder: Path, tmp_path: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 2
    found, x = loaded(folder), torch.randn(2, 1, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(found.model.eval()(x), vit(channels=1)(x).logits)
    save_file(read_tensors(folder / INDEX), folder / "whole.safetensors")
    whole = load_model(folder / "whole.safetensors", arch=f"hf:{folder}", describe=lambda: open_dataset("digits").info)
    assert found.sha256 == whole.sha256
    assert found.file_sha256 != whole.file_sha256


def test_it_is_scored_and_begins_a_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--arch", f"hf:{folder}", "--dataset", "digits", "--metrics", "complexity", "--limit", "3")
    words = (*words, "--explainers", "saliency,random")
    status, _, message = here(capsys, "score", str(folder / INDEX), *words, "--out", str(tmp_path / "scores"))
    assert status == 0, message
    status, _, message = here(capsys, "score", str(folder), *words)
    assert (status, f"give the weights in it: {folder / INDEX}" in message) == (4, True)
    status, _, message = here(
        capsys, "import", str(folder / INDEX), *words[:4], "--seed", "0", "--out", str(tmp_path / "run")
    )
    assert status == 0, message
    stored = load_file(tmp_path / "run" / "best.safetensors")
    theirs = vit(channels=1).state_dict()
    assert stored.keys() == theirs.keys()
    recipe = load_recipe("digits", "ce", [f"arch=hf:{folder}", f"init={folder / INDEX}"])
    ours = fresh_learner(recipe, open_dataset("digits").info, 5).model.state_dict()
    encoder = [name for name in theirs if not name.startswith("classifier.")]
    assert all(torch.equal(ours[name], theirs[name]) for name in encoder)


def edited(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"] |= changes
    (folder / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "pytorch_model.bin", 7, "a\n.safetensors"]
)
def test_an_index_names_only_files_beside_it(file: Any, folder: Path) -> None:
    edited(folder, extra=file)
    with pytest.raises(CheckpointError, match="does not name the safetensors files beside it"):
        loaded(folder)


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": []}', b"\xff"])
def test_what_is_no_index(content: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match="no index of weight files|does not name|not a regular file"):
        loaded(folder)


def test_tensors_that_are_missing_or_too_many_are_named(folder: Path) -> None:
    first = min(folder.glob("*.safetensors"))
    edited(folder, **{"not.there": first.name})
    with pytest.raises(CheckpointError, match=f"{first.name} disagree on the tensor not.there"):
        loaded(folder)


def test_files_that_are_missing_or_never_end(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    first.unlink()
    with pytest.raises(CheckpointError, match=f"names {first.name}, which is no file beside it"):
        weights_hash(folder / INDEX)
    os.mkfifo(first)
    with pytest.raises(CheckpointError, match=f"names {first.name}, which is no file beside it"):
        loaded(folder)
    first.unlink()
    first.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match="disagree on the tensor"):
        loaded(folder)


def test_a_file_that_changes_makes_other_weights(folder: Path) -> None:
    before = weights_hash(folder / INDEX)
    file = min(folder.glob("*.safetensors"))
    tensors = load_file(file)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)
    assert weights_hash(folder / INDEX) != before
