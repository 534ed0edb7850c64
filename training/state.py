"""The state of an unfinished run: tensors and JSON in ``state/``, the one before in ``state.prev/``; no pickle.

A state is built in a folder of its own and renamed, so that a kill at any moment leaves one complete state.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xeval.checkpoints import read_tensors, write_tensors
from xeval.errors import CheckpointError, ResourceError, UsageError, XevalError
from xeval.runs import file_sha256, read_json, sync_directory, write_json

SCHEMA = "xeval.state/1"
TENSORS, CONTENT = "state.safetensors", "state.json"


@dataclass(frozen=True)
class State:
    """What decides the rest of a run; ``identity`` is recipe, seed and data, ``record`` the best epoch so far."""

    identity: dict[str, Any]
    epoch: int
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def save_state(run: Path, state: State) -> None:
    """Make ``state`` the run's current one; raises :class:`ResourceError` where it cannot be written."""
    fresh, current, previous = run / ".state.tmp", run / "state", run / "state.prev"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        write_tensors(fresh / TENSORS, state.tensors)
        content = {"identity": state.identity, "epoch": state.epoch, "record": state.record, "rows": state.rows}
        write_json(fresh / CONTENT, {"schema": SCHEMA, "sha256": file_sha256(fresh / TENSORS), **content})
        if current.exists():
            shutil.rmtree(previous, ignore_errors=True)
            current.rename(previous)
        fresh.rename(current)
        sync_directory(run)
    except OSError as error:
        raise ResourceError(
            f"cannot save the state of {run} ({error.strerror})",
            "free some space or check permissions, then run it again",
        ) from None


def load_state(run: Path) -> State | None:
    """The newest complete state, or None where there is none yet; both damaged is a :class:`CheckpointError`."""
    problems = []
    for folder in (run / "state", run / "state.prev"):
        if not folder.exists():
            continue
        try:
            return _read(folder)
        except XevalError as error:
            problems.append(error.problem)
    if problems:
        raise CheckpointError(
            f"no state of {run} can be read: {'; '.join(problems)}", "delete the directory to start again"
        )
    return None


def clear_state(run: Path) -> None:
    """Remove the states of a finished run."""
    for name in ("state", "state.prev", ".state.tmp"):
        with suppress(FileNotFoundError):
            shutil.rmtree(run / name)


def _read(folder: Path) -> State:
    content = read_json(folder / CONTENT, SCHEMA)
    if not (folder / TENSORS).is_file() or file_sha256(folder / TENSORS) != content.get("sha256"):
        raise CheckpointError(f"{folder / TENSORS} is missing or differs from its hash", "restore it")
    try:
        values = (content["identity"], content["epoch"], content["record"], content["rows"])
    except KeyError as error:
        raise CheckpointError(f"{folder / CONTENT} has no {error}", "restore it") from None
    return State(*values, tensors=read_tensors(folder / TENSORS))


def pack_optimizer(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """The optimiser's tensors under ``name.<parameter>.<key>``."""
    states = optimizer.state_dict()["state"]
    return {
        f"{name}.{index}.{key}": value
        for index, state in states.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, name: str, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`pack_optimizer`; learning rates stay as they are."""
    states: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        if path.startswith(f"{name}."):
            index, key = path.removeprefix(f"{name}.").split(".", 1)
            states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def require_same(run: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with a run that was started with other settings; raises :class:`UsageError` with the list."""
    before, now = _flat(found), _flat(wanted)
    changed = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UsageError(
            f"{run} was started with other settings: {'; '.join(changed)}",
            "use the same settings, another --out, or delete the directory",
        )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
