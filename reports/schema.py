"""What ``xeval score`` and ``xeval train`` leave on disk, as far as a report reads it.

Unknown keys are ignored (newer writers may add some); missing or mistyped ones are an error that names the file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

Direction = Literal["lower", "higher"]
Subset = Literal["all", "correct", "correct-under-all"]


class Part(BaseModel):
    """A frozen piece of a results file."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _counts(value: Any) -> Any:
    return {} if value is None else value


Counts = Annotated[dict[str, int], BeforeValidator(_counts)]


class Checkpoint(Part):
    """The weight file that was scored."""

    name: str
    method: str
    seed: int | None = None
    recipe: str | None = None
    recipe_hash: str | None = None
    arch: str | None = None
    weights: str | None = None
    sha256: str


class ScoredData(Part):
    """The images it was scored on."""

    name: str
    split: str
    n: int
    of: int
    rows: tuple[Annotated[int, Field(ge=1)], ...] | None = None  # of each image, where there may be several
    selection: str
    manifest: str  # of the whole split
    key: str | None = None  # of the chosen images, where the scorer gives one
    classes: tuple[str, ...]
    size: int | tuple[int, int]
    channels: int
    objects: str | None = None  # hash of the masks, where they are the user's
    notes: tuple[str, ...] = ()


class Protocol(Part):
    """The definitions it was scored by."""

    name: str
    version: int | str = 1
    hash: str
    subset: Subset = "all"
    primary: tuple[str, ...] = ()
    settings: dict[str, Any] = {}

    @property
    def precision(self) -> str:
        """The numbers of the passes that explain nothing; a definition names them where they are not float32."""
        return str(self.settings.get("precision", "float32"))


class Explained(Part):
    """Where the maps come from."""

    layer: str | None = None
    cam_size: tuple[int, ...] | None = None
    target: str = ""


class ModelScores(Part):
    """The confounders of every explanation score."""

    accuracy: float | None
    p0: float | None
    ece: float | None


class Column(Part):
    """One column of one metric and how to read it."""

    metric: str
    family: str
    definition: str = ""  # hash of everything that its values depend on besides checkpoint, images and explainer
    direction: Direction | None = None
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)
    title: str = ""
    citation: str = ""


class Explainer(Part):
    """A scored explainer; controls are reference rows and never compete."""

    control: bool = False
    citation: str = ""
    code: str | None = None  # SHA-256 of the file that defines it, where it is from outside


class Score(Part):
    """Mean over the images on which the value is defined."""

    mean: float | None
    se: Annotated[float, Field(ge=0)] | None = None
    n: int = Field(ge=0)
    undefined: Counts = {}
    errors: Counts = {}
    mean_correct: float | None = None
    n_correct: Annotated[int, Field(ge=0)] | None = None


class Curves(Part):
    """Mean softmax of the explained class by explainer, over equally spaced shares from 0 to 1 kept or deleted."""

    keep: dict[str, tuple[float, ...]] = Field({}, validation_alias=AliasChoices("insertion.curve", "keep"))
    deletion: dict[str, tuple[float, ...]] = Field({}, validation_alias=AliasChoices("deletion.curve", "deletion"))


class Reliability(Part):
    """Binned confidence and accuracy; an empty bin has count 0."""

    edges: tuple[float, ...] = ()
    confidence: tuple[float | None, ...] = ()
    accuracy: tuple[float | None, ...] = ()
    count: tuple[int, ...] = ()


class Spent(Part):
    """What a part of scoring took."""

    seconds: float = Field(ge=0)
    passes: int = Field(ge=0)
    peak_bytes: Annotated[int, Field(ge=0)] | None = None


class MetricCost(Part):
    """What a metric took once for all rows of the table, and for each."""

    shared: Spent | None = None
    rows: dict[str, Spent] = {}


class Cost(Part):
    """What scoring took; the parts are those of ``images`` images, fewer than all after an interruption."""

    seconds: float | None = None
    passes: int | None = None
    images: int = Field(0, ge=0)
    batch_size: int | None = None
    device: str | None = None
    memory: str | None = None
    explainers: dict[str, Spent] = {}
    metrics: dict[str, MetricCost] = {}


class Scores(Part):
    """``scores.json``, schema ``xeval.scores/1``."""

    schema_: str = Field(alias="schema")
    status: str
    checkpoint: Checkpoint
    dataset: ScoredData
    protocol: Protocol
    explained: Explained = Explained()
    model: ModelScores
    columns: dict[str, Column]
    conventions: tuple[str, ...] = ()
    explainers: dict[str, Explainer]
    scores: dict[str, dict[str, Score]]
    curves: Curves = Curves.model_validate({})
    reliability: Reliability = Reliability()
    cost: Cost = Cost.model_validate({})
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}


class Card(Part):
    """``run.json``, schema ``xeval.run/1``."""

    name: str
    recipe: dict[str, Any] = {}
    train_manifest: str | None = None
    explained_from: int | None = None
    selection: dict[str, Any] = {}
    provenance: dict[str, Any] = {}

    @property
    def unexplained(self) -> bool:
        """Whether explanations were to begin after the last epoch; said of methods that explain."""
        epochs, first = self.recipe.get("epochs"), self.explained_from
        if first is None:  # stored when the key meant the epochs without explanations
            table = self.recipe.get("excon")
            before = table.get("explain_from_epoch") if isinstance(table, dict) else None
            first = before + 1 if isinstance(before, int) else None
        return isinstance(epochs, int) and first is not None and first > epochs

    @property
    def lower_precision(self) -> str | None:
        """Numbers of the passes that trained, where the recipe names others than float32."""
        named = self.recipe.get("precision")
        return str(named) if named not in (None, "float32") else None


class Artifacts(Part):
    """``artifacts.json``: what the arrays of ``artifacts.safetensors`` mean."""

    classes: tuple[str, ...]
    tsne: dict[str, Any] = {}
    mask_keep: float | None = None
    image_ids: tuple[str, ...] = ()
    embedding: dict[str, float | None] = {}
