"""Row C7 of the fault matrix: whatever is cut off or flipped, a checkpoint is refused or is the same network."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from tests.faults import hostile
from tests.faults.weights import load, parameters, put, state
from tests.runs import make_run
from xeval.checkpoints import load as checkpoints
from xeval.errors import XevalError


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
