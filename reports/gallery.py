"""The gallery of a report: the same images under every method or every explainer, chosen by a stated rule.

As figure 1 of the ExCon paper: the image, the map over it, what the mask leaves, and the softmax of the explained class
before and after. Explainers stand side by side with their maps and softmax alone. Which images appear is decided by a
seed or by a formula that the caption spells out; images that a person picked are labelled so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from xeval.errors import DataError, UsageError, unknown
from xeval.reports.captions import checkpoint, place, table_slug
from xeval.reports.collect import Group, Run
from xeval.reports.rows import Rows
from xeval.reports.strips import Picture, Scale, Strip, class_name, picture, resizing, scale_of, strips
from xeval.reports.text import clean
from xeval.scoring.gallery import Pictures, read_pictures

Selection: TypeAlias = Literal["random", "median", "best", "worst", "failures", "none"]
SELECTIONS: tuple[Selection, ...] = ("random", "median", "best", "worst", "failures", "none")
SHOWN = 8

LIMIT = 8_000_000  # bytes of the page

Floats = NDArray[np.float64]
Pools: TypeAlias = dict[str, Pictures]
Falls: TypeAlias = Mapping[str, Floats]
T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """Which images a gallery shows: by rule, or by ids that somebody picked; ``none`` keeps every picture out."""

    selection: Selection = "random"
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A cell holds one image under one method or explainer, ready for the page; ``masked`` is what the mask leaves."""

    name: str
    strip: Strip
    overlay: Picture
    masked: Picture | None = None
    control: bool = False


@dataclass(frozen=True)
class GalleryRow:
    """One image under all methods or explainers, in colours that all of them share."""

    id: str
    label: str
    original: Picture
    scale: Scale
    bar: Picture
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Gallery:
    """Everything the page shows; ``asked`` rows were chosen, fewer are left where the page would become too large."""

    slug: str
    columns: tuple[tuple[str, str], ...]  # name, and what stands below it; none where each cell says its own name
    rows: tuple[GalleryRow, ...]
    asked: int
    selection: str
    caption: str

    @property
    def hand_picked(self) -> bool:
        """Return whether a person chose the images."""
        return self.selection == "hand-picked"

    @property
    def ids(self) -> list[str]:
        """Return the images shown."""
        return [row.id for row in self.rows]

    @property
    def notice(self) -> str:
        """Say what was left out for the size of the page."""
        if len(self.rows) == self.asked:
            return ""
        return f"{len(self.rows)} of {self.asked} images are shown: with more, the page would be larger than 8 MB."

    def smaller(self) -> Gallery:
        """Return the same with half of the rows."""
        return replace(self, rows=self.rows[: len(self.rows) // 2])


def chosen(selection: str | None, ids: Sequence[str] | None) -> Choice:
    """Return what was asked for; raises UsageError for an unknown rule, or for a rule and ids at once."""
    if ids is not None:
        if selection is not None:
            raise UsageError("--gallery and --gallery-ids were both given", "give one of the two")
        if not ids:
            raise UsageError("--gallery-ids names no image", "give ids separated by commas")
        return Choice(ids=tuple(dict.fromkeys(ids)))
    for known in SELECTIONS:
        if selection in (known, None):
            return Choice(known)
    raise unknown("selection of the gallery", str(selection), SELECTIONS)


def fitting(
    page: Callable[[Sequence[Gallery | None]], tuple[T, bytes]], galleries: Sequence[Gallery | None]
) -> tuple[T, bytes]:
    """Make the page with as many images as fit: while it is too large, every gallery loses half of its rows."""
    made = page(galleries)
    while len(made[1]) > LIMIT and any(own is not None and own.rows for own in galleries):
        galleries = [own and own.smaller() for own in galleries]
        made = page(galleries)
    return made


def read_pools(groups: Sequence[Group], choice: Choice, rows: Rows = "methods") -> list[Pools]:
    """Read the pools of each group, method by method; empty where a method has none.

    Where no picture is wanted they are read for explainers only, whose maps are also compared in numbers.

    Raises DataError for pools that do not belong to the scores beside them or show different images, UsageError for
    ids that no pool has.
    """
    idle = choice.selection == "none" and rows == "methods"
    found = [{} if idle else _pools(group) for group in groups]
    known = {name for pools in found for pool in pools.values() for name in pool.ids}
    strangers = [name for name in choice.ids if name not in known]
    if strangers:
        raise UsageError(
            f"the gallery has no image {clean(strangers[0])}; the pool of {len(known):,} images that every run keeps "
            f"begins with {', '.join(map(clean, sorted(known)[:3])) or 'nothing'}",
            "name images of the pool (gallery.json in a run lists them)",
        )
    return found


def _pools(group: Group) -> Pools:
    """Read the pool of one run a method, at the smallest seed that all have; empty where a method has none."""
    runs = shown_runs(group)
    found = {method: read_pictures(run.folder) for method, run in runs.items()}
    pools = {method: pool for method, pool in found.items() if pool is not None}
    if len(pools) < len(runs):
        return {}
    for method, run in runs.items():
        scores, about = run.scores, pools[method].about
        belongs = (scores.checkpoint.sha256, scores.dataset.key, scores.protocol.hash)
        if belongs != (about.get("checkpoint"), about.get("data"), about.get("protocol")):
            raise DataError(
                f"the gallery in {clean(run.path)} belongs to other scores", "score the checkpoint again (--recompute)"
            )
    first = next(iter(pools.values()))
    if any(pool.ids != first.ids or pool.pixels.shape != first.pixels.shape for pool in pools.values()):
        raise DataError(
            f"the galleries of {clean(group.dataset)} hold different images", "score all runs with the same version"
        )
    return pools


def shown_runs(group: Group) -> dict[str, Run]:
    """Choose one run a method: the smallest seed that all methods have, else each one's first."""
    shared = set.intersection(*({run.seed for run in runs} for runs in group.methods.values()))
    seed = min(shared, key=lambda s: s if s is not None else -1) if shared else None
    return {method: next((run for run in runs if run.seed == seed), runs[0]) for method, runs in group.methods.items()}


def gallery_of(group: Group, pools: Pools, reference: str, choice: Choice) -> Gallery | None:
    """Show the images that the rule chooses under every method; None without pools or where no picture is wanted."""
    if not pools or choice.selection == "none":
        return None
    first = next(iter(pools.values()))
    wrong = np.sum([pool.predicted != pool.label for pool in pools.values()], axis=0)
    falls = {method: drops(pool, pool.after) for method, pool in pools.items()}
    numbers, rule = selected(first, falls, wrong, reference, choice)
    classes = group.first.scores.dataset.classes
    columns = {method: strips(pool, numbers, classes) for method, pool in pools.items()}
    signed = any(bool((pool.maps < 0).any()) for pool in pools.values())
    rows = tuple(
        _row(
            first.ids[number],
            class_name(classes, int(first.label[number])),
            {method: column[j] for method, column in columns.items()},
            signed,
        )
        for j, number in enumerate(numbers)
    )
    return Gallery(
        table_slug(group, "gallery"),
        tuple((method, _below(run, pools[method])) for method, run in shown_runs(group).items()),
        rows,
        len(rows),
        "hand-picked" if choice.ids else choice.selection,
        _caption(group, first, rule, signed=signed),
    )


def _row(name: str, label: str, found: Mapping[str, Strip], signed: bool) -> GalleryRow:
    scale = scale_of([strip.heat for strip in found.values()], signed=signed)
    cells = tuple(_cell(method, strip, scale) for method, strip in found.items())
    original = picture(next(iter(found.values())).pixels)
    return GalleryRow(name, label, original, scale, picture(scale.bar), cells)


def _cell(name: str, strip: Strip, scale: Scale, *, control: bool = False) -> Cell:
    masked = None if strip.masked is None else picture(strip.masked)
    return Cell(name, strip, picture(scale.over(strip.pixels, strip.heat)), masked, control)


def _below(run: Run, pool: Pictures) -> str:
    height, width = pool.maps.shape[2:]
    seed = "" if run.seed is None else f"seed {run.seed}, "
    return f"{seed}maps of {height}×{width}"


def explainer_gallery(group: Group, pools: Pools, method: str, reference: str, choice: Choice) -> Gallery | None:
    """Show the images that the rule chooses under every explainer and control of one checkpoint of ``method``.

    Explainers have different units, so each map has the colours of its share of its own strongest value. None where
    the pool holds the maps of one explainer only.
    """
    pool = pools.get(method)
    if pool is None or not pool.rows or choice.selection == "none":
        return None
    falls = {name: drops(pool, row.after) for name, row in pool.rows.items() if not row.control}
    numbers, rule = selected(pool, falls, pool.predicted != pool.label, reference, choice)
    classes = group.first.scores.dataset.classes
    columns = {name: strips(pool, numbers, classes, name) for name in pool.rows}
    scale = Scale(1, signed=any(bool((row.maps < 0).any()) for row in pool.rows.values()))
    bar = picture(scale.bar)
    rows = tuple(
        GalleryRow(
            pool.ids[number],
            class_name(classes, int(pool.label[number])),
            picture(pool.pixels[number].transpose(1, 2, 0)),
            scale,
            bar,
            tuple(_cell(name, columns[name][j], scale, control=row.control) for name, row in pool.rows.items()),
        )
        for j, number in enumerate(numbers)
    )
    chosen_by = "hand-picked" if choice.ids else choice.selection
    caption = _caption_of_explainers(group, shown_runs(group)[method], pool, rule, signed=scale.signed)
    return Gallery(table_slug(group, "gallery"), (), rows, len(rows), chosen_by, caption)


def drops(pool: Pictures, after: Floats) -> Floats:
    """Return max(0, p0 − p1) / p0 for the softmax ``after`` masking (N,): the magnitude of the column drop.mag."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.maximum(0, pool.p0 - after) / pool.p0)


def selected(
    pool: Pictures, falls: Falls, wrong: NDArray[Any], reference: str, choice: Choice
) -> tuple[list[int], str]:
    """Return the numbers of the images to show, in order, and the rule in words.

    ``falls`` are the drops of each method or explainer (N,), ``wrong`` says how many checkpoints misclassify an image.
    """
    if choice.ids:
        return [pool.ids.index(name) for name in choice.ids if name in pool.ids], "hand-picked, not a sample"
    if choice.selection == "random":
        return list(range(len(pool.ids)))[:SHOWN], f"drawn at random by seed {pool.about['seed']}"
    if choice.selection == "failures":
        return _failures(wrong)
    values, formula = _contrast(falls, reference)
    order = [int(i) for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    if choice.selection == "best":
        return order[:SHOWN], f"best: those with the lowest {formula}, lowest first"
    if choice.selection == "worst":
        return order[::-1][:SHOWN], f"worst: those with the highest {formula}, highest first"
    middle = float(np.median(values[order])) if order else 0.0
    nearest = sorted(order, key=lambda i: abs(values[i] - middle))
    return nearest[:SHOWN], f"median: those nearest to the pool's median ({middle:.3f}) of {formula}, nearest first"


def _contrast(falls: Falls, reference: str) -> tuple[Floats, str]:
    """Return what best, worst and median go by: one row's drop minus the reference's, with one row its drop."""
    others = [name for name in falls if name != reference]
    if reference not in falls or not others:
        return next(iter(falls.values())), "drop max(0, p0 − p1)/p0"
    difference = falls[others[0]] - falls[reference]
    return difference, f"drop max(0, p0 − p1)/p0 of {clean(others[0])} minus that of {clean(reference)}"


def _failures(wrong: NDArray[Any]) -> tuple[list[int], str]:
    """Return misclassified images, those first that most checkpoints get wrong."""
    order = [int(i) for i in np.argsort(-wrong.astype(int), kind="stable") if wrong[i]]
    rule = f"failures: the {len(order)} misclassified by at least one checkpoint shown, most often misclassified first"
    return order[:SHOWN], rule


def _caption(group: Group, pool: Pictures, rule: str, *, signed: bool) -> str:
    return (
        f"{_whence(group, pool, rule)} First the image; then for each method the {clean(pool.about['explainer'])} map "
        f"over it (upsampled bilinearly; {_colours(signed=signed)}; one scale a row, in the bar) and "
        f"{masking(pool.about)}. Below: the softmax of the explained class before → after, ▲ rises, ▼ falls, = stays. "
        f"{_pixels(pool)}"
    )


def _caption_of_explainers(group: Group, run: Run, pool: Pictures, rule: str, *, signed: bool) -> str:
    return (
        f"{_whence(group, pool, rule)} After the image, on {checkpoint(run)}, the map of every explainer, then in grey "
        f"those of controls, over it (upsampled bilinearly; {_colours(signed=signed)}). All have one colour rule: the "
        f"share of a map's own strongest value, for their units differ. Below each: the softmax of the explained class "
        f"before → after masking, which leaves {masking(pool.about)}; ▲ rises, ▼ falls, = stays. Random controls show "
        f"their first draw. {_pixels(pool)}"
    )


def _whence(group: Group, pool: Pictures, rule: str) -> str:
    return (
        f"Images from {place(group)}, {rule}; chosen from a pool of {len(pool.ids)} that every run keeps, drawn by "
        f"seed {pool.about['seed']}."
    )


def _colours(*, signed: bool) -> str:
    return "red for and blue against the class" if signed else "yellow for the class"


def _pixels(pool: Pictures) -> str:
    height, width = pool.pixels.shape[2:]
    return f"Pictures have {width}×{height} pixels, {resizing(height, width)}."


def masking(about: dict[str, Any]) -> str:
    """Say what the masked picture is."""
    thresholds, shown = about["thresholds"], about["shown"]
    name = thresholds[shown]
    fill = clean(str(about["fill"]))
    if about["mask"] == "soft":
        return f"the image weighed with it against the fill {fill}"
    share = f"{100 * float(name):g} %"
    kept = f"the {share} most relevant pixels" if about["mask"] == "topk" else f"the pixels above {share} of its range"
    return f"{kept}, the rest set to the fill {fill}"
