"""This module finds the scored runs below a folder and refuses what must not be compared."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from xeval.errors import DataError
from xeval.reports.folders import ARTIFACTS, CARD, HISTORY, SCORES, Excluded, search
from xeval.reports.images import Images, images_of
from xeval.reports.schema import Artifacts, Card, Part, Scores, Subset
from xeval.reports.text import clean
from xeval.runtime.files import parse_json, require_regular
from xeval.runtime.validation import first_mistake

P = TypeVar("P", bound=Part)
SCHEMA = "xeval.scores/1"
#: Order of the known methods in every table: baselines first; others follow by name.
METHOD_ORDER = ("ce", "triplet", "simclr", "supcon-ori", "supcon", "excon", "exconb")


@dataclass(frozen=True)
class Run:
    """A run is one scored checkpoint."""

    folder: Path
    path: str  # for people
    scores: Scores
    card: Card | None = None
    history: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    artifacts: Artifacts | None = None
    images: Images | None = None

    @property
    def name(self) -> str:
        """Return the name of the checkpoint."""
        return self.scores.checkpoint.name

    @property
    def method(self) -> str:
        """Return the training method; a weight file of unknown origin stands for itself."""
        return self.scores.checkpoint.method

    @property
    def seed(self) -> int | None:
        """Return the training seed, if it is known."""
        return self.scores.checkpoint.seed

    @property
    def recipe(self) -> str:
        """Return the recipe's name, empty for a foreign weight file."""
        return self.scores.checkpoint.recipe or ""

    @property
    def arch(self) -> str:
        """Return the architecture's name, empty where it is unknown."""
        return self.scores.checkpoint.arch or ""

    @property
    def kind(self) -> tuple[str, str, str]:
        """Return data set, recipe and architecture: only runs that share them are compared."""
        return self.scores.dataset.name, self.recipe, self.arch


@dataclass(frozen=True)
class Group:
    """Runs that may be compared: one data set, recipe and architecture; methods in table order, runs by seed."""

    dataset: str
    recipe: str
    arch: str
    methods: dict[str, tuple[Run, ...]]
    only_arch: bool = True  # False where another group differs in the architecture alone
    known: dict[tuple[str, str, str], Any] = field(default_factory=dict, repr=False, compare=False)
    """What :mod:`xeval.reports.standing` has worked out, as several tables ask for it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return what tells the group from others: the data set, the recipe of another name, the architecture."""
        return (self.dataset, *self._beside("{}"))

    @property
    def told(self) -> tuple[str, ...]:
        """Return recipe and architecture in words, as far as they tell the group from others."""
        return self._beside("recipe {}")

    def _beside(self, recipe: str) -> tuple[str, ...]:
        """Return what is needed beside the data set; ``recipe`` is how a recipe of another name is told."""
        own = () if self.recipe in ("", self.dataset) else (recipe.format(self.recipe),)
        return own if self.only_arch else (*own, self.arch)

    @property
    def runs(self) -> list[Run]:
        """Return all runs, method by method."""
        return [run for runs in self.methods.values() for run in runs]

    @property
    def first(self) -> Run:
        """Return any run, for what all of them share."""
        return self.runs[0]

    @property
    def conventions(self) -> tuple[str, ...]:
        """Return the sentences that hold for every run, then those of single runs under their names."""
        every = [run.scores.conventions for run in self.runs]
        shared = [line for line in every[0] if all(line in lines for lines in every)]
        own = [f"{run.name}: {line}" for run in self.runs for line in run.scores.conventions if line not in shared]
        return (*shared, *own)

    @property
    def subset(self) -> Subset:
        """Return the images that the protocol counts."""
        return self.first.scores.protocol.subset

    @cached_property
    def correct_under_all(self) -> NDArray[np.bool_] | None:
        """Return which images every checkpoint classifies correctly (N,); None where a run lacks single images."""
        correct = [run.images.correct for run in self.runs if run.images is not None]
        return np.logical_and.reduce(correct) if len(correct) == len(self.runs) else None


@dataclass(frozen=True)
class Collection:
    """A collection is everything that was found below the compared folders."""

    groups: tuple[Group, ...]
    excluded: tuple[Excluded, ...]

    @property
    def runs(self) -> list[Run]:
        """Return all scored runs, group by group."""
        return [run for group in self.groups for run in group.runs]


def collect(*roots: Path) -> Collection:
    """Read every complete score file below ``roots`` and group the runs by data set and recipe.

    Raises DataError where nothing is scored, a file is damaged, or the runs of one data set differ in their images,
    their protocol or are the same checkpoint twice.
    """
    searched = search(roots)
    runs: list[Run] = []
    excluded = searched.left_out
    for folder in searched.places:
        found = _read_folder(folder, searched.name(folder), searched.typed(folder))
        (runs if isinstance(found, Run) else excluded).append(found)  # type: ignore[arg-type]
    if not runs:
        raise _nothing_scored(roots, excluded)
    _require_seeds(runs)
    for dataset in sorted({run.scores.dataset.name for run in runs}):
        _require_alike([run for run in runs if run.scores.dataset.name == dataset])
    _require_distinct(runs)
    return Collection(tuple(_groups(runs)), tuple(excluded))


def _read_folder(folder: Path, path: str, typed: str) -> Run | Excluded:
    for name in (SCORES, CARD, HISTORY, ARTIFACTS):
        require_regular(folder / name)
    if not (folder / SCORES).is_file():
        if (folder / CARD).is_file():
            return Excluded(path, "trained, not scored", f"xeval score {typed}")
        return Excluded(path, "training has not finished", "start the same `xeval train` command again to resume")
    scores = _parse(folder / SCORES, Scores)
    if scores.schema_ != SCHEMA:
        raise DataError(
            f"{folder / SCORES} has schema {clean(scores.schema_)}, this version reads {SCHEMA}",
            "use the version of xeval that wrote it, or score again",
        )
    if scores.status != "complete":
        return Excluded(path, f"scoring is {scores.status}", f"xeval score {typed}")
    images = images_of(folder, scores)
    if images is not None:
        images.require_agreement()
    return Run(
        folder=folder,
        path=path,
        scores=scores,
        card=_parse(folder / CARD, Card) if (folder / CARD).is_file() else None,
        history=_read_history(folder / HISTORY),
        artifacts=_parse(folder / ARTIFACTS, Artifacts) if (folder / ARTIFACTS).is_file() else None,
        images=images,
    )


def _parse(path: Path, schema: type[P]) -> P:
    try:
        return schema.model_validate(parse_json(path.read_bytes()))
    except ValidationError as error:
        problem = str(first_mistake(error))
    except (ValueError, OSError) as error:
        problem = str(error)
    raise DataError(f"{path} cannot be read ({problem})", "score the checkpoint again or move the folder away")


def _read_history(path: Path) -> dict[str, tuple[float | None, ...]]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        return {
            name: tuple(float(row[name]) if row[name] else None for row in rows) for name in (rows[0] if rows else ())
        }
    except (ValueError, TypeError, KeyError, OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})", "train the run again or remove the file") from error


def _nothing_scored(roots: Sequence[Path], excluded: list[Excluded]) -> DataError:
    where = ", ".join(map(str, roots))
    if not excluded:
        return DataError(
            f"no run was found below {where}", "train and score one: `xeval train digits`, `xeval score RUN`"
        )
    listed = "; ".join(f"{clean(item.path)}: {clean(item.reason)}" for item in excluded[:10])
    more = f" and {len(excluded) - 10} more" if len(excluded) > 10 else ""
    return DataError(f"no scored run below {where} ({listed}{more})", clean(excluded[0].remedy, 200))


def _require_seeds(runs: list[Run]) -> None:
    """Refuse runs whose seed nobody knows; a weight file without a run directory stands for itself and needs none."""
    seeded = {(run.kind, run.method) for run in runs if run.seed is not None}
    lacking = [run for run in runs if run.seed is None and (run.recipe or (run.kind, run.method) in seeded)]
    if unknown := [clean(run.path, 200) for run in lacking]:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"{', '.join(unknown[:5])}{more}: the seed of the training is not known",
            "import with --seed, or score again with --training-seed",
        )


def _require_alike(runs: list[Run]) -> None:
    """Refuse runs of one data set that have seen other images or other definitions."""
    name = clean(runs[0].scores.dataset.name)
    _require_one_kind(
        runs,
        lambda run: run.scores.dataset.n,
        lambda run: f"{run.scores.dataset.n} images",
        f"the runs on {name} were scored on different numbers of images",
        "score all of them with the same --limit",
    )
    _require_one_kind(
        runs,
        _images,
        lambda run: ", ".join(part[:24] for part in _images(run) if part),
        f"the runs on {name} were scored on different images",
        "score all of them on the same data, split and sample",
    )
    _require_one_kind(
        runs,
        lambda run: run.scores.protocol.hash,
        lambda run: f"{run.scores.protocol.name} {run.scores.protocol.hash[:12]}{_particulars(run, runs)}",
        f"the runs on {name} were scored under different definitions",
        "score all of them with the same protocol and options",
    )
    _require_one_kind(
        runs,
        lambda run: run.scores.dataset.objects,
        lambda run: f"masks {(run.scores.dataset.objects or 'unknown')[:12]}",
        f"the runs on {name} were scored with different masks or boxes of the objects",
        "score all of them again with those that the data have now",
    )


def _particulars(run: Run, runs: list[Run]) -> str:
    """Return the settings of a run's protocol that another run sets otherwise."""
    every = [dict(_flat(other.scores.protocol.settings)) for other in runs]
    own = dict(_flat(run.scores.protocol.settings))
    differing = sorted({key for settings in every for key in settings | own if settings.get(key) != own.get(key)})
    told = [f"{key}={own.get(key, 'unset')}" for key in differing[:5]]
    return f" with {', '.join(told)}" if told else ""


def _flat(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as dotted names and printable values."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _images(run: Run) -> tuple[str | None, ...]:
    data = run.scores.dataset
    return data.split, data.manifest, data.selection, data.key


def _require_one_kind(
    runs: list[Run], key: Callable[[Run], object], show: Callable[[Run], str], problem: str, remedy: str
) -> None:
    kinds: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        kinds[key(run)].append(run)
    if len(kinds) > 1:
        counts = "; ".join(f"{clean(show(same[0]))}: {len(same)} ({clean(same[0].path)}, …)" for same in kinds.values())
        raise DataError(f"{problem} ({counts})", f"{remedy}, or compare them in separate folders")


def _require_distinct(runs: list[Run]) -> None:
    """Refuse to count one checkpoint, or one seed of one method, twice."""
    weights: dict[tuple[str, str], Run] = {}
    seeds: dict[tuple[object, ...], Run] = {}
    for run in runs:
        twin = weights.setdefault((run.scores.dataset.name, run.scores.checkpoint.sha256), run)
        if twin is not run:
            raise DataError(f"{clean(twin.path)} and {clean(run.path)} are the same checkpoint", "keep one of the two")
        twin = seeds.setdefault((*run.kind, run.method, run.seed), run)
        if twin is not run:
            pair = f"{clean(twin.path)} and {clean(run.path)}"
            seed = "of unknown seed" if run.seed is None else f"seed {run.seed}"
            repeated = "each with its --training-seed" if run.seed is None else "with another --training-seed"
            raise DataError(
                f"{pair} are both {clean(run.method)}, {seed}{_otherwise(twin, run)}",
                f"keep one, or score one again with another --method or, where they are repetitions, {repeated}",
            )


def _otherwise(one: Run, other: Run) -> str:
    """Return in words which settings of two runs' recipes differ."""
    first, second = (dict(_flat(run.card.recipe if run.card else {})) for run in (one, other))
    keys = [key for key in first if key in second and first[key] != second[key]]
    told = ", ".join(f"{clean(key, 60)} {clean(first[key], 60)} and {clean(second[key], 60)}" for key in keys[:5])
    return f", with {told}" if told else ""


def _groups(runs: list[Run]) -> Iterator[Group]:
    kinds = sorted({run.kind for run in runs})
    for kind in kinds:
        members = [run for run in runs if run.kind == kind]
        methods = {
            name: tuple(sorted((run for run in members if run.method == name), key=lambda run: run.seed or 0))
            for name in sorted({run.method for run in members}, key=_method_rank)
        }
        yield Group(*kind, methods, only_arch=[other[:2] for other in kinds].count(kind[:2]) == 1)


def _method_rank(name: str) -> tuple[int, str]:
    return (METHOD_ORDER.index(name) if name in METHOD_ORDER else len(METHOD_ORDER), name)
