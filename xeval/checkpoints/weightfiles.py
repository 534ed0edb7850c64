"""Open weight files: check them before torch reads them, in the two formats that are supported.

The formats are safetensors, and PyTorch's zip format with ``weights_only=True``. There is no fallback and no unsafe
switch: a file that asks for anything but tensors and plain containers is refused, and the error names what it asks for.
"""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - for the name of the exception only
import re
import stat
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn import Parameter

from xeval.checkpoints.pickles import objection
from xeval.checkpoints.shards import is_index, shards
from xeval.data.archive import CHUNK, DAMAGE, Zip, require_name
from xeval.errors import CheckpointError, UsageError
from xeval.runtime.endings import first_line
from xeval.runtime.files import atomic_write

MAX_BYTES = 8 << 30
MAX_MEMBERS = 100_000
GROWTH, SLACK = 3, 1 << 20  # an unpacked zip may have this many times its own size plus this many bytes
MAX_PICKLE = 64 << 20  # limit for names, shapes and containers; the tensors' bytes are separate members
MAX_HEADER = 16 << 20  # a larger safetensors header is not parsed to explain a refusal
SAFE_TORCH = (2, 10)
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
RESTORE = "restore it from its source"
MAX_DEPTH = 50  # limit of containers inside containers
MAX_NAME = 200
FORMAT_BYTES = 8  # a safetensors file begins with the length of its header, which is JSON
WHOLE = "save model.state_dict()"
CONTAINERS = ("argparse.", "torchvision.", "numpy.", "omegaconf.", "lightning.", "pytorch_lightning.", "pathlib.")


@dataclass(frozen=True)
class WeightFile:
    """The dictionary that a weight file holds, and notes on how it was read; :func:`read_weights` returns it."""

    content: dict[str, Any]
    notes: tuple[str, ...] = ()


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors to a safetensors file, atomically."""
    atomic_write(path, save_safetensors(_each_by_itself(tensors)))


def _each_by_itself(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the host that share no memory: a network may have a part under two names."""
    found: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous().cpu()
        same = found[own.untyped_storage().data_ptr()]
        same[name] = own.clone() if same else own
    return {name: tensor for same in found.values() for name, tensor in same.items()}


def read_weights(path: Path) -> WeightFile:
    """Open a weight file of either format; raise :class:`CheckpointError` for everything that is refused."""
    regular(path)
    if is_safetensors(path):
        return WeightFile(dict(read_tensors(path)))
    require_zip(path)
    if names := refused_globals(path):
        raise _refusal(path, names)
    return WeightFile(load_zip(path), weakness(torch.__version__))


def is_safetensors(path: Path) -> bool:
    """Return whether a file is one, or the index of some, by its name, or by its first bytes whatever it is called."""
    with path.open("rb") as file:
        head = file.read(FORMAT_BYTES + 1)
    return path.suffix == ".safetensors" or is_index(path) or (head[FORMAT_BYTES:] == b"{" and not head.startswith(ZIP))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or all that an index names; raise :class:`CheckpointError` for anything else."""
    return _read_shards(path) if is_index(path) else _read_one(path)


def _read_shards(path: Path) -> dict[str, Tensor]:
    listed = shards(path)
    if sum(map(regular, listed)) > MAX_BYTES:
        raise CheckpointError(f"the files of {path} are too large", f"xeval opens up to {MAX_BYTES >> 30} GiB")
    tensors: dict[str, Tensor] = {}
    for file, names in listed.items():
        found = _read_one(file)
        if found.keys() != names:
            other = min(found.keys() ^ names)
            raise CheckpointError(f"{path} and {file.name} disagree on the tensor {other[:MAX_NAME]}", RESTORE)
        tensors |= found
    return tensors


def _read_one(path: Path) -> dict[str, Tensor]:
    size = regular(path)
    try:
        tensors = dict(load_safetensors(path.read_bytes()))
    except MemoryError:
        raise
    except Exception as error:  # a damaged header can raise anything in the library; its text is passed on
        expected = _safetensors_bytes(path)
        if isinstance(error, SafetensorError) and expected > size:
            raise CheckpointError(f"{path} is truncated: {size} bytes, expected {expected} bytes", RESTORE) from None
        raise CheckpointError(f"{path} is not a safetensors file ({_brief(error)})", RESTORE) from None
    _require_names(path, tensors)
    return tensors


def _require_names(path: Path, names: Iterable[object]) -> None:
    """Raise CheckpointError for a name that is no short printable text: names are shown, and stored."""
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise CheckpointError(f"{path} holds a tensor whose name is no short text: {ascii(name)[:100]}", RESTORE)


def regular(path: Path) -> int:
    """Return the size of a regular file in bytes; refuse other, empty and too large files before they are opened."""
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot open {path} ({getattr(error, 'strerror', error)})", "check the path") from None
    if not os.access(path, os.R_OK):
        raise UsageError(f"cannot open {path} (no permission)", "check the owner and the mode")
    if not stat.S_ISREG(info.st_mode) or info.st_size == 0:
        raise CheckpointError(f"{path} is not a regular file with content", "give a run directory or a weight file")
    if info.st_size > MAX_BYTES:
        raise CheckpointError(
            f"{path} has {info.st_size >> 30} GiB", f"xeval opens weight files up to {MAX_BYTES >> 30} GiB"
        )
    return info.st_size


def require_zip(path: Path) -> None:
    """Check names, sizes and checksums of a PyTorch file's members, which torch itself does not verify.

    Raises:
        CheckpointError: the file is no archive, is damaged, or unpacks to more than a weight file may.
    """
    size = regular(path)
    with path.open("rb") as file:
        head = file.read(len(ZIP))
    if head != ZIP:
        raise _not_a_zip(path, head)
    try:
        with Zip(path) as archive:
            _require_members(path, size, archive.infolist())
            for member in archive.infolist():
                _read_through(archive, member)
            for name in archive.namelist():
                if name.lower().endswith("data.pkl"):  # torch's reader ignores the case
                    _require_pickle(path, archive, name)
    except DAMAGE as error:
        raise _damaged(path, size, error) from None


def _not_a_zip(path: Path, head: bytes) -> CheckpointError:
    if head.startswith(PICKLE):
        return CheckpointError(
            f"{path} is a bare pickle, the format before PyTorch 1.6, which is not opened",
            "re-save it where it was made, with a current PyTorch",
        )
    return CheckpointError(f"{path} is neither a PyTorch file nor a safetensors file", "save model.state_dict()")


def _require_members(path: Path, size: int, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(names) > MAX_MEMBERS:
        raise CheckpointError(f"{path} has {len(names):,} members, at most {MAX_MEMBERS:,} are read", RESTORE)
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise CheckpointError(f"{path} has two members of the name {twice[:200]!r}", RESTORE)
    for name in names:
        try:
            require_name(name, path)
        except CheckpointError as error:
            raise CheckpointError(error.problem, RESTORE) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript archive, which holds a program", WHOLE)
    total = sum(member.file_size for member in members)
    if total > GROWTH * size + SLACK:
        raise CheckpointError(f"{path} declares {_bytes(total)} in a file of {_bytes(size)}", RESTORE)


def _read_through(archive: Zip, member: zipfile.ZipInfo) -> None:
    """Read a member to its end, so that the library compares its CRC."""
    with archive.open(member) as stream:
        while stream.read(CHUNK):
            pass


def _require_pickle(path: Path, archive: Zip, name: str) -> None:
    if archive.getinfo(name).file_size > MAX_PICKLE:
        raise CheckpointError(f"{path} has a pickle of more than {MAX_PICKLE >> 20} MiB", "save model.state_dict()")
    try:
        found = objection(archive.read(name))
    except (ValueError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a weights-only file ({_brief(error)})", RESTORE) from None
    if found:
        raise CheckpointError(f"{path} is refused, {found}", "only tensors and plain containers are loaded")


def _damaged(path: Path, size: int, error: BaseException) -> CheckpointError:
    with path.open("rb") as file:
        file.seek(max(0, size - 0x10100))
        complete = b"PK\x05\x06" in file.read()  # the end of the directory, which is written last
    if not complete:
        return CheckpointError(f"{path} is truncated: it ends after {size} bytes without a directory", RESTORE)
    return CheckpointError(f"{path} is not a complete PyTorch file ({_brief(error)})", RESTORE)


def refused_globals(path: Path) -> list[str]:
    """Return the names of all classes and functions in a PyTorch file's pickle that ``weights_only`` does not admit.

    They are found by disassembly: nothing is imported or called.

    Raises:
        CheckpointError: the pickle cannot be disassembled.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except MemoryError:
        raise
    except Exception as error:  # the disassembler can raise anything on damaged or foreign bytes
        raise CheckpointError(f"{path} is not a weights-only file ({_brief(error)})", RESTORE) from None


def _refusal(path: Path, names: list[str]) -> CheckpointError:
    if _holds_module(path):
        return whole_module(path)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    foreign = any(name.startswith(CONTAINERS) for name in names)
    return CheckpointError(
        f"{path} is refused, refused globals: {', '.join(name[:100] for name in names[:8])}{more}",
        f"run: xeval import {path}" if foreign else "only tensors and plain containers are loaded",
    )


def whole_module(path: Path) -> CheckpointError:
    """Return the error for a file with an ``nn.Module`` in place of its state dict."""
    return CheckpointError(f"{path} holds a whole pickled module, which only its own code can build", WHOLE)


def _holds_module(path: Path) -> bool:
    """Return whether the pickle holds an ``nn.Module``, whose state has these two dictionaries."""
    with Zip(path) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    return any(b"_modules" in data and b"_parameters" in data for data in pickles)


def load_zip(path: Path) -> dict[str, Any]:
    """Load the dictionary in a checked PyTorch file with the restricted unpickler."""
    try:
        with warnings.catch_warnings(action="ignore"):  # odd pickles end in an error or in sound tensors
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_stored(path))  # noqa: TID251
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused ({_brief(error)})", "only tensors and plain containers are loaded"
        ) from None
    except Exception as error:  # the unpickler can raise anything on hostile bytes
        raise CheckpointError(f"{path} is not a complete PyTorch file ({_brief(error)})", RESTORE) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__[:100]}, not a state dict", WHOLE)
    return dict(_bare(path, content, {}))


def _bare(path: Path, value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """Return plain containers and tensors: a file can hang attributes on both, under the names of their methods.

    ``done`` holds what each container has become by its identity, None while it is being copied.
    """
    if isinstance(value, Tensor):
        return Tensor.detach(value) if type(value) in (Tensor, Parameter) else value
    if not isinstance(value, dict | list | tuple):
        return value
    if depth > MAX_DEPTH or done.get(id(value), value) is None:
        raise CheckpointError(f"{path} nests containers more than {MAX_DEPTH} deep", RESTORE)
    if id(value) not in done:
        done[id(value)] = None
        done[id(value)] = _copied(value, lambda item: _bare(path, item, done, depth + 1))
    return done[id(value)]


def _copied(value: Any, bare: Callable[[Any], Any]) -> Any:
    """Return a container of what ``bare`` makes of the items of another one."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in dict.items(value)}
    if isinstance(value, list):
        return [bare(item) for item in list.__iter__(value)]
    return tuple(bare(item) for item in tuple.__iter__(value))


def _stored(path: Path) -> bool:
    """Return whether no member is compressed; only then can the tensors' bytes be mapped from the file."""
    with Zip(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def plain_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Return a state dict of names and dense tensors on the host; raise :class:`CheckpointError` for anything else."""
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"{path} is not a plain state dict of tensors", f"save model.state_dict(), or run: xeval import {path}"
        )
    _require_names(path, content)
    for name, tensor in content.items():
        if not is_plain(tensor):
            raise CheckpointError(f"the tensor {name} of {path} is not a dense array", RESTORE)
    return content


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, on the host, and no larger than its storage (0 strides can claim any size)."""
    if (
        type(tensor) is not Tensor
        or tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or tensor.is_quantized
    ):
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def weakness(version: str) -> tuple[str, ...]:
    """Return a warning if this version of torch has a known hole in its restricted unpickler, else nothing."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) >= SAFE_TORCH:
        return ()
    return (f"warning: torch {version} is open to CVE-2026-24747 through foreign files; install torch 2.10 or newer",)


def _safetensors_bytes(path: Path) -> int:
    """Return how many bytes the header of a safetensors file requires, or 0 if it cannot be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= MAX_HEADER else b""
    if header[:1] != b"{":
        return 0
    if len(header) < length:
        return 8 + length
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + max(int(end) for end in ends)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
        return 0


def _bytes(count: int) -> str:
    return f"{count / 1e9:.0f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _brief(error: BaseException) -> str:
    """Return the first line of an error's text, or torch's reason, which stands behind a page of advice."""
    reason = re.search(r"(?:WeightsUnpickler error: |(?=Trying to load))(.*)", str(error))
    return (reason[1] if reason else first_line(error))[:160].rstrip(".")
