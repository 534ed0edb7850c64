"""Keeps the images that a report's gallery may show: the same ones for every checkpoint, with the checkpoint's results.

There are at most 64 images and two million pixels, in the order of a hash of (seed, image id), so that the choice does
not depend on the checkpoint. With each image come its map, the masks of drop/increase and the probabilities before and
after masking. Where several explainers were scored, so do the maps of all of them and of the controls: half precision,
at most six million values together, larger maps averaged down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from xeval.errors import DataError
from xeval.metrics import Explained, Scene
from xeval.metrics.drop import DropSettings
from xeval.perturb.draws import word
from xeval.perturb.masks import cutoff_mask, kept, minmax
from xeval.runtime.files import atomic_write, read_json, require_regular, write_json
from xeval.scoring.protocols import Protocol

if TYPE_CHECKING:
    from xeval.scoring.scorer import Scorer

SCHEMA = "xeval.gallery/1"
ABOUT, ARRAYS = "gallery.json", "gallery.safetensors"
IMAGES, PIXELS = 64, 2_000_000
SHOWN = 0.45
CHUNK = 16
VALUES, SIDE = 6_000_000, 96  # of the maps of all rows together, and of one map
UNSEEN = ("constant", "inverse")  # controls whose maps show nothing: one colour, and another one's colours turned


@dataclass(frozen=True)
class Row:
    """The maps of one row of the score table: an explainer, or a control's first draw."""

    control: bool
    maps: NDArray[np.float16]  # (N, 1, h, w), signed, each over its strongest finite value, at most SIDE a side
    strongest: NDArray[np.float32]  # (N,), that value
    after: NDArray[np.float64]  # (N,), the probability of the explained class under the mask shown of this map


@dataclass(frozen=True)
class Pictures:
    """The images of a gallery as one checkpoint sees them.

    There are J masks, one for each threshold of drop/increase; ``shown`` is the number of the one that is shown.
    """

    about: dict[str, Any]  # checkpoint, data, protocol, seed, explainer, fill, mask, image_ids, thresholds, shown
    pixels: NDArray[np.uint8]  # (N, C, H, W)
    masked: NDArray[np.uint8]  # (N, C, H, W), what the network is given under the mask shown
    keep: NDArray[np.uint8]  # (N, J, H, W), 255 = kept; weights in between for the mask ``soft``
    maps: NDArray[np.float32]  # (N, 1, h, w), signed, on the explainer's own grid
    label: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,)
    explained: NDArray[np.int64]  # (N,), the class that map and probabilities are about
    p0: NDArray[np.float64]  # (N,)
    p1: NDArray[np.float64]  # (N, J)
    rows: Mapping[str, Row] = field(default_factory=dict)  # explainers first; empty where one explainer was scored

    @property
    def ids(self) -> list[str]:
        """The ids of the images, in the order of the arrays."""
        return list(self.about["image_ids"])

    @property
    def shown(self) -> int:
        """The number of the threshold shown."""
        return int(self.about["shown"])

    @property
    def after(self) -> NDArray[np.float64]:
        """The probability of the explained class under the mask shown (N,)."""
        return self.p1[:, self.shown]


def choose(ids: Sequence[str], seed: int, pixels: int) -> list[int]:
    """Return the numbers of the images kept, in the order of a hash of seed and id; an image has ``pixels`` pixels."""
    room = max(1, min(IMAGES, PIXELS // pixels))
    return sorted(range(len(ids)), key=lambda i: (word(f"{seed}:gallery:{ids[i]}"), ids[i]))[:room]


def pictures_of(scorer: Scorer) -> Pictures:
    """Return the gallery of a plan's images, explained by the protocol's explainers."""
    plan = scorer.plan
    ids = [plan.split.ids[i] for i in plan.chosen]
    _, height, width = plan.info.shape
    numbers = choose(ids, plan.protocol.seed, height * width)
    return explained_pictures(scorer, [int(plan.chosen[i]) for i in numbers], _rows_kept(plan.protocol))


def _rows_kept(protocol: Protocol) -> list[str]:
    """Return the rows whose maps are kept: none where there is one explainer, whose maps are kept anyway."""
    if len(protocol.explainers) < 2:
        return []
    return [*protocol.explainers, *(name for name in protocol.controls if name not in UNSEEN)]


def explained_pictures(scorer: Scorer, positions: list[int], names: Sequence[str] = ()) -> Pictures:
    """Explain the images at ``positions`` of the split, and mask them by the first explainer's maps.

    The maps of the rows ``names`` of the score table, explainers and controls in its order, are kept beside them.
    """
    plan, protocol = scorer.plan, scorer.plan.protocol
    drop = _drop(protocol)
    thresholds = list(drop.names)
    shown = thresholds.index(f"{SHOWN:g}") if f"{SHOWN:g}" in thresholds else len(thresholds) - 1
    side = min(SIDE, isqrt(VALUES // max(1, len(names) * len(positions))))
    parts = [
        _explained(scorer, positions[i : i + CHUNK], drop, shown, names, side) for i in range(0, len(positions), CHUNK)
    ]
    arrays = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    about = {
        "schema": SCHEMA,
        "checkpoint": plan.loaded.sha256,
        "data": plan.data_key,
        "protocol": protocol.hash(),
        "seed": protocol.seed,
        "explainer": protocol.explainers[0],
        "fill": protocol.fill,
        "mask": drop.mask,
        "image_ids": [plan.split.ids[i] for i in positions],
        "thresholds": thresholds,
        "shown": shown,
        **({"rows": [[name, name in protocol.controls] for name in names]} if names else {}),
    }
    return _pictures(about, arrays)


def _drop(protocol: Protocol) -> DropSettings:
    """Return how the protocol masks images; 45 % of the pixels are kept where it has no drop metric."""
    if "drop" not in protocol.metrics:
        return DropSettings(thresholds=(SHOWN,))
    settings: DropSettings = protocol.metric_settings("drop")
    return settings


def _explained(
    scorer: Scorer, positions: list[int], drop: DropSettings, shown: int, names: Sequence[str], side: int
) -> dict[str, Tensor]:
    scene, blocks = scorer.scene(positions)
    first = scorer.plan.protocol.explainers[0]
    rows = {name: drawn[0] for name, drawn in scorer.maps.of(scene, positions)} if names else {}
    explained = rows[first] if names else scorer.maps.explain(scene, first)
    keep = _kept(explained, drop)
    numbers = torch.arange(len(positions), device=keep.device)
    found = {
        "pixels": _bytes(scene, scene.images),
        "masked": _bytes(scene, scene.masked(numbers, keep[:, shown : shown + 1])),
        "keep": (keep * 255).round().to(torch.uint8),
        "maps": explained.native.float(),
        "label": scene.labels,
        "predicted": torch.from_numpy(blocks["predicted"].values).nan_to_num(-1).long(),
        "explained": scene.targets,
        "p0": scene.p0.cpu().double(),
        "p1": explained.under(keep).cpu().double(),
    }
    for number, name in enumerate(names):
        own = _kept(rows[name], drop)[:, shown : shown + 1]
        maps, strongest = _compact(rows[name].native, side)
        found |= zip(_keys(number), (maps, strongest, rows[name].under(own)[:, 0].cpu().double()), strict=True)
    return found


def _keys(number: int) -> list[str]:
    """Return the names under which the arrays of a row are stored."""
    return [f"row{number}.{name}" for name in ("maps", "strongest", "after")]


def _compact(native: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return maps over their strongest finite value, averaged down to ``side``, and that value (N,), 1 for none."""
    maps, longest = native.float(), max(native.shape[-2:])
    if longest > side:
        maps = interpolate(maps, [max(1, length * side // longest) for length in native.shape[-2:]], mode="area")
    strongest = torch.where(maps.isfinite(), maps.abs(), 0).flatten(1).amax(1)
    strongest = torch.where(strongest > 0, strongest, 1)
    return (maps / strongest[:, None, None, None]).half(), strongest


def _kept(explained: Explained, drop: DropSettings) -> Tensor:
    """Return the masks of drop/increase, N×J×H×W: bool, or weights for the mask ``soft``."""
    if drop.mask == "topk":
        counts = [kept(q, explained.scene.pixels) for q in drop.thresholds]
        return torch.stack([explained.ranking < k for k in counts], 1)
    if drop.mask == "cutoff":
        return torch.cat([cutoff_mask(explained.maps, q) for q in drop.thresholds], 1)
    return minmax(explained.maps)


def _bytes(scene: Scene, images: Tensor) -> Tensor:
    """Return normalised images as uint8 pixels."""
    return ((images / scene.pixel + scene.mean).clamp(0, 1) * 255).round().to(torch.uint8)


def write_pictures(out: Path, pool: Pictures) -> None:
    """Write ``gallery.safetensors``, then ``gallery.json``."""
    from safetensors.numpy import save

    arrays = {name: getattr(pool, name) for name in _arrays()}
    for number, row in enumerate(pool.rows.values()):
        arrays |= zip(_keys(number), (row.maps, row.strongest, row.after), strict=True)
    atomic_write(out / ARRAYS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    write_json(out / ABOUT, pool.about)


def read_pictures(folder: Path) -> Pictures | None:
    """Return the gallery in a folder, None where there is none; raise :class:`DataError` where it is damaged."""
    if not (folder / ABOUT).exists():
        return None
    require_regular(folder / ARRAYS)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    about = read_json(folder / ABOUT, SCHEMA)
    try:
        pool = _pictures(about, load_file(folder / ARRAYS))
        sound = _sound(pool)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"({type(error).__name__}: {error})") from None
    if not sound:
        raise _damaged(folder, f"and {ABOUT} do not fit each other")
    return pool


def _pictures(about: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Pictures:
    """Put the arrays of a gallery in their places; runs with one explainer, and those stored earlier, have no rows."""
    rows = {
        name: Row(control, *(arrays[key] for key in _keys(number)))
        for number, (name, control) in enumerate(about.get("rows", []))
    }
    return Pictures(about, **{name: arrays[name] for name in _arrays()}, rows=rows)


def _damaged(folder: Path, why: str) -> DataError:
    return DataError(f"{folder / ARRAYS} {why} cannot be shown", f"run: xeval score {folder} --recompute")


def _arrays() -> list[str]:
    return [part.name for part in fields(Pictures) if part.name not in ("about", "rows")]


def _sound(pool: Pictures) -> bool:
    """Return whether shapes, types and numbers are those of a gallery."""
    (n, _, height, width), about = pool.pixels.shape, pool.about
    thresholds = about["thresholds"]
    shapes = {
        "masked": pool.pixels.shape,
        "keep": (n, len(thresholds), height, width),
        "maps": (n, 1, *pool.maps.shape[2:]),
        "p1": (n, len(thresholds)),
        **dict.fromkeys(("label", "predicted", "explained", "p0"), (n,)),
    }
    fits = all(getattr(pool, name).shape == shape for name, shape in shapes.items())
    kinds = {"pixels": np.uint8, "masked": np.uint8, "maps": np.float32, "p0": np.float64, "p1": np.float64}
    typed = all(getattr(pool, name).dtype == kind for name, kind in kinds.items()) and pool.label.dtype == np.int64
    texts = [*about["image_ids"], *thresholds, about["explainer"], about["fill"], about["mask"]]
    named = all(isinstance(text, str) for text in texts)
    single = len(about["image_ids"]) == len(set(about["image_ids"])) == n
    some = pool.maps.ndim == 4 and min(*pool.pixels.shape, *pool.maps.shape) > 0
    rows = all(_is_sound(row, n) for row in pool.rows.values()) and len(pool.rows) == len(about.get("rows", []))
    return fits and typed and named and single and some and rows and 0 <= pool.shown < len(thresholds)


def _is_sound(row: Row, images: int) -> bool:
    """Return whether a row has a map, its strength and a probability for each image."""
    shapes = row.maps.ndim == 4 and row.maps.shape[:2] == (images, 1) and min(row.maps.shape) > 0
    typed = row.maps.dtype == np.float16 and row.strongest.dtype == np.float32 and row.after.dtype == np.float64
    return shapes and typed and row.strongest.shape == row.after.shape == (images,) and isinstance(row.control, bool)
