"""Defines the options of scoring and their defaults, once for the Python API, the command line and the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from xeval.checkpoints.facts import one_line
from xeval.checkpoints.folder import Weights
from xeval.checkpoints.normalization import Mean, Named, Std, Wish
from xeval.errors import UsageError
from xeval.perturb.thresholds import Mask, require_thresholds
from xeval.runtime.precisions import Precision
from xeval.runtime.validation import GREATEST_SEED, LEAST_SEED, first_mistake

Target: TypeAlias = Literal["pred", "label"]
EngineName: TypeAlias = Literal["native", "quantus"]
Switch: TypeAlias = Literal["on", "off"]


class ScoreOptions(BaseModel):
    """Every option of ``xeval score``; None stands for what the checkpoint or the protocol says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str | None = Field(None, description="data set to score on [default: the checkpoint's own]")
    data: Path | None = Field(None, description="folder of the data [default: $XEVAL_DATA, else the user cache]")
    split: str = Field("test", description="split to score on")
    size: int | tuple[int, int] | None = Field(
        None,
        description="size of the images in pixels: a side, or HEIGHTxWIDTH [default: as in training, or their own]",
    )
    mean: Mean = None
    std: Std = None
    normalize: Named = None
    normalize_from_ckpt: bool = Field(
        False, description="normalise with the constants of training where the data set has others"
    )
    name: str | None = Field(None, description="what tables call the checkpoint [default: its own name]")
    method: str | None = Field(
        None,
        description="row of the tables that it belongs to, such as its training method [default: its own]",
    )
    training_seed: int | None = Field(
        None,
        ge=LEAST_SEED,
        le=GREATEST_SEED,
        description="seed of its training: the seeds of a method are its repetitions",
    )
    protocol: str = Field("xeval", description="named set of definitions (xeval list protocols)")
    explainers: tuple[str, ...] | None = Field(
        None, description="explainers and controls, separated by commas [default: grad-cam and all controls]"
    )
    metrics: tuple[str, ...] | None = Field(None, description="metrics, separated by commas [default: the protocol's]")
    thresholds: tuple[float, ...] | None = Field(
        None, description="fractions of pixels kept by drop/increase [default: 0.15,0.3,0.45]"
    )
    engine: EngineName = Field("native", description="compute here, or five metrics through Quantus itself")
    arch: str | None = Field(
        None,
        description="network, where the file does not say it or what it says opens files or runs code: a name of xeval "
        "list models, timm:NAME, torchvision:NAME, hf:FOLDER or pkg.module:function [default: the one whose shapes "
        "fit]",
    )
    output: str = Field(
        "logits",
        description="how the answer of a network of your own code is read, KIND, KEY or KEY:KIND: kinds are logits and "
        "probabilities, the key is the part that holds them",
    )
    weights: Weights = Field("best", description="which weights of a run directory")
    layer: str | None = Field(
        None, description="explained layer [default: the last one whose positions the score reads]"
    )
    target: Target | None = Field(None, description="explained class: predicted or labelled [default: pred]")
    fill: str | None = Field(
        None, description="what removed pixels become: mean, black, blur, noise or road [default: mean]"
    )
    mask: Mask | None = Field(None, description="what drop/increase keep [default: topk]")
    control_draws: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="draws of each random control that are averaged: fewer are faster and less certain [default: 5]",
    )
    limit: int | None = Field(None, ge=1, description="score a seeded stratified sample of so many images")
    seed: int = Field(0, ge=LEAST_SEED, le=GREATEST_SEED, description="seed of the sample and of every draw")
    batch_size: int | None = Field(None, ge=1, description="images a forward pass [default: found by probing]")
    device: str = Field("auto", description="torch device, such as cpu or cuda:1")
    precision: Precision | None = Field(
        None,
        description="numbers of the passes that explain nothing: float32, tf32, float16 or bfloat16; part of what a "
        "score is, and its effect is measured [default: float32]",
    )
    compile: Switch = Field("off", description="compile the network for the batch size (TorchInductor); scores to 1e-5")
    out: Path | None = Field(None, description="folder of the scores [default: beside the checkpoint]")
    save_maps: bool = Field(False, description="also keep every map on its native grid")
    allow_partial: bool = Field(False, description="leave out unreadable images, accept gaps in the numbers (exit 7)")
    rehash: bool = Field(False, description="hash every image again, whatever earlier commands have kept of them")
    recompute: bool = Field(False, description="score everything again; old scores are kept under another name")

    @field_validator("size", mode="before")
    @classmethod
    def _pixels(cls, value: Any) -> Any:
        from xeval.data.base import read_size  # with numpy, which a command's help does without

        return read_size(value) if isinstance(value, str) else value

    @field_validator("name", "method")
    @classmethod
    def _called(cls, value: str | None, about: ValidationInfo) -> str | None:
        return None if value is None else one_line(f"--{about.field_name}", value)

    @field_validator("thresholds")
    @classmethod
    def _fractions(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if values is None else require_thresholds(values)

    @property
    def normalization(self) -> Wish:
        """What is said of the constants that images are normalised with."""
        return Wish(mean=self.mean, std=self.std, normalize=self.normalize)

    @model_validator(mode="after")
    def _require_one_normalization(self) -> Self:
        if self.normalization.given and self.normalize_from_ckpt:
            raise UsageError(
                "--normalize-from-ckpt names the constants already", "leave out --mean, --std, --normalize"
            )
        return self


def names(text: str) -> tuple[str, ...]:
    """Split ``a,b`` into ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def validated(**given: Any) -> ScoreOptions:
    """Return options from keywords; raise :class:`UsageError` naming the option that is wrong."""
    try:
        return ScoreOptions(**given)
    except ValidationError as error:
        found = first_mistake(error)
        option = found.path[0].replace("_", "-")
        raise UsageError(f"--{option}: {found.message}", "see: xeval score --help") from None
