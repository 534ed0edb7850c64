"""Reads maps that were made elsewhere, from tensors, ``.npy`` and ``.safetensors`` files, and checks what they are.

A ``.safetensors`` file has the tensor ``maps`` (N×h×w or N×1×h×w) and, where they are known, the tensor ``targets`` (N,
the explained classes). Texts are no tensors, so the ids of the images stand in the header's metadata: ``ids``, a JSON
list of N texts; so may ``units``. A ``.npy`` file has the maps alone. Nothing but numbers is read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from xeval.errors import DataError, ResourceError, UsageError, XevalError
from xeval.explainers.base import Units
from xeval.explainers.precomputed import Precomputed
from xeval.runtime.endings import first_line
from xeval.runtime.files import parse_json, require_regular
from xeval.runtime.memory import is_out_of_memory

Numbers: TypeAlias = Tensor | NDArray[Any]
NAME = re.compile(r"\w[\w.+-]{0,59}")
NPY, SAFETENSORS = ".npy", ".safetensors"
VERSION = (1, 0)  # of the files that numpy.save writes of plain numbers: their header has at most 64 KiB
NUMBERS = "fiub"  # kinds of numpy's types: floating, signed, unsigned, bool
RESTORE = "write it again, with numpy.save or safetensors"


@dataclass(frozen=True, eq=False)
class PrecomputedMaps:
    """Maps that were made elsewhere, as a row of a score table; metrics that must explain again leave it out.

    Args:
        name: what the row is called.
        maps: a tensor or array N×h×w or N×1×h×w, signed, on any grid, or a ``.npy`` or ``.safetensors`` file of it.
        ids: the images' ids, as ``xeval.results`` shows them under ``image``; without them, and without ids in the
            file, the maps are those of all images of the split, in its order.
        targets: the class that each map explains (N,). An image for which another class is scored has no value; without
            targets the maps are taken as maps of the classes that are scored.
        units: ``gradient`` for changes of the score per unit of input, ``location`` for how much a place matters, which
            is taken where the file does not say it either.
    """

    name: str
    maps: Numbers | Path | str
    ids: Sequence[str] | None = None
    targets: Numbers | Sequence[int] | None = None
    units: Units | None = None

    def read(self) -> tuple[Precomputed, Units]:
        """Return the maps as float32, and their units, all checked.

        Raises :class:`UsageError` for names, units and files that cannot be used, :class:`DataError` for what is no
        set of maps, :class:`ResourceError` where memory does not suffice.
        """
        if not NAME.fullmatch(self.name):
            raise UsageError(f"{self.name[:80]!r} is no name for a row", "use letters, digits and . + - _")
        found, whose = self._found(), self.whose
        units: Units = "location" if found["units"] is None else found["units"]
        if units not in get_args(Units):
            raise UsageError(f"the units of {whose} are {units!r:.40}", "set gradient or location")
        maps = _four(whose, found["maps"])
        return Precomputed(maps, _ids(whose, found["ids"], maps), _classes(whose, found["targets"], maps)), units

    @property
    def whose(self) -> str:
        """How errors call the maps: by their name and their file."""
        return f"the maps {self.name!r}{f' of {self.maps}' if isinstance(self.maps, str | Path) else ''}"

    def _found(self) -> Mapping[str, Any]:
        """Return maps, ids, targets and units as they are given, in the file or beside it."""
        given = {"ids": self.ids, "targets": self.targets, "units": self.units}
        if not isinstance(self.maps, str | Path):
            return {"maps": self.maps, **given}
        held = read_maps(Path(self.maps))
        twice = [key for key, value in given.items() if value is not None and key in held]
        if twice:
            raise UsageError(f"{self.maps} has {twice[0]} of its own", f"leave out {twice[0]}=")
        return {**given, **held}


def read_maps(path: Path) -> dict[str, Any]:
    """Return ``maps`` of a file, and ``ids``, ``targets`` and ``units`` where it has them."""
    read = {NPY: _npy, SAFETENSORS: _safetensors}.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path} is neither a .npy nor a .safetensors file", "save the maps as one of these")
    if not path.exists():
        raise UsageError(f"{path} does not exist", "name a .npy or .safetensors file of maps")
    require_regular(path)
    try:
        return read(path)
    except XevalError:
        raise
    except PermissionError:
        raise UsageError(f"cannot open {path} (no permission)", "check the owner and the mode") from None
    except Exception as error:  # a damaged header can raise anything in the libraries; their text is passed on
        if is_out_of_memory(error):
            raise ResourceError(f"{path} does not fit into memory", "save fewer maps, or smaller ones") from None
        raise DataError(f"{path} cannot be read as maps ({first_line(error, 160)})", RESTORE) from None


def _npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != VERSION:
            raise DataError(f"{path} is in version {version[0]} of numpy's format, not a plain array", RESTORE)
        shape, transposed, kind = np.lib.format.read_array_header_1_0(file)
        if kind.kind not in NUMBERS:
            raise DataError(f"{path} holds {first_line(str(kind), 60)}, not numbers", "save an array of float32")
        there = path.stat().st_size - file.tell()
        if math.prod(shape) * kind.itemsize != there:
            raise DataError(f"{path} is for {shape} values of {kind} and has {there:,} bytes of them", RESTORE)
        values = np.fromfile(file, kind)
    return {"maps": values.reshape(shape, order="F" if transposed else "C")}


def _safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        names, about = list(file.keys()), file.metadata() or {}
        if "maps" not in names:
            shown = ", ".join(ascii(name)[1:41] for name in names[:5])
            raise DataError(f"{path} has no tensor maps, but {shown or 'none at all'}", "call the tensor maps")
        found: dict[str, Any] = {name: file.get_tensor(name).clone() for name in ("maps", "targets") if name in names}
    if "ids" in about:
        found["ids"] = parse_json(about["ids"].encode())
    return found | {key: about[key] for key in ("units",) if key in about}


def _four(whose: str, given: Any) -> Tensor:
    """Return maps as float32 N×1×h×w on the host."""
    maps = _numbers(whose, given)
    found = maps.unsqueeze(1) if maps.ndim == 3 else maps
    if found.ndim != 4 or found.shape[1] != 1 or not found.numel():
        raise DataError(f"{whose} are a tensor {tuple(maps.shape)}", "give N×h×w or N×1×h×w, a map for each image")
    return found.to("cpu", torch.float32, copy=True).contiguous()


def _numbers(whose: str, given: Any) -> Tensor:
    """Return a tensor of real numbers; numpy's own byte orders and types that torch lacks are converted."""
    if isinstance(given, np.ndarray) and given.dtype.kind in NUMBERS:
        wide = np.float32 if given.dtype.kind in "fb" else np.int64
        given = torch.from_numpy(np.ascontiguousarray(given, dtype=wide))
    if not isinstance(given, Tensor) or given.is_complex():
        raise DataError(f"{whose} are {getattr(given, 'dtype', type(given).__name__)}, not numbers", "give a tensor")
    return given.detach()


def _ids(whose: str, given: Any, maps: Tensor) -> tuple[str, ...] | None:
    """Return the ids of the images; None where there are none."""
    if given is None:
        return None
    ids = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in ids):
        raise DataError(f"{whose} have ids that are no texts", "write them as xeval.results shows them, such as '0'")
    if len(ids) != len(maps):
        raise DataError(f"{whose} are {len(maps)} with {len(ids)} ids", "give an id for each")
    name, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise DataError(f"{whose} have {times} maps of the image {name[:80]!r}", "keep one map for each image")
    return tuple(ids)


def _classes(whose: str, given: Any, maps: Tensor) -> Tensor | None:
    """Return the explained classes as int64 (N,); None where nothing says them."""
    if given is None:
        return None
    classes = _numbers(f"the targets of {whose}", np.asarray(given) if isinstance(given, Sequence) else given)
    if classes.shape != maps.shape[:1] or classes.is_floating_point() or classes.dtype == torch.bool:
        told = f"{tuple(classes.shape)} of {classes.dtype}"
        raise DataError(f"{whose} have targets {told} for {len(maps)} maps", "give one class number for each")
    return classes.to("cpu", torch.int64)


def require_images(name: str, held: Precomputed, split: Sequence[str], chosen: Sequence[str]) -> Precomputed:
    """Return the maps with the ids of their images; raise :class:`DataError` where a chosen image has none.

    ``split`` are the ids of all images, ``chosen`` those that are scored; maps of other images are not used.
    """
    if held.ids is None and len(held.maps) != len(split):
        raise DataError(
            f"the maps {name!r} are {len(held.maps):,} without ids, and the split has {len(split):,} images",
            "give ids, or one map for each image of the split, in its order",
        )
    found = held.of_images(split)
    there = set(found.ids or ())
    lacking = [image for image in chosen if image not in there]
    if lacking:
        few, own = (", ".join(image[:80] for image in list(ids)[:3]) for ids in (lacking, found.ids or ()))
        raise DataError(
            f"the maps {name!r} lack {len(lacking):,} of {len(chosen):,} images, first {few}; theirs begin with {own}",
            "name each map by the id that xeval.results shows under image",
        )
    return found


def convention(name: str, held: Precomputed, target: str, left_out: Sequence[str]) -> str:
    """Return the sentence that is printed with a table that has these maps as a row."""
    height, width = held.maps.shape[2:]
    rule = "predicted" if target == "pred" else "true"
    of = "of the class that they say" if held.targets is not None else f"taken as maps of the {rule} class"
    lost = f"; it has no value of what explains again: {', '.join(left_out)}" if left_out else ""
    return f"{name}: maps made elsewhere, {height}×{width}, {of}; what they took to make is not known{lost}"
