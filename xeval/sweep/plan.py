"""Makes the runs of a sweep from recipes, methods, seeds and overrides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from xeval.checkpoints.folder import run_name
from xeval.data import open_dataset
from xeval.errors import UsageError
from xeval.runtime.files import slug
from xeval.sweep.grid import Axis, combinations, divide, parse_seeds
from xeval.sweep.matrix import Matrix, Part, find_matrix
from xeval.training.recipe import Recipe, decisive, label, load_recipe

CONTROL = ".sweep"  # folder of records, logs and tuning runs; hidden, because `compare` skips hidden folders
HELD_OUT = 0.2  # share of train that tuning holds out where the recipe holds out nothing
RETRAINED = ("heldout=0", "select_on=last")


class Frozen(BaseModel):
    """A model of plain data that is written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(Frozen):
    """One way to train a run, and the tuning runs whose held-out accuracy judges it."""

    label: str = ""
    recipe: dict[str, Any]
    epochs: int
    tuned_by: tuple[str, ...] = ()


class Run(Frozen):
    """A checkpoint to train at ``path`` below the sweep's folder; ``score`` is None where it is not scored."""

    path: str
    folder: str
    method: str
    seed: int
    choices: tuple[Choice, ...]
    data: str | None = None
    limit: int | None = None
    device: str = "auto"
    score: dict[str, Any] | None = None

    @property
    def earlier_path(self) -> str:
        """Where the run lay when directories were called without the recipe."""
        name = run_name(self.choices[0].recipe["dataset"], self.method, self.seed)
        return "/".join(filter(None, [self.folder, name]))

    @property
    def training(self) -> dict[str, Any]:
        """The settings that must be equal for a run to be continued."""
        recipes = [decisive({"recipe": choice.recipe}) for choice in self.choices]
        return {"recipes": recipes, "seed": self.seed, "limit": self.limit}


@dataclass(frozen=True)
class Wish:
    """The options of the command line; None stands for what the matrix or the recipe says."""

    recipe: str
    seeds: str | None = None
    methods: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    limit: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class SweepPlan:
    """All runs of a sweep, made by :func:`make_plan`: those that tune, and those that are scored and compared."""

    name: str
    tuning: tuple[Run, ...]
    runs: tuple[Run, ...]
    slurm: dict[str, Any] = field(default_factory=dict)

    @property
    def every(self) -> tuple[Run, ...]:
        """All runs, the tuning runs first."""
        return (*self.tuning, *self.runs)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that are compared, below the sweep's own; an empty name stands for that folder itself."""
        return tuple(dict.fromkeys(run.folder for run in self.runs))


def make_plan(wish: Wish) -> SweepPlan:
    """Return the runs of a recipe or a matrix; raise :class:`UsageError` for anything that could only fail later."""
    found = find_matrix(wish.recipe)
    if found is None:
        name, matrix = Path(wish.recipe).stem, Matrix.model_construct(parts=(_alone(wish),))
    else:
        name, matrix = found[0], _selected(found[1], wish)
    seeds = parse_seeds(matrix.seeds if wish.seeds is None else wish.seeds)
    common = {
        "data": None if wish.data is None else str(wish.data.absolute()),
        "limit": matrix.limit if wish.limit is None else wish.limit,
        "device": wish.device,
    }
    score = _score_options(matrix.score)
    tuning, runs = [], []
    for one in matrix.parts:
        tried, kept = _part_runs(one, seeds, wish.overrides, {**common, "score": score})
        tuning += tried
        runs += kept
    _require_distinct(runs)
    return SweepPlan(slug(name), tuple(tuning), tuple(runs), dict(matrix.slurm))


def _alone(wish: Wish) -> Part:
    """Make a part of a plain recipe; its runs lie in the sweep's own folder."""
    return Part.model_construct(folder="", recipes=(wish.recipe,), methods=wish.methods, set=())


def _selected(matrix: Matrix, wish: Wish) -> Matrix:
    """Return the matrix with the requested methods only."""
    if wish.methods is None:
        return matrix
    parts = []
    for one in matrix.parts:
        recipes, methods = one.recipes, one.methods
        if methods is None:
            recipes = tuple(name for name in recipes if _own_method(name) in wish.methods)
        else:
            methods = tuple(name for name in methods if name in wish.methods)
        if recipes and methods != ():
            parts.append(one.model_copy(update={"recipes": recipes, "methods": methods}))
    if not parts:
        raise UsageError(f"no part of {wish.recipe} trains {', '.join(wish.methods)}", "leave --methods out")
    return matrix.model_copy(update={"parts": tuple(parts)})


def _own_method(recipe: str) -> str:
    return load_recipe(recipe).method


def _score_options(given: dict[str, Any]) -> dict[str, Any]:
    """Check and return the options of ``[score]``, which may not say where the scores go."""
    from xeval.scoring.options import validated
    from xeval.scoring.plan import protocol_of

    refused = {"out", "data", "device"} & given.keys()
    if refused:
        raise UsageError(f"[score] cannot set {', '.join(sorted(refused))}", "use the options of xeval sweep")
    protocol_of(validated(**given))
    return given


def require_data(plan: SweepPlan) -> None:
    """Raise :class:`DataError` where the data of a run are not there, before any job starts."""
    wanted = {(run.choices[0].recipe["dataset"], run.data, run.choices[0].recipe["image_size"]) for run in plan.every}
    for name, root, size in sorted(wanted, key=str):
        open_dataset(name, None if root is None else Path(root), size)


def _part_runs(
    one: Part, seeds: Sequence[int], overrides: Sequence[str], common: dict[str, Any]
) -> tuple[list[Run], list[Run]]:
    """Return the tuning runs and the runs of one part."""
    fixed, axes = divide([*one.set, *overrides], Recipe)
    typed = tuple(divide(overrides, Recipe)[0])
    tuning: list[Run] = []
    runs: list[Run] = []
    for recipe in one.recipes:
        for method in one.methods or (None,):
            maker = _Maker(recipe, method, tuple(fixed), typed, tuple(axes), tuple(seeds), one.folder, common)
            tuning += maker.tuning()
            runs += maker.runs()
    return tuning, runs


@dataclass(frozen=True)
class _Maker:
    """Makes the runs of one recipe and one method."""

    recipe: str
    method: str | None
    fixed: tuple[str, ...]
    typed: tuple[str, ...]  # those of the command line: a matrix names its parts by their folders
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    folder: str
    common: dict[str, Any]

    def tuning(self) -> Iterator[Run]:
        """Yield a run that holds images out for every value and seed; nothing where there is only one value."""
        for values in self._tried():
            held_out = self._load(values).heldout or HELD_OUT
            content = self._load([*values, "select_on=last", f"heldout={held_out}"])
            for seed in self.seeds:
                path = self._tuning_path(content, values, seed)
                yield self._run(path, content.method, seed, [_choice(content, values)], score=None)

    def runs(self) -> Iterator[Run]:
        """Yield the runs that are scored; where a key has several values they train on all of train."""
        rest = RETRAINED if self.axes else ()
        loaded = [(values, self._load([*values, *rest])) for values in self._tried() or [[]]]
        made = [_choice(content, values, self._tuned_by(content, values)) for values, content in loaded]
        first = loaded[0][1]
        for seed in self.seeds:
            path = "/".join(filter(None, [self.folder, self._name(first, seed)]))
            yield self._run(path, first.method, seed, made)

    def _tried(self) -> list[list[str]]:
        """Return the combinations of values to choose from, for the keys that concern the method."""
        from xeval.training.methods import METHODS

        explains = METHODS[self._load([]).method].explains
        concerned = [axis for axis in self.axes if explains or not axis.key.startswith("excon.")]
        return combinations(concerned) if concerned else []

    def _tuned_by(self, content: Recipe, values: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._tuning_path(content, values, seed) for seed in self.seeds) if values else ()

    def _tuning_path(self, content: Recipe, values: Sequence[str], seed: int) -> str:
        steps = [
            CONTROL,
            "tuning",
            self.folder,
            slug(",".join(values)),
            self._name(content, seed),
        ]
        return "/".join(filter(None, steps))

    def _name(self, content: Recipe, seed: int) -> str:
        return run_name(content.dataset, content.method, seed, label(content, self.typed))

    def _load(self, extra: Sequence[str]) -> Recipe:
        return load_recipe(self.recipe, self.method, [*self.fixed, *extra])

    def _run(self, path: str, method: str, seed: int, choices: list[Choice], **changes: Any) -> Run:
        settings = {**self.common, **changes}
        return Run(path=path, folder=self.folder, method=method, seed=seed, choices=tuple(choices), **settings)


def _choice(content: Recipe, values: Sequence[str], tuned_by: tuple[str, ...] = ()) -> Choice:
    from xeval.training.methods import head_epochs

    epochs = content.epochs + head_epochs(content)
    return Choice(label=", ".join(values), recipe=content.model_dump(mode="json"), epochs=epochs, tuned_by=tuned_by)


def _require_distinct(runs: Sequence[Run]) -> None:
    paths = [run.path for run in runs]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"two runs of the sweep would both be {twice}", "put their recipes into parts of their own")
