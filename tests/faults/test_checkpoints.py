"""Rows C of the fault matrix: hostile and damaged checkpoints are refused, and nothing in them runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors

from tests.commands import ROOT, here
from tests.faults import hostile
from tests.faults.weights import DIGITS, INFO, load, put, refused, state
from tests.runs import make_run
from xeval.checkpoints import load as checkpoints
from xeval.checkpoints.sandbox import CONTENT
from xeval.errors import CheckpointError
from xeval.runtime.files import read_json

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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)
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
    """In a process of its own: five seconds of computing for each, and the whole below 1 GB of memory."""
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "fifo.pt")
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    put(tmp_path / "bomb.pt", hostile.bomb())
    names = ["empty.pt", "folder.pt", "fifo.pt", "fifo.safetensors", "zero.pt", "bomb.pt"]
    program = f"""
import signal
import torch
from pathlib import Path
from xeval.checkpoints.load import load_model
from xeval.errors import XevalError
from xeval.checkpoints.sandbox import open_foreign
for name in {names!r}:
    for opener in (load_model, open_foreign):
        signal.setitimer(signal.ITIMER_PROF, 5)
        signal.alarm(120)  # what waits for ever does not compute
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
        timeout=900,
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
        with pytest.raises(CheckpointError, match=f"{found}.*{wanted}"):
            checkpoints.load_encoder(path, INFO)


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
