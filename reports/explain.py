"""``xeval explain CKPT IMAGE…``: the gallery's strip for pictures of one's own, by one explainer or side by side.

The pictures are read by the rules of the data sets, brought to the size and normalisation of the training images, and
explained and masked by the code that scores.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xeval.checkpoints.load import LoadedModel, load_model
from xeval.data import Dataset, DatasetInfo, open_dataset
from xeval.data.base import ArraySplit, Pixels
from xeval.data.images import METHODS, decode, fitted
from xeval.engine import deterministic
from xeval.errors import UsageError
from xeval.models import frozen_eval
from xeval.reports.drawing import PAGE, axes, style
from xeval.reports.strips import Scale, Strip, enlarged, scale_of, strips
from xeval.reports.text import clean, plot_label
from xeval.runtime.files import atomic_write, require_writable, slug, writable_directory
from xeval.runtime.memory import resources
from xeval.scoring.gallery import Pictures, explained_pictures
from xeval.scoring.normalization import normalized
from xeval.scoring.options import ScoreOptions, validated
from xeval.scoring.own_networks import read_as
from xeval.scoring.plan import plan_for
from xeval.scoring.scorer import make_scorer

SUFFIXES = (".png", ".svg", ".pdf")
ROWS = 30  # lines of pictures in one file
HEIGHT = 2.2  # inches a strip
ACROSS = 6  # pictures side by side: the image, then a map an explainer
PLAIN: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class Explanation:
    """The files written, one line a picture, and one on the normalisation of weights that do not say it."""

    files: tuple[Path, ...]
    lines: tuple[str, ...]


def explain(
    checkpoint: Path,
    images: Sequence[Path],
    out: Path,
    *,
    explainer: str | None = None,
    explainers: Sequence[str] | None = None,
    keep: float = 0.45,
    dataset: str | None = None,
    data: Path | None = None,
    **options: Any,
) -> Explanation:
    """Explain pictures and write their strips to ``out``: one file (.png, .svg, .pdf), or a folder with one a picture.

    A strip is the picture, the map of ``explainer`` (grad-cam) over it and what the mask leaves; or the picture and the
    maps of several ``explainers`` and controls, each in the colours of its share of its own strongest value.

    ``options`` (arch, weights, layer, device, mean, std, normalize) are those of :class:`ScoreOptions`. Raises
    UsageError for paths that cannot be read or written, for unknown names and where nothing says how images were
    normalised, DataError for a picture that cannot be decoded, CheckpointError.
    """
    asked = _asked(explainer, explainers)
    paths = list(dict.fromkeys(images))
    targets = _targets(out, paths, _lines(len(asked)))
    chosen = validated(explainers=asked, metrics=("drop",), thresholds=(keep,), batch_size=16, **options)
    contents = [_content(path) for path in paths]
    loaded, info = _open(checkpoint, chosen, dataset, data)
    pixels = np.stack([_pixels(content, path, info) for content, path in zip(contents, paths, strict=True)])
    pool = _explained(loaded, info, pixels, paths, chosen)
    numbers = range(len(paths))
    rows = {name: strips(pool, numbers, info.classes, name) for name in pool.rows}
    rows = rows or {pool.about["explainer"]: strips(pool, numbers, info.classes)}
    found = [{name: row[i] for name, row in rows.items()} for i in numbers]
    names = [path.name for path in paths]
    for target, own in targets.items():
        shown, titles = [found[i] for i in own], [names[i] for i in own]
        if pool.rows:
            figure = side_by_side(shown, titles)
        else:
            figure = _figure([strip for one in shown for strip in one.values()], titles, pool)
        atomic_write(target, _saved(figure, target.suffix))
    lines = [_line(path, strip, keep) for path, strip in zip(paths, found, strict=True)]
    return Explanation(tuple(targets), (*lines, *filter(None, [loaded.normalization])))


def _asked(explainer: str | None, explainers: Sequence[str] | None) -> tuple[str, ...]:
    """Return the explainers that were named, grad-cam where none was."""
    if explainer is not None and explainers is not None:
        raise UsageError("--explainer and --explainers were both given", "give one of the two")
    if explainers is None:
        return (explainer or "grad-cam",)
    if not explainers:
        raise UsageError("--explainers names no explainer", "give names separated by commas")
    return tuple(dict.fromkeys(explainers))


def _lines(explainers: int) -> int:
    """Return how many lines of pictures a strip takes."""
    return 1 if explainers == 1 else -(-(1 + explainers) // ACROSS)


def _targets(out: Path, images: Sequence[Path], lines: int) -> dict[Path, list[int]]:
    """Return each file to write with the numbers of its pictures, once it is known that it can be written.

    A picture takes so many ``lines`` of a file.
    """
    if out.suffix.lower() in SUFFIXES and not out.is_dir():
        if len(images) * lines > ROWS:
            raise UsageError(f"{len(images)} strips do not fit into one file", "name a folder with --out")
        require_writable(out.parent)
        targets = {out.with_suffix(out.suffix.lower()): list(range(len(images)))}
    elif out.suffix and not out.is_dir():
        raise UsageError(f"cannot write {out.suffix} files", f"use {', '.join(SUFFIXES)} or a folder")
    else:
        names = [slug(path.stem) for path in images]
        unique = [name if names.count(name) == 1 else f"{name}-{i + 1}" for i, name in enumerate(names)]
        targets = {writable_directory(out) / f"{name}.png": [i] for i, name in enumerate(unique)}
    for path in images:
        if path.resolve() in {target.resolve() for target in targets}:
            raise UsageError(f"{path} would be overwritten by its own strip", "choose another file with --out")
    return targets


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})", "name image files") from None


def _open(
    checkpoint: Path, options: ScoreOptions, dataset: str | None, data: Path | None
) -> tuple[LoadedModel, DatasetInfo]:
    """Open the checkpoint and its data set (classes, size, normalisation); a bare file takes it from --dataset."""
    if not checkpoint.exists():
        raise UsageError(f"{checkpoint} does not exist", "give a run directory or a weight file")

    @cache
    def opened(size: int | None = None) -> Dataset:
        if dataset is None:
            raise UsageError(f"{checkpoint} carries no description of its data set", "name one with --dataset")
        return open_dataset(dataset, data, size)

    loaded = load_model(
        checkpoint, weights=options.weights, arch=options.arch, describe=lambda *size: opened(*size).info
    )
    if loaded.card is None:
        found = opened() if loaded.own is None else opened(loaded.own.size).interpolated(loaded.own.interpolation)
        loaded, info = normalized(loaded, found.info, options, measured=found.measured)
        return read_as(loaded, info, options.output), info
    info = loaded.card.dataset if dataset is None else opened().info
    return read_as(loaded, info, options.output), options.normalization.for_trained(info, loaded.card.dataset)


def _pixels(content: bytes, path: Path, info: DatasetInfo) -> Pixels:
    """Return one picture as the network takes it: uint8 C×H×W."""
    if info.channels not in (1, 3):
        raise UsageError(f"the network takes {info.channels} channels", "explain with a network for grey or RGB images")
    image = fitted(decode(content, str(path)), info.size, METHODS[info.interpolation])
    found = np.asarray(image.convert("L") if info.channels == 1 else image)
    return found.reshape(image.height, image.width, info.channels).transpose(2, 0, 1)


def _explained(
    loaded: LoadedModel, info: DatasetInfo, pixels: Pixels, paths: Sequence[Path], options: ScoreOptions
) -> Pictures:
    """Explain the pictures and return them as a pool; nobody knows their labels, which stand as 0."""
    split = ArraySplit(info, "pictures", pixels, np.zeros(len(paths), np.int64), [str(path) for path in paths])
    plan = plan_for(loaded, info, split, options)
    named = tuple(name for name in plan.protocol.controls if name in (options.explainers or ()))
    plan = replace(plan, protocol=plan.protocol.model_copy(update={"controls": named}))
    rows = [name for name in plan.rows if name in (options.explainers or ())]
    with deterministic(), resources():
        scorer = make_scorer(plan, options)
        with frozen_eval(scorer.engine.model):
            return explained_pictures(scorer, list(range(len(paths))), rows if len(rows) > 1 else ())


def _line(path: Path, found: Mapping[str, Strip], keep: float) -> str:
    """Say in a line what one picture was predicted as, and its softmax under the mask of each explainer."""
    first = next(iter(found.values()))
    each = [f"softmax {first.scores}"] if len(found) == 1 else [f"{name} {one.scores}" for name, one in found.items()]
    return (
        f"{clean(str(path), 200)}: predicted {clean(first.predicted)}, {', '.join(each)} with "
        f"{100 * keep:g} % of the pixels kept"
    )


def _figure(found: Sequence[Strip], names: Sequence[str], pool: Pictures) -> Any:
    """Draw a row a picture: the picture, the map over it with its colour bar, what the mask leaves."""
    signed = bool((pool.maps < 0).any())
    with style():
        figure, panes = axes(len(found), 3, PAGE, HEIGHT * len(found) + 0.2)
        for row, (strip, name) in enumerate(zip(found, names, strict=True)):
            left, middle, right = panes[3 * row : 3 * row + 3]
            scale = scale_of([strip.heat], signed=signed)
            _show(left, strip.pixels, plot_label(name), f"predicted {plot_label(strip.predicted).strip()}")
            height, width = pool.maps.shape[2:]
            _show(middle, scale.over(strip.pixels, strip.heat), f"{pool.about['explainer']}, {height}×{width}", "")
            _bar(middle, scale)
            masked = strip.pixels if strip.masked is None else strip.masked
            _show(right, masked, _kept(pool), f"{plot_label(strip.explained).strip()}: {strip.scores}")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def side_by_side(found: Sequence[Mapping[str, Strip]], titles: Sequence[str]) -> Any:
    """Draw for each picture the picture itself, then the map of every explainer over it, each over its own strongest.

    One colour rule holds for all: red for and blue against the class where any map is signed, else yellow for it.
    """
    columns = min(ACROSS, 1 + len(found[0]))
    lines = _lines(len(found[0]))
    scale = Scale(1, signed=any(bool((strip.heat < 0).any()) for one in found for strip in one.values()))
    with style():
        height = PAGE / columns + 0.55
        figure, panes = axes(lines * len(found), columns, PAGE, height * lines * len(found))
        for axis in panes:
            axis.set_axis_off()
        for number, (one, title) in enumerate(zip(found, titles, strict=True)):
            original, *maps = panes[number * lines * columns :][: 1 + len(one)]
            first = next(iter(one.values()))
            _show(original, first.pixels, f"{plot_label(title)}\n{plot_label(first.explained).strip()}", "", 7)
            _bar(original, scale)
            for axis, (name, strip) in zip(maps, one.items(), strict=True):
                below = "" if np.isnan(strip.before) else strip.scores
                _show(axis, scale.over(strip.pixels, strip.heat), plot_label(name), below, 7)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def draw(images: Tensor, targets: Tensor, maps: Mapping[str, Tensor], out: Path) -> None:
    """Draw the maps N×1×h×w of several explainers of images N×C×H×W beside them, to a file or a folder."""
    names = [f"image-{i}" for i in range(len(images))]
    files = _targets(out, list(map(Path, names)), _lines(len(maps)))
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    grey = (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny) * 255
    pixels = grey.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    heat = {name: _shares(found, pixels.shape[1:3]) for name, found in maps.items()}
    found = [
        {
            name: Strip(pixels[i], rows[i], None, f"class {int(targets[i])}", "", math.nan, math.nan)
            for name, rows in heat.items()
        }
        for i in range(len(images))
    ]
    for file, own in files.items():
        figure = side_by_side([found[i] for i in own], [names[i] for i in own])
        atomic_write(file, _saved(figure, file.suffix))


def _shares(maps: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return maps at the images' size (N, H, W), each over its strongest finite value."""
    strongest = torch.where(maps.isfinite(), maps.abs(), 0).flatten(1).amax(1)
    shares = maps / torch.where(strongest > 0, strongest, 1)[:, None, None, None]
    return enlarged(shares.detach().cpu().numpy(), size)


def _bar(axis: Any, scale: Scale) -> None:
    """Draw the colour bar below a picture."""
    bar = axis.inset_axes((0, -0.09, 1, 0.05))
    bar.imshow(scale.bar, aspect="auto", interpolation="nearest")
    places = np.linspace(0, scale.bar.shape[1] - 1, len(scale.ticks))
    bar.set(xticks=places, yticks=[], xticklabels=scale.ticks)
    bar.tick_params(length=0, pad=2)
    bar.grid(visible=False)


def _show(axis: Any, pixels: Pixels, title: str, below: str, size: float = 8) -> None:
    shown = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    axis.set_axis_on()
    axis.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=size)
    axis.set(xticks=[], yticks=[], xlabel=below)
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _kept(pool: Pictures) -> str:
    """Return ``45 % kept``: the one threshold of the pool."""
    return f"{100 * float(pool.about['thresholds'][pool.shown]):g} % kept"


def _saved(figure: Any, suffix: str) -> bytes:
    """Return the figure as a file without a date or the name of the software."""
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=suffix[1:], dpi=150, metadata=PLAIN[suffix])
    return file.getvalue()
