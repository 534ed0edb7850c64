"""Hostile checkpoint files. A payload that ran would create the marker file; nothing else is ever done."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Writer = Callable[[Path, Path], None]


class Call:
    """An object whose unpickling calls ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def system(marker: Path) -> Call:
    return Call(os.system, f"touch {marker}")


def evaluated(marker: Path) -> Call:
    return Call(eval, f"open({str(marker)!r}, 'w')")


def spawned(marker: Path) -> Call:
    return Call(subprocess.call, ["touch", str(marker)])


def saved(content: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def rezipped(
    data: bytes, change: Callable[[str, bytes], bytes] = lambda _, content: content, method: int = zipfile.ZIP_STORED
) -> bytes:
    """A PyTorch file whose members were changed and sealed again with sizes and checksums that agree."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def with_pickle(data: bytes, body: bytes) -> bytes:
    """A PyTorch file with another ``data.pkl``."""
    return rezipped(data, lambda name, content: body if name.endswith("data.pkl") else content)


def zipped(members: list[tuple[str, bytes]]) -> bytes:
    """Members as given, in this order, the same name twice if asked for."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PyTorch file of a few kilobytes whose directory declares twelve members of 4.2 GB."""
    data = bytearray(zipped([(f"x/data/{n}", b"0" * 64) for n in range(12)]))
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + 20 : place + 28] = struct.pack("<2I", 64, 4_200_000_000)
        place = data.find(b"PK\x01\x02", place + 4)
    return bytes(data)


def crowded() -> bytes:
    """More members than a weight file may have."""
    return zipped([(f"x/{n}", b"") for n in range(100_001)])


def on_cuda(data: bytes) -> bytes:
    """The file that ``torch.save`` would have written for tensors on a GPU."""
    return rezipped(
        data, lambda name, body: body.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0") if "data.pkl" in name else body
    )


def _evil_pickle(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps({"state_dict": system(marker)}, protocol=protocol)


def _clean() -> bytes:
    return saved({"weight": torch.zeros(3)})


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _two_pickles(marker: Path, *, first: bool) -> bytes:
    members = _members(_clean())
    evil = (members[0][0], _evil_pickle(marker))
    return zipped([evil, *members] if first else [*members, evil])


def _renamed_in_directory(marker: Path) -> bytes:
    """The directory calls the evil member ``data.pkl``, its own header calls it ``safe.txt``."""
    data = zipped([("x/safe.txt", _evil_pickle(marker)), ("x/version", b"3\n")])
    place = data.find(b"PK\x01\x02")
    return data[:place] + data[place:].replace(b"x/safe.txt", b"x/data.pkl")


def _flagged(marker: Path) -> bytes:
    """Every member claims to be encrypted, which makes some scanners look away."""
    data = bytearray(with_pickle(_clean(), _evil_pickle(marker)))
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.find(signature)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(signature, place + 4)
    return bytes(data)


def _wrong_checksum(marker: Path) -> bytes:
    data = bytearray(with_pickle(_clean(), _evil_pickle(marker)))
    checksum = struct.pack("<I", zlib.crc32(_evil_pickle(marker)))
    return bytes(data.replace(checksum, b"\1\2\3\4"))


def _stack_global(marker: Path) -> bytes:
    """A name that is put together on the stack: protocol 4, invisible to a list of GLOBAL opcodes."""
    return with_pickle(_clean(), _evil_pickle(marker, protocol=4))


def _torchscript(marker: Path) -> bytes:
    return zipped([*_members(with_pickle(_clean(), _evil_pickle(marker))), ("archive/constants.pkl", b"\x80\x02).")])


def _in_options(marker: Path) -> bytes:
    return saved({"opt": Namespace(lr=0.5, hook=system(marker)), "model": {"a": torch.zeros(2)}})


def _absolute(marker: Path) -> bytes:
    return zipped([*_members(_clean()), (f"{marker.parent}/x/data.pkl", _evil_pickle(marker))])


def _parent(marker: Path) -> bytes:
    return zipped([*_members(_clean()), ("archive/../../data.pkl", _evil_pickle(marker))])


def deep_tuple() -> bytes:
    """A dictionary key of 300,000 nested tuples, whose hash overflows the stack of the interpreter."""
    return with_pickle(_clean(), b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.")


def deep_memo() -> bytes:
    """The same, the tuples of two and put together through the memo."""
    step = b"h\0h\0\x86q\0"
    return with_pickle(_clean(), b"\x80\x02})q\0" + step * 200 + b"K\x01s.")


def huge_array() -> bytes:
    """A kilobyte that asks for 40 GB of zeros without a name that torch refuses."""
    body = b"\x80\x02}X\1\0\0\0ac__builtin__\nbytearray\n\x8a\x05" + (40 << 30).to_bytes(5, "little") + b"\x85Rs."
    return with_pickle(_clean(), body)


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "payload.pt": lambda marker: saved({"state_dict": system(marker)}),
    "evaluated.pt": lambda marker: saved({"state_dict": evaluated(marker)}),
    "spawned.pth": lambda marker: saved({"state_dict": spawned(marker)}),
    "in-options.pth": _in_options,
    "compressed.pt": lambda marker: rezipped(saved({"a": system(marker)}), method=zipfile.ZIP_DEFLATED),
    "legacy.pt": lambda marker: saved({"state_dict": system(marker)}, _use_new_zipfile_serialization=False),
    "bare-pickle.pt": _evil_pickle,
    "ascii-pickle.pt": lambda marker: _evil_pickle(marker, protocol=0),
    "zip.safetensors": lambda marker: saved({"state_dict": system(marker)}),
    "pickle.safetensors": _evil_pickle,
    "evil-first.pt": lambda marker: _two_pickles(marker, first=True),
    "evil-last.pt": lambda marker: _two_pickles(marker, first=False),
    "absolute.pt": _absolute,
    "parent.pt": _parent,
    "renamed-in-directory.pt": _renamed_in_directory,
    "flagged.pt": _flagged,
    "wrong-checksum.pt": _wrong_checksum,
    "stack-global.pt": _stack_global,
    "torchscript.pt": _torchscript,
    "before-the-zip.pt": lambda marker: _evil_pickle(marker) + saved({"a": torch.zeros(2)}),
    "bomb.pt": lambda marker: bomb(),
    "crowded.pt": lambda marker: crowded(),
    "deep-tuple.pt": lambda marker: deep_tuple(),
    "deep-memo.pt": lambda marker: deep_memo(),
    "huge-array.pt": lambda marker: huge_array(),
}


def write_all(folder: Path, marker: Path) -> list[Path]:
    """The whole corpus as files."""
    for name, make in HOSTILE.items():
        (folder / name).write_bytes(make(marker))
    return [folder / name for name in HOSTILE]
