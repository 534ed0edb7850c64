"""Rows C of the fault matrix: what a checkpoint may do to the one who scores it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import Tensor

import xeval
from tests.commands import ROOT, here
from tests.data.makers import snapshot
from tests.faults import hostile
from tests.runs import make_run
from tests.scenes import images, small_model
from xeval.checkpoints import load as checkpoints
from xeval.checkpoints import weightfiles
from xeval.checkpoints.sandbox import CONTENT
from xeval.data import open_dataset
from xeval.errors import CheckpointError, DataError, XevalError
from xeval.models import ModelSpec, build
from xeval.runtime.files import read_json
from xeval.runtime.progress import Silent
from xeval.scoring.run import score

INFO = open_dataset("digits").info
DIGITS = ("--dataset", "digits")
QUICK = ("--limit", "10", "--metrics", "drop", "--explainers", "grad-cam,random")


def state(arch: str = "cnn-tiny", classes: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in our names with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(ModelSpec(arch=arch, num_classes=classes, in_channels=1, image_size=16)).state_dict()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def load(path: Path) -> checkpoints.LoadedModel:
    return checkpoints.load_model(path, describe=lambda: INFO)


def parameters(loaded: checkpoints.LoadedModel) -> list[Tensor]:
    return list(loaded.model.parameters())


def refused(capsys: pytest.CaptureFixture[str], path: Path, status: int = 4) -> str:
    """The message of ``xeval score`` on a file; nothing beside it is touched or made."""
    before = snapshot(path.parent)
    found, _, message = here(capsys, "score", str(path), *DIGITS)
    assert found == status, message
    assert snapshot(path.parent) == before
    return message


# ---- hostile files


@pytest.mark.fault("C1")
def test_a_payload_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "evil.pt", hostile.saved({"state_dict": hostile.system(tmp_path / "marker")}))
    assert "refused globals: posix.system" in refused(capsys, path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.fault("C2")
def test_a_payload_under_the_name_of_a_safetensors_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("zip.safetensors", "pickle.safetensors"):
        path = put(tmp_path / name, hostile.HOSTILE[name](tmp_path / "marker"))
        assert "not a safetensors file" in refused(capsys, path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.fault("C1", "C2", "C6")
@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_no_payload_ever_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring, probing, importing (here in this process): every hostile file is refused, and its payload stays asleep.

    Where a payload stands among the options of a training script, importing may also ignore it.
    """
    from xeval.checkpoints import sandbox as quarantine

    marker = tmp_path / "marker"
    path = put(tmp_path / name, hostile.HOSTILE[name](marker))
    with pytest.raises(CheckpointError):
        load(path)
    with pytest.raises(CheckpointError):
        checkpoints.load_encoder(path, INFO)
    monkeypatch.setattr(quarantine, "_limit_memory", lambda _: None)
    quarantine.main(path, tmp_path)
    content = read_json(tmp_path / CONTENT)
    assert "error" in content or (name in ("evaluated.pt", "spawned.pth") and content["tensors"] == [])
    assert not marker.exists()


def test_the_payloads_of_the_corpus_are_armed(tmp_path: Path) -> None:
    """The same bytes do create the marker where they are unpickled without a guard: the tests above prove something."""
    program = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    armed = ("payload.pt", "evaluated.pt", "spawned.pth", "in-options.pth", "legacy.pt", "stack-global.pt")
    calls = [
        f"try: torch.load({str(put(tmp_path / name, hostile.HOSTILE[name](tmp_path / f'ran-{name}')))!r}, "
        "weights_only=False)\nexcept Exception: pass"
        for name in armed
    ]
    program = "import torch\n" + "\n".join(calls)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert [name for name in armed if (tmp_path / f"ran-{name}").exists()] == list(armed)


@pytest.mark.fault("C4")
def test_the_files_of_training_scripts_are_sent_to_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "excon.pth", hostile.saved({"opt": Namespace(lr=0.5), "encoder": {"a": torch.zeros(1)}}))
    message = refused(capsys, path)
    assert "refused globals: argparse.Namespace" in message
    assert f"run: xeval import {path}" in message


def test_zip_tricks_are_named(tmp_path: Path) -> None:
    said = {
        "evil-first.pt": "two members of the name 'archive/data.pkl'",
        "absolute.pt": "an absolute path",
        "parent.pt": "a path to a parent",
        "renamed-in-directory.pt": "File name in directory",
        "legacy.pt": "before PyTorch 1.6.*re-save it",
        "before-the-zip.pt": "before PyTorch 1.6.*re-save it",
        "ascii-pickle.pt": "neither a PyTorch file nor a safetensors file",
        "crowded.pt": "100,001 members, at most 100,000",
        "stack-global.pt": "not a weights-only file",
        "wrong-checksum.pt": "Bad CRC-32",
        "deep-tuple.pt": "tuples nested more than 100 deep",
        "deep-memo.pt": "tuples nested more than 100 deep",
        "huge-array.pt": "refused globals: .*bytearray",
        "spawned.pth": "refused globals: commands.call",  # what protocol 2 calls subprocess.call
    }
    for name, message in said.items():
        with pytest.raises(CheckpointError, match=message):
            load(put(tmp_path / name, hostile.HOSTILE[name](tmp_path / "marker")))


# ---- damaged files


@pytest.mark.fault("C7")
def test_truncated_files_say_how_much_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = save_safetensors(state())
    path = put(tmp_path / "half.safetensors", whole[: len(whole) // 2])
    assert f"truncated: {len(whole) // 2} bytes, expected {len(whole)} bytes" in refused(capsys, path)
    run, _ = make_run(tmp_path / "run")
    best = run / "best.safetensors"
    size = best.stat().st_size
    best.write_bytes(best.read_bytes()[: size // 2])
    assert f"truncated: {size // 2} bytes, expected {size} bytes" in refused(capsys, run)
    archive = hostile.saved(state())
    path = put(tmp_path / "half.pt", archive[: len(archive) // 2])
    assert f"truncated: it ends after {len(archive) // 2} bytes without a directory" in refused(capsys, path)


@pytest.mark.fault("C8", "C9")
def test_odd_files_neither_hang_nor_fill_the_memory(tmp_path: Path) -> None:
    """In a process of its own: five seconds for each, and the whole below 1 GB of memory."""
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "fifo.pt")
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    put(tmp_path / "bomb.pt", hostile.bomb())
    names = ["empty.pt", "folder.pt", "fifo.pt", "fifo.safetensors", "zero.pt", "bomb.pt"]
    program = f"""
import signal
from pathlib import Path
from xeval.checkpoints.load import load_model
from xeval.errors import XevalError
from xeval.checkpoints.sandbox import open_foreign
for name in {names!r}:
    for opener in (load_model, open_foreign):
        signal.alarm(30 if name == "bomb.pt" and opener is open_foreign else 5)  # which starts a process
        try:
            opener(Path(name))
        except XevalError as error:
            print(error.exit_code, name, error.problem)
print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    *lines, memory = run.stdout.splitlines()
    assert len(lines) == 2 * len(names)
    for line in lines:
        assert re.match("4 .*(not a regular file|declares 50 GB)", line), line
    assert int(memory) * 1024 < 1e9


@pytest.mark.fault("C10")
def test_headers_of_safetensors_are_refused_in_the_words_of_the_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200 << 20) + b"{")
        file.truncate(8 + (200 << 20))
    assert "not a safetensors file (Error while deserializing: header too large)" in refused(capsys, path)
    path.unlink()
    both = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": both, "b": both}).encode()
    message = refused(capsys, put(tmp_path / "overlap.safetensors", struct.pack("<Q", len(header)) + header + bytes(8)))
    assert "not a safetensors file (Error while deserializing: invalid offset" in message


@pytest.mark.fault("C12")
def test_keys_that_do_not_fit_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = state("resnet-small")
    some = {name: tensor for name, tensor in whole.items() if ".bn1." not in name}
    wrong = {**whole, "head.bias": torch.zeros(11), "backbone.extra": torch.zeros(1)}
    arch = ("--arch", "resnet-small")
    lost = [name for name in whole if name not in some]
    path = put(tmp_path / "missing.pt", hostile.saved(some))
    status, _, message = here(capsys, "score", str(path), *DIGITS, *arch)
    assert status == 4
    assert "; ".join(f"missing {name}" for name in lost[:5]) + f" and {len(lost) - 5} more" in message
    path = put(tmp_path / "wrong.pt", hostile.saved(wrong))
    status, _, message = here(capsys, "score", str(path), *DIGITS, *arch)
    assert status == 4
    assert "extra backbone.extra; head.bias has shape (11,), expected (10,)" in message


@pytest.mark.fault("C13", "C14", "C15")
def test_wrong_heads_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "seven.pt", hostile.saved(state(classes=7)))
    assert "head has 7 outputs, digits has 10 classes" in refused(capsys, path, 3)
    encoder = {name: tensor for name, tensor in state().items() if not name.startswith("head")}
    path = put(tmp_path / "encoder.pt", hostile.saved(encoder))
    assert "no linear head — run: xeval probe" in refused(capsys, path)
    for value in (float("nan"), float("inf"), 1e300):  # the last is infinite once it is float32
        bad = {name: tensor.double() for name, tensor in state().items()}
        bad["head.weight"][3, 2] = value
        path = put(tmp_path / "bad.pt", hostile.saved(bad))
        assert "tensor head.weight of" in refused(capsys, path, 3)


@pytest.mark.fault("C17")
def test_another_hash_than_the_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = make_run(tmp_path / "run")
    wanted = read_json(run / "run.json")["files"]["best.safetensors"]["sha256"]
    shutil.copy(run / "last.safetensors", run / "best.safetensors")
    found = read_json(run / "run.json")["files"]["last.safetensors"]["sha256"]
    for path in (run, run / "best.safetensors"):
        message = refused(capsys, path)
        assert found in message
        assert wanted in message


def test_a_description_of_another_size_than_the_tensors_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run")
    checkpoints.export(run, tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    for key, value, message in (
        ("num_classes", 10**12, "1000000000000 rows are described"),
        ("bank", 10**12, "head.bank is missing"),
        ("arch", "resnet-9000", "unknown model 'resnet-9000'"),
    ):
        card = json.loads(content["xeval"])
        card["model"][key] = value
        path = put(tmp_path / "claims.pt", hostile.saved({**content, "xeval": json.dumps(card)}))
        with pytest.raises(CheckpointError, match=message):
            load(path)


def test_tensors_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    for odd in (torch.zeros(1).expand(10**12), torch.zeros(3).to_sparse(), torch.zeros(2, device="meta")):
        path = put(tmp_path / "odd.pt", hostile.saved({**state(), "head.weight": odd}))
        with pytest.raises(CheckpointError, match="head.weight of .* is not a dense array"):
            load(path)
    whole = {**state(), "head.bias": torch.zeros(10, dtype=torch.int64)}
    with pytest.raises(CheckpointError, match=r"head.bias of .* has type torch.int64, expected torch.float32"):
        load(put(tmp_path / "whole.pt", hostile.saved(whole)))


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
    model, x = small_model().train(), images(12)
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

    def track(self, items: Iterable[object], total: int, label: str) -> Iterator[object]:
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
    out = run if kind == "run" else tmp_path / "ckpt.xeval"
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

    def track(self, items: Iterable[object], total: int, label: str) -> Iterator[object]:
        self.blocks.append(total)
        yield from items


# ---- anything


def _bases() -> dict[str, bytes]:
    """One exported run, one bare state dict, one safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        run, _ = make_run(Path(folder) / "run")
        checkpoints.export(run, Path(folder) / "ckpt.pt")
        exported = (Path(folder) / "ckpt.pt").read_bytes()
    return {"exported.pt": exported, "bare.pt": hostile.saved(state()), "bare.safetensors": save_safetensors(state())}


def _hashes() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: load(put(Path(folder) / name, data)).sha256 for name, data in BASES.items()}


BASES = _bases()
HASHES = _hashes()
Damage = tuple[str, float, list[tuple[float, int]]]
DAMAGE = st.tuples(
    st.sampled_from(sorted(BASES)),
    st.one_of(st.just(1.0), st.floats(0, 1)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4),
)


def damaged(data: bytes, keep: float, flips: list[tuple[float, int]]) -> bytes:
    """Cut to a share of its length, single bits flipped at relative places."""
    cut = bytearray(data[: int(keep * len(data))])
    for place, bit in flips if cut else []:
        cut[int(place * len(cut))] ^= 1 << bit
    return bytes(cut)


def outcome(path: Path) -> checkpoints.LoadedModel | None:
    """The loaded model, or None for a refusal with a documented code; any other exception fails the test."""
    try:
        return load(path)
    except XevalError as error:
        if error.exit_code not in (3, 4):
            raise
        return None


def sealed(data: bytes, flips: list[tuple[float, int]]) -> bytes:
    """A PyTorch file with flips in its pickle alone and checksums that agree: what only the unpickler can refuse."""
    return hostile.rezipped(data, lambda name, body: damaged(body, 1, flips) if name.endswith("data.pkl") else body)


def assert_told(damage: Damage) -> None:
    """A damaged file is refused, or is the same network; safetensors have no checksum, so theirs is a finite one."""
    name, keep, flips = damage
    with tempfile.TemporaryDirectory() as folder:
        loaded = outcome(put(Path(folder) / name, damaged(BASES[name], keep, flips)))
        if loaded is not None:
            finite = all(bool(torch.isfinite(p).all()) for p in parameters(loaded))
            assert loaded.sha256 == HASHES[name] or (finite and name.endswith(".safetensors") and flips)
        if name.endswith(".pt") and flips:
            loaded = outcome(put(Path(folder) / name, sealed(BASES[name], flips)))
            assert loaded is None or all(bool(torch.isfinite(p).all()) for p in parameters(loaded))


FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.fault("C7")
@settings(FUZZ, max_examples=150)
@given(DAMAGE)
def test_no_damage_ends_in_anything_but_a_documented_code(damage: Damage) -> None:
    assert_told(damage)


@pytest.mark.slow
@settings(FUZZ, max_examples=2000)
@given(DAMAGE)
def test_no_damage_among_two_thousand_ends_otherwise(damage: Damage) -> None:
    assert_told(damage)


def test_the_fuzzing_reaches_files_that_load() -> None:
    """A flip in a field that nobody reads is harmless: the oracle above is not always a refusal."""
    data = bytearray(BASES["bare.pt"])
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        place = archive.start_dir + 12  # the time of the first member
    data[place] ^= 1
    with tempfile.TemporaryDirectory() as folder:
        assert outcome(put(Path(folder) / "bare.pt", bytes(data))) is not None
