"""Take apart a file of another project in a separate process; return its tensors, and everything else as text.

Such files hold argument lists, transforms and optimisers around the weights. Every class that is not a tensor's or a
plain container's is replaced by an inert one before the restricted unpickler runs, so nothing of the other project is
imported. The child process has a limit of memory and time, and answers with a safetensors file and JSON.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from xeval.checkpoints.weightfiles import (
    is_plain,
    is_safetensors,
    load_zip,
    read_tensors,
    refused_globals,
    regular,
    require_zip,
    write_tensors,
)
from xeval.errors import CheckpointError
from xeval.runtime.files import read_json, write_json
from xeval.runtime.memory import limit_memory

SECONDS = 600
HEADROOM, COPIES = 1 << 30, 6  # memory of the child beyond its libraries: bytes, and multiples of the file's size
TEXT = 200
LEVELS = 3  # how deep state dicts are looked for: the file itself, its entries, and theirs
TENSORS, CONTENT = "tensors.safetensors", "content.json"
Containers = dict[str, dict[str, Tensor]]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Foreign:
    """The content of a file of another project, as :func:`open_foreign` returns it.

    ``containers`` are its state dicts by their key (``""``: the file itself), ``fields`` its scalars as text,
    ``dropped`` the keys of everything else, ``ignored`` the classes and functions that it named, ``normalizations`` the
    (mean, std) of its transforms, and ``modules`` the keys of whole pickled modules.
    """

    containers: Containers
    fields: dict[str, str]
    dropped: tuple[str, ...]
    ignored: tuple[str, ...]
    normalizations: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    modules: tuple[str, ...]


def open_foreign(path: Path) -> Foreign:
    """Take a weight file apart; raise :class:`CheckpointError` if it is refused, damaged or asks for too much."""
    regular(path)
    if is_safetensors(path):
        return Foreign({"": read_tensors(path)}, {}, (), (), (), ())
    with TemporaryDirectory(prefix="xeval-import-") as scratch:
        folder = Path(scratch)
        _run_child(path, folder)
        content = read_json(folder / CONTENT)
        if "error" in content:
            raise CheckpointError(*content["error"])
        tensors = read_tensors(folder / TENSORS) if content["tensors"] else {}
    containers: Containers = {}
    for number, (container, name) in enumerate(content["tensors"]):
        containers.setdefault(container, {})[name] = tensors[str(number)]
    pairs = tuple((tuple(mean), tuple(std)) for mean, std in content["normalizations"])
    dropped, ignored, modules = (tuple(content[key]) for key in ("dropped", "ignored", "modules"))
    return Foreign(containers, content["fields"], dropped, ignored, pairs, modules)


def _run_child(path: Path, folder: Path) -> None:
    """Run this module on ``path``; it imports what this process would, and nothing from the working directory."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "OMP_NUM_THREADS": "1",
    }
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "xeval.checkpoints.sandbox", str(path.absolute()), str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path} takes more than {SECONDS} s to read", "save model.state_dict()") from None
    if child.returncode or not (folder / CONTENT).is_file():
        raise CheckpointError(
            f"{path} ended the process that read it (code {child.returncode})", "save model.state_dict()"
        )


# The functions below run in the child process.


class Inert:
    """An object of an unwanted class, which keeps what it was given, adds itself to ``made``, and does nothing else."""

    made: ClassVar[list[Inert]]
    state: Any

    def __new__(cls, *_arguments: Any) -> Self:  # noqa: D102
        made = super().__new__(cls)
        made.state = {}
        cls.made.append(made)
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class InertDict:
    """A class that replaces a kind of dictionary; the unpickler gets a plain one."""

    def __new__(cls, *_arguments: Any) -> Any:  # noqa: D102
        return {}


def main(path: Path, folder: Path) -> None:
    """Take ``path`` apart into ``folder``: tensors, and a JSON file that is written last."""
    try:
        _limit_memory(path)
        content = _take_apart(path, folder)
    except CheckpointError as error:
        content = {"error": [error.problem, error.remedy]}
    except (MemoryError, RuntimeError):  # torch reports a failed allocation as a RuntimeError
        content = {"error": [f"{path} asks for far more memory than its size", "save model.state_dict()"]}
    write_json(folder / CONTENT, content)


def _limit_memory(path: Path) -> None:
    """Limit the address space to the loaded libraries and a few copies of the file; on Linux only."""
    limit_memory(HEADROOM + COPIES * path.stat().st_size)


def _take_apart(path: Path, folder: Path) -> dict[str, Any]:
    require_zip(path)
    ignored = [_text(name) for name in refused_globals(path)]
    made: list[Inert] = []
    content = _load_inert(path, ignored, made)
    tensors = dict(_tensors(path, content))
    if tensors:
        write_tensors(folder / TENSORS, {str(number): tensor for number, tensor in enumerate(tensors.values())})
    fields = dict(_fields(content))
    return {
        "tensors": list(tensors),
        "fields": fields,
        "dropped": sorted(_dropped(content)),
        "ignored": ignored,
        "normalizations": list(_normalizations(made)),
        "modules": [_text(key) for key, value in content.items() if _is_module(value)],
    }


def _load_inert(path: Path, names: list[str], made: list[Inert]) -> dict[str, Any]:
    """Return the file's dictionary, with inert objects in place of the given classes, which ``made`` collects.

    Torch refuses some names even so.
    """
    stubs = [(_stub(name, made), name) for name in names]
    try:
        with torch.serialization.safe_globals(stubs):  # type: ignore[arg-type]
            return load_zip(path)
    except CheckpointError as error:
        held = [name for name in names if name in error.problem] or names[:8]
        told = "".join(f"; ignored object {name}" for name in held)
        raise CheckpointError(error.problem + told, error.remedy) from None


def _stub(name: str, made: list[Inert]) -> type:
    return type(name, (InertDict,) if name.lower().endswith("dict") else (Inert,), {"made": made})


def _states(content: Mapping[Any, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield each dictionary that holds tensors, down to the third level, with its keys joined by dots."""
    if any(isinstance(value, Tensor) for value in content.values()):
        yield ".".join(above), content
    if len(above) < LEVELS - 1:
        for key, value in content.items():
            if isinstance(value, dict):
                yield from _states(value, (*above, str(key)))


def _tensors(path: Path, content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Yield ((container, name), tensor) for all tensors of its state dicts, each copied to its own memory."""
    for container, inside in _states(content):
        for name, tensor in inside.items():
            if not isinstance(tensor, Tensor):
                continue
            place = (container, str(name))
            if not is_plain(tensor) or place != tuple(map(_text, place)):
                raise CheckpointError(
                    f"{path}: {_text('.'.join(place).lstrip('.'))} is not a dense array with a plain name",
                    "save model.state_dict()",
                )
            yield place, tensor.clone(memory_format=torch.contiguous_format)


def _dropped(content: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the keys of what is neither a tensor nor a field: whole entries, and other items inside a state dict."""
    for key, value in content.items():
        if isinstance(value, Tensor) or any(True for _ in _fields({key: value})):
            continue
        states = list(_states(value, (str(key),))) if isinstance(value, dict) else []
        if not states:
            yield _text(key)
        for above, inside in states:
            odd = (name for name, item in inside.items() if not isinstance(item, Tensor | dict))
            yield from (_text(f"{above}.{name}") for name in odd)


def _fields(content: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield scalars as text: those at the first level, and those in dictionaries and argument lists at the second."""
    for key, value in content.items():
        inside = value.state if isinstance(value, Inert) else value
        if isinstance(inside, dict) and not any(isinstance(item, Tensor) for item in inside.values()):
            yield from ((f"{_text(key)}.{_text(name)}", _text(item)) for name, item in inside.items() if _short(item))
        elif _short(inside):
            yield _text(key), _text(inside)


def _short(value: Any) -> bool:
    """Return whether a value is a scalar, or a short list of scalars."""
    if isinstance(value, list | tuple):
        return len(value) <= 16 and all(isinstance(item, Scalar) for item in value)
    return isinstance(value, Scalar)


def _is_module(value: Any) -> bool:
    return isinstance(value, Inert) and isinstance(value.state, dict) and "_modules" in value.state


def _normalizations(made: list[Inert]) -> Iterator[tuple[list[float], list[float]]]:
    """Yield mean and std of every object that has both."""
    for thing in made:
        state = thing.state if isinstance(thing.state, dict) else {}
        mean, std = (_numbers(state.get(key)) for key in ("mean", "std"))
        if mean and std:
            yield mean, std


def _numbers(value: Any) -> list[float]:
    """Return a list of floats, empty if the value is anything else."""
    if isinstance(value, list | tuple) and all(isinstance(item, float) for item in value):
        return list(value)
    return []


def _text(value: Any) -> str:
    """Return printable, short text for terminals and JSON."""
    return "".join(char if char.isprintable() else "?" for char in str(value)[:TEXT])


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main(Path(sys.argv[1]), Path(sys.argv[2]))
