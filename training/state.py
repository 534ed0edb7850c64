"""Saves the state of an unfinished run: tensors and JSON in ``state/``, the one before in ``state.prev/``; no pickle.

A state is built in a folder of its own and renamed, so that a kill at any moment leaves one complete state. A damaged
state is skipped for the one before it. A file that no kill can leave there, such as a pickle, is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xeval.checkpoints.folder import STATES
from xeval.checkpoints.weightfiles import read_tensors, write_tensors
from xeval.errors import CheckpointError, ResourceError, UsageError, XevalError
from xeval.runtime.files import digest, file_hash, read_json, sync_directory, write_json
from xeval.training.recipe import decisive

SCHEMA = "xeval.state/1"
TENSORS, CONTENT = "state.safetensors", "state.json"
KINDS = {"identity": dict, "epoch": int, "record": dict, "rows": list}


@dataclass(frozen=True)
class State:
    """All that decides the rest of a run; ``identity`` is recipe, seed and data, ``record`` the best epoch so far."""

    identity: dict[str, Any]
    epoch: int
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def save_state(run: Path, state: State) -> None:
    """Make ``state`` the run's current one; raise :class:`ResourceError` where it cannot be written."""
    fresh, current, previous = run / ".state.tmp", run / "state", run / "state.prev"
    with saving(run):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        write_tensors(fresh / TENSORS, state.tensors)
        content = {"identity": state.identity, "epoch": state.epoch, "record": state.record, "rows": state.rows}
        hashes = {"sha256": file_hash(fresh / TENSORS), "content_sha256": digest(content)}
        write_json(fresh / CONTENT, {"schema": SCHEMA, **hashes, **content})
        if current.exists():
            shutil.rmtree(previous, ignore_errors=True)
            current.rename(previous)
        fresh.rename(current)
        sync_directory(run)


@contextmanager
def saving(run: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a :class:`ResourceError` that says the run directory cannot be written."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot write to {run} ({error.strerror})", "free some space or check permissions, then run it again"
        ) from None


def load_state(run: Path, say: Callable[[str], None]) -> State | None:
    """Return the newest complete state, or None where there is none yet; ``say`` is told why a newer one is skipped.

    Raises :class:`CheckpointError` where none can be read, or where there is a file that no training writes. Nothing is
    deleted.
    """
    folders = [run / name for name in STATES if (run / name).exists()]
    for folder in folders:
        _require_own_files(folder)
    problems = []
    for folder in folders:
        try:
            state = _read(folder)
        except XevalError as error:
            problems.append(error.problem)
            continue
        if problems:
            say(f"warning: {problems[0]}; going on with the state before it, of epoch {state.epoch}")
        return state
    if problems:
        raise CheckpointError(
            f"no state of {run} can be read: {'; '.join(problems)}", "delete the directory to start again"
        )
    return None


def clear_state(run: Path) -> None:
    """Remove the states of a finished run."""
    for name in (*STATES, ".state.tmp"):
        with suppress(OSError):  # the run is complete even if a state stays; the next start tries again
            shutil.rmtree(run / name)


def _require_own_files(folder: Path) -> None:
    """Raise CheckpointError for another file or format than training writes.

    A kill cannot be the cause, because it neither truncates nor adds files here.
    """
    for path in sorted(folder.iterdir()):
        known = path.name in (TENSORS, CONTENT) or path.name.startswith(".")
        if not known or (path.name == TENSORS and not _begins_as_safetensors(path)):
            raise CheckpointError(f"{path} is not part of a training state", "find out where it comes from, remove it")


def _begins_as_safetensors(path: Path) -> bool:
    """Return whether a file, as far as it goes, begins with a length and an opening brace."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] in (b"{", b"")


def _read(folder: Path) -> State:
    content = read_json(folder / CONTENT, SCHEMA)
    if not (folder / TENSORS).is_file() or file_hash(folder / TENSORS) != content.pop("sha256", None):
        raise CheckpointError(f"{folder / TENSORS} is missing or differs from its hash", "restore it")
    del content["schema"]
    if content.pop("content_sha256", None) != digest(content):
        raise CheckpointError(f"{folder / CONTENT} differs from its hash", "restore it")
    if {key: type(value) for key, value in content.items()} != KINDS:
        raise CheckpointError(f"{folder / CONTENT} is not the content of a state", "restore it")
    return State(**content, tensors=read_tensors(folder / TENSORS))


def pack_optimizer(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """Return the optimiser's tensors under ``name.<parameter>.<key>``."""
    states = optimizer.state_dict()["state"]
    return {
        f"{name}.{index}.{key}": value
        for index, state in states.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, name: str, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of :func:`pack_optimizer` into the optimiser; learning rates stay as they are."""
    states: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        if path.startswith(f"{name}."):
            index, key = path.removeprefix(f"{name}.").split(".", 1)
            states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def require_same(run: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise :class:`UsageError` with the differences where a run was started with other settings."""
    if changed := differences(found, wanted):
        raise UsageError(
            f"{run} was started with other settings: {'; '.join(changed)}",
            "use the same settings, another --out, or delete the directory",
        )


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return what differs between two identities of runs, in words."""
    before, now = _flat(decisive(found)), _flat(decisive(wanted))
    return [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
