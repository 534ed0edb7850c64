"""Protocols: named, versioned, immutable sets of definitions.

A protocol fixes everything that changes a number: explainers, controls, metrics and their settings, target rule, fill
and seed. Changing a field renames the protocol (``xeval+fill=blur``), and its hash goes into every row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xeval.errors import UsageError
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.explainers.base import Explainer
from xeval.metrics import METRICS, Metric
from xeval.metrics.metric import Family
from xeval.perturb.fills import FILLS
from xeval.registry import Registry
from xeval.runtime.files import digest
from xeval.runtime.precisions import Precision
from xeval.runtime.validation import first_mistake
from xeval.scoring.options import Target

GENERAL = ("target", "fill", "layer", "layer_rule", "map", "softmax", "order", "seed")
LATER = ("svd", "inverse", "precision", "control_draws")
"""Fields that came after rows had been stored: they enter a definition only where they differ from their default."""

SWITCHED = {
    ("map", "pytorch-grad-cam"): "maps as pytorch-grad-cam returns them: ReLU and (A − min)/(1e-7 + max(A − min)) on "
    "the layer's grid, enlarged bilinearly, and scaled in this way once more; drawn controls only where they are "
    "enlarged",
    ("svd", "numpy"): "eigen-cam takes numpy's singular value decomposition; the sign of its maps, and so what the "
    "ReLU leaves of them, depends on the linear algebra library behind it",
    ("precision", "tf32"): "passes that explain nothing in tf32: factors of float32 products with 10 bits of fraction",
    ("precision", "float16"): "passes that explain nothing in float16; maps, softmax and statistics are not",
    ("precision", "bfloat16"): "passes that explain nothing in bfloat16; maps, softmax and statistics are not",
    ("inverse", "complement"): "the control inverse is (max A − A)/(1e-7 + max A − min A) of the map A as it is scored",
}
"""What is printed for a switch of a protocol, (field, value) → sentence."""

OF_NUMPY = {"eigen-cam": "eigen-cam-numpy"}
PRIMARY = ("drop.mag@0.45", "infidelity.skill", "deletion.gain")


class Protocol(BaseModel):
    """One set of definitions; ``settings`` overrides the metrics' own defaults, metric by metric.

    ``subset`` and ``primary`` are for comparisons: which images count, and which columns are declared before looking.
    ``about`` and ``primary`` change no number and are not hashed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the name on the command line")
    about: str = Field(default="", description="what it is for")
    version: int = Field(default=1, description="raised when a definition changes")
    explainers: tuple[str, ...] = Field(default=("grad-cam",), description="explainers that are scored")
    controls: tuple[str, ...] = Field(default=tuple(CONTROLS), description="controls beside them")
    metrics: tuple[str, ...] = Field(description="metrics that are computed")
    target: Target = Field(
        default="pred", description="explained class: pred, predicted on the clean image; label, the true one"
    )
    fill: str = Field(default="mean", description="what removed pixels become")
    layer: str | None = Field(default=None, description="explained layer; none: found by the layer rule")
    layer_rule: Literal["last-stage", "excon-2022"] = Field(
        default="last-stage",
        description="last-stage: the last convolutional stage; excon-2022: the convolution the ExCon paper explains",
    )
    map: Literal["signed", "relu-minmax", "pytorch-grad-cam"] = Field(
        default="signed",
        description="maps are scored as they are, as the min-max of their ReLU, or as pytorch-grad-cam returns them: "
        "ReLU, (A − min)/(1e-7 + max(A − min)) on their own grid, enlarged, and scaled in this way once more",
    )
    svd: Literal["torch", "numpy"] = Field(
        default="torch",
        description="decomposition that the explainer eigen-cam takes; its sign, and so what a ReLU leaves of the map, "
        "depends on it; numpy: as pytorch-grad-cam, computed by eigen-cam-numpy",
    )
    inverse: Literal["negated", "complement"] = Field(
        default="negated",
        description="the map of the control inverse; negated: −A, of which a ReLU leaves nothing where maps lie in "
        "[0, 1]; complement: (max A − A)/(1e-7 + max A − min A), undefined where A is empty",
    )
    softmax: Literal["float64", "float32"] = Field(
        default="float64", description="float32, as published code, lets the probabilities of saturated networks tie"
    )
    precision: Precision = Field(
        default="float32",
        description="numbers of the passes that explain nothing; below float32 a change of the probability counts as "
        "a tie up to the 99th percentile of what the precision itself changes",
    )
    control_draws: int | None = Field(
        default=None, ge=1, description="draws of each random control that are averaged; none: those it is defined with"
    )
    order: Literal["seeded", "argsort"] = Field(
        default="seeded", description="order of equal map values: by the seed, or as numpy's unstable argsort leaves it"
    )
    seed: int = Field(default=0, description="seed of every random draw")
    subset: Literal["all", "correct-under-all"] = Field(
        default="all",
        description="images that a comparison counts: all, or those that every checkpoint classifies correctly",
    )
    primary: tuple[str, ...] = Field(
        default=PRIMARY, description="columns of a comparison's verdict, declared before looking"
    )
    settings: dict[str, dict[str, Any]] = Field(
        default={}, description="settings of metrics that differ from their defaults"
    )

    def metric_settings(self, name: str) -> Any:
        """Return the validated settings of one metric; raise :class:`UsageError` naming the key that is wrong."""
        metric = METRICS[name]
        try:
            return metric.settings(**self.settings.get(name, {}))
        except ValidationError as error:
            found = first_mistake(error)
            key = ".".join([name, *found.path])
            raise UsageError(f"{key}: {found.message}", "see: xeval list metrics") from None

    def explainer(self, name: str) -> Explainer:
        """Return the explainer that computes the row ``name``."""
        return EXPLAINERS[OF_NUMPY.get(name, name) if self.svd == "numpy" else name]

    def draws(self, name: str) -> int:
        """Return how many draws of a control are averaged."""
        own = CONTROLS[name].draws
        return own if own == 1 or self.control_draws is None else self.control_draws

    def general(self) -> dict[str, Any]:
        """Return the fields that change numbers of every metric."""
        fields = type(self).model_fields
        switched = [name for name in LATER if getattr(self, name) != fields[name].default]
        return {name: getattr(self, name) for name in (*GENERAL, *switched)}

    def definition(self) -> dict[str, Any]:
        """Return everything that changes a number, with all defaults spelled out.

        Of maps that were made elsewhere it has the units alone: the maps belong to one checkpoint, and compared runs
        share the rest. Their rows know them (:meth:`~xeval.scoring.plan.Plan.cells`).
        """
        made = {name: EXPLAINERS[name].units for name in self.explainers if EXPLAINERS[name].maps is not None}
        return {
            "explainers": list(self.explainers),
            "controls": list(self.controls),
            "metrics": {name: self.metric_definition(name) for name in self.metrics},
            **self.general(),
            "subset": self.subset,
            **self.code(*(name for name in self.explainers if name not in made), *self.controls),
            **({"made elsewhere": made} if made else {}),
        }

    def code(self, *rows: str) -> dict[str, Any]:
        """Return the hashes of the code of rows and of the fill as far as it is from outside; empty for our own."""
        found = {**EXPLAINERS.code(*rows), **CONTROLS.code(*rows), **FILLS.code(self.fill)}
        return {"code": found} if found else {}

    def metric_definition(self, name: str) -> dict[str, Any]:
        """Return the version and settings of one metric."""
        code = METRICS.code(name)
        own = {"code": code[name]} if code else {}
        return {"version": METRICS[name].version, **self.metric_settings(name).definition(), **own}

    def hash(self) -> str:
        """Return the SHA-256 of the definition."""
        return digest(self.definition())

    def conventions(self) -> list[str]:
        """Return the sentences that are printed with a table."""
        rule = "predicted class on the clean image" if self.target == "pred" else "true class"
        lines = [
            f"protocol {self.name}, version {self.version}; explained class: {rule}; fill {self.fill}; "
            f"seed {self.seed}; {self.map} map; {self.softmax} softmax; {self.order} order of ties"
        ]
        if self.subset == "correct-under-all":
            lines.append("comparisons count the images that every compared checkpoint classifies correctly")
        lines += [sentence for (field, value), sentence in SWITCHED.items() if getattr(self, field) == value]
        return lines + [METRICS[name].convention(self.metric_settings(name)) for name in self.metrics]


PROTOCOLS: Registry[Protocol] = Registry("protocol")


def protocol(define: Callable[[], Protocol]) -> Callable[[], Protocol]:
    """Register the protocol that a function returns, under the protocol's own name."""
    defined = define()
    PROTOCOLS.add(defined.name, defined, define)
    return define


def default_metrics() -> tuple[str, ...]:
    """Return every registered metric that belongs to the default protocol, ordered by family."""
    families = get_args(Family)
    ordered = sorted(METRICS.items(), key=lambda item: families.index(item[1].family))
    return tuple(name for name, metric in ordered if metric.default)


@protocol
def default() -> Protocol:
    """What is scored where no protocol is named."""
    return Protocol(name="xeval", about="the default of xeval score", metrics=default_metrics())


@protocol
def excon_2022() -> Protocol:
    """The ExCon paper."""
    return Protocol(
        name="excon-2022",
        about="what the ExCon paper reports, computed as its code does: float32 softmax, numpy's order of ties",
        metrics=("drop", "infidelity"),
        layer_rule="excon-2022",
        primary=("drop.mag@0.15", "drop.mag@0.3", "drop.mag@0.45"),
        softmax="float32",
        order="argsort",
        settings={
            "drop": {"tie": 0.0},
            "infidelity": {"perturbation": "noisy_baseline", "sigma": 0.2, "n": 1000},
        },
    )


def _clxai(name: str, semantics: str) -> Protocol:
    return Protocol(
        name=name,
        version=2,
        about="what the 2026 paper on contrastive learning and explanations reports, computed as its code does, "
        f"with pixel flipping as Quantus {semantics} defines it",
        explainers=("grad-cam", "eigen-cam"),
        metrics=("pixelflip", "complexity", "ssim", "contrast", "pointing", "relevance"),
        map="pytorch-grad-cam",
        svd="numpy",
        inverse="complement",
        subset="correct-under-all",
        primary=("pixelflip.auc", "complexity.gini", "ssim.value", "contrast.other"),
        settings={
            "pixelflip": {"semantics": semantics, "step": 32, "legacy_order": True},
            "ssim": {"legacy_clip_normalised": True},
            "contrast": {"legacy_empty_other": True},
        },
    )


@protocol
def clxai_2026() -> Protocol:
    """The paper of 2026, with pixel flipping as Quantus 0.5 has it."""
    return _clxai("clxai-2026", "0.5")


@protocol
def clxai_2026_quantus_06() -> Protocol:
    """The same as Quantus 0.6 computes it: which of the two made the published table is unknown."""
    return _clxai("clxai-2026-quantus-0.6", "0.6")


def resolve(name: str, **changes: Any) -> Protocol:
    """Return the protocol ``name`` with ``changes`` (None = unchanged); its name says what was changed.

    ``thresholds`` and ``mask`` are short for settings of the metric ``drop``. Unknown names raise :class:`UsageError`.
    """
    base = PROTOCOLS[name]
    drop = {key: changes.pop(key, None) for key in ("thresholds", "mask")}
    if changes.get("control_draws") is not None:
        changes["control_draws"] = _changed_draws(base, changes["control_draws"])
    if changes.get("metrics") is not None:
        changes["metrics"] = expand(changes["metrics"])
    update = {key: value for key, value in changes.items() if value is not None and value != getattr(base, key)}
    changed = [_change(key, value) for key, value in update.items()]
    of_drop = {
        key: value
        for key, value in drop.items()
        if value is not None and value != getattr(base.metric_settings("drop"), key)
    }
    if of_drop:
        update["settings"] = {**base.settings, "drop": {**base.settings.get("drop", {}), **of_drop}}
        update["primary"] = _still_there(base.primary, base.model_copy(update=update))
        changed += [_change(key, value) for key, value in of_drop.items()]
    protocol = base.model_copy(update=update)
    _require_names(protocol)
    return protocol.model_copy(update={"name": "+".join([base.name, *changed])})


def _changed_draws(base: Protocol, wanted: int) -> int | None:
    """Return the number of draws, None where it is that of every random control anyway."""
    return None if all(base.draws(name) in (1, wanted) for name in CONTROLS) else wanted


def expand(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of metrics, with the names of groups (``sanity``) replaced by their members."""
    if any(name.startswith("quantus:") for name in names):
        from xeval.quantus_bridge import bridge  # registers the metrics of Quantus, and knows the refused ones

        bridge.require_accepted(names)
    groups: dict[str, list[str]] = {}
    for name, metric in METRICS.items():
        if metric.group is not None:
            groups.setdefault(metric.group, []).append(name)
    return tuple(dict.fromkeys(member for name in names for member in groups.get(name, [name])))


def _still_there(primary: tuple[str, ...], protocol: Protocol) -> tuple[str, ...]:
    """Return the declared columns; a drop column that other settings have renamed becomes the last drop column."""
    names = [column.name for column in METRICS["drop"].columns(protocol.metric_settings("drop"))]
    last = [name for name in names if name.startswith("drop.mag@")][-1:]
    kept = (name if not name.startswith("drop.mag@") or name in names else "".join(last) for name in primary)
    return tuple(dict.fromkeys(name for name in kept if name))


def _change(key: str, value: Any) -> str:
    if isinstance(value, tuple):
        value = ",".join(f"{part:g}" if isinstance(part, float) else part for part in value)
    return f"{key}={value}"


def _require_names(protocol: Protocol) -> None:
    for name in protocol.explainers:
        if name not in EXPLAINERS:
            raise EXPLAINERS.absent(name, [*EXPLAINERS, *CONTROLS])
    for name in protocol.controls:
        CONTROLS[name]
    for name in protocol.metrics:
        protocol.metric_settings(name)
    FILLS[protocol.fill]


def metric_list(protocol: Protocol) -> list[tuple[Metric, Any]]:
    """Return the protocol's metrics with their settings."""
    return [(METRICS[name], protocol.metric_settings(name)) for name in protocol.metrics]
