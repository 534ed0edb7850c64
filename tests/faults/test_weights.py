"""Rows C of the fault matrix: weights that are read with a note, odd networks, and files that change."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors

import xeval
from tests.commands import here
from tests.faults import hostile
from tests.faults.weights import DIGITS, load, parameters, put, state
from tests.runs import make_run
from tests.scenes import images, small_model
from xeval.checkpoints import load as checkpoints
from xeval.checkpoints import weightfiles
from xeval.errors import DataError
from xeval.runtime.files import read_json
from xeval.runtime.progress import Silent
from xeval.scoring.run import score

QUICK = ("--limit", "10", "--metrics", "drop", "--explainers", "grad-cam,random")


# ---- files that are read, with a note


@pytest.mark.fault("C11", "C21", "C22")
def test_the_same_weights_in_other_clothes(tmp_path: Path) -> None:
    """Prefixed, of other types, from a GPU, compressed: the same network, and a note where something was adapted."""
    half = {name: tensor.half() for name, tensor in state().items()}  # exact in every one of these types
    coarse = {name: tensor.bfloat16() for name, tensor in state().items()}
    expected = load(put(tmp_path / "plain.pt", hostile.saved({n: t.float() for n, t in half.items()})))
    assert not any("cast" in note or "module" in note for note in expected.notes)
    clothes = {
        "prefixed.pt": (hostile.saved({f"module.{n}": t.float() for n, t in half.items()}), "stripped .* module."),
        "half.pt": (hostile.saved(half), "cast weights: float16 to float32"),
        "double.pt": (hostile.saved({n: t.double() for n, t in half.items()}), "cast weights: float64 to float32"),
        "half.safetensors": (save_safetensors(half), "cast weights: float16 to float32"),
        "cuda.pt": (hostile.on_cuda(hostile.saved({n: t.float() for n, t in half.items()})), ""),
        "deflated.pt": (hostile.rezipped(hostile.saved(half), method=zipfile.ZIP_DEFLATED), "cast"),
    }
    assert b"cuda:0" in clothes["cuda.pt"][0]
    for name, (data, note) in clothes.items():
        loaded = load(put(tmp_path / name, data))
        assert loaded.sha256 == expected.sha256, name
        assert all(torch.equal(a, b) for a, b in zip(*map(parameters, (loaded, expected)), strict=True)), name
        assert any(re.search(note, line) for line in loaded.notes), name
    brain = load(put(tmp_path / "brain.pt", hostile.saved(coarse)))
    assert torch.equal(brain.model.state_dict()["head.weight"], coarse["head.weight"].float())
    assert "cast weights: bfloat16 to float32" in brain.notes


@pytest.mark.fault("C11", "C22")
def test_a_prefixed_file_from_a_gpu_has_the_scores_of_the_plain_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = put(tmp_path / "plain.pt", hostile.saved(state()))
    prefixed = {f"module.{name}": tensor for name, tensor in state().items()}
    other = put(tmp_path / "other.pt", hostile.on_cuda(hostile.saved(prefixed)))
    shown = [here(capsys, "score", str(path), *DIGITS, *QUICK, "--json") for path in (plain, other)]
    first, second = (json.loads(out[out.index("{") :]) for status, out, _ in shown if status == 0)
    assert first["scores"] == second["scores"]
    assert first["model"] == second["model"]
    assert "stripped the prefix module." in second["checkpoint"]["notes"]


@pytest.mark.fault("C19")
def test_a_torch_with_a_known_hole_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.9.1", "2.9.0+cu128", "1.13.1", "2.6.0a0"):
        (note,) = weightfiles.weakness(version)
        assert "CVE-2026-24747" in note
        assert version in note
    assert [weightfiles.weakness(version) for version in ("2.10.0", "2.10.0+cpu", "2.15.0", "3.0")] == [()] * 4
    path = put(tmp_path / "plain.pt", hostile.saved(state()))
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert any("CVE-2026-24747" in note for note in load(path).notes)
    kept = put(tmp_path / "plain.safetensors", save_safetensors(state()))
    assert not any("CVE" in note for note in load(kept).notes)  # no unpickler takes part


# ---- networks


@pytest.mark.fault("C16")
def test_a_dead_network_is_scored_with_a_warning(tmp_path: Path) -> None:
    dead = {name: torch.zeros_like(tensor) for name, tensor in state().items()}
    path = put(tmp_path / "dead.pt", hostile.saved(dead))
    summary = read_json(score(path, dataset="digits", limit=20, metrics=("drop",)) / "scores.json")
    assert any(re.search("accuracy 0.100 is at the level of chance", text) for text in summary["warnings"])
    live = score(make_run(tmp_path / "run")[0], limit=20, metrics=("drop",))
    assert read_json(live / "scores.json")["status"] == "complete"


@pytest.mark.fault("C20")
def test_scoring_leaves_batch_norm_and_modes_alone(tmp_path: Path) -> None:
    model, x = small_model().train(), images(12).sigmoid()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert any("running_mean" in name for name in before)
    found = xeval.score(model, [(x, torch.arange(12) % 4)], metrics=("drop", "infidelity"))
    assert len(found)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())


class Replacing(Silent):
    """Replaces a file by another as soon as the first block of images is scored."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def track(self, items: Iterable[object], total: int, label: str, *weigh: object) -> Iterator[object]:
        for item in items:
            yield item
            self.path.write_bytes(self.data)


@pytest.mark.fault("C18")
@pytest.mark.parametrize("kind", ["file", "run"])
def test_a_checkpoint_that_changes_while_it_is_scored(kind: str, tmp_path: Path) -> None:
    """No scores.json is written; the rows stay, and are used once the file is back."""
    run, _ = make_run(tmp_path / "run")
    checkpoints.export(run, tmp_path / "ckpt.pt")
    path, file = {"file": (tmp_path / "ckpt.pt",) * 2, "run": (run, run / "best.safetensors")}[kind]
    whole, options = file.read_bytes(), {"limit": 70, "metrics": ("drop",)}
    with pytest.raises(DataError, match="changed during run: SHA-256 [0-9a-f]{64} at the start, [0-9a-f]{64} at the"):
        score(path, Replacing(file, whole[:-1] + b"?"), **options)
    out = run if kind == "run" else tmp_path / "ckpt.pt.xeval"
    assert not (out / "scores.json").exists()
    file.write_bytes(whole)
    again = Counting()
    score(path, again, **options)
    assert (out / "scores.json").exists()
    assert again.blocks == [0]


class Counting(Silent):
    """Counts the blocks of images that are still to be scored."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def track(self, items: Iterable[object], total: int, label: str, *weigh: object) -> Iterator[object]:
        self.blocks.append(total)
        yield from items
