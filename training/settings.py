"""Defines the settings of a run: the tables of a recipe with their defaults, limits and meanings."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PRETRAINED = "pretrained"
TrainingPrecision: TypeAlias = Literal["float32", "tf32", "bfloat16"]
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Rate = Annotated[float, Field(le=1e30)]  # larger values overflow float32 in products


class Settings(BaseModel):
    """A table of a recipe; it has no unknown keys, no infinities, and does not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Views(Settings):
    """The random views, drawn for each image by itself; everything is off until a recipe turns it on."""

    crop: Range | None = Field(
        default=None, description="random resized crop: range of the area kept, such as [0.2, 1.0]"
    )
    ratio: Range = Field(default=(3 / 4, 4 / 3), description="range of the aspect ratio of the random resized crop")
    pad: int = Field(default=0, ge=0, description="pad by this many black pixels, then crop at random")
    rotate: float = Field(default=0, ge=0, le=180, description="rotation, uniform within ± this many degrees")
    scale: Range = Field(default=(1, 1), description="range of the magnification")
    shift: Share = Field(default=0, description="translation, uniform within ± this share of the side")
    flip: Share = Field(default=0, description="probability of a horizontal flip")
    jitter: tuple[Share, Share, Share, Annotated[float, Field(ge=0, le=0.5)]] = Field(
        default=(0, 0, 0, 0), description="strength of the colour jitter: brightness, contrast, saturation, hue"
    )
    jitter_p: Share = Field(default=1, description="probability of the colour jitter")
    grey: Share = Field(default=0, description="probability of losing the colours")
    blur: int = Field(default=0, ge=0, description="side of the Gaussian blur's kernel in pixels, odd; 0 = no blur")
    blur_p: Share = Field(default=0.5, description="probability of the blur")

    @field_validator("crop", "ratio", "scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("must be a range from small to large")
        return value

    @field_validator("crop")
    @classmethod
    def _share(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[1] > 1:
            raise ValueError("must be shares of the area, at most 1")
        return value

    @field_validator("blur")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value and value % 2 == 0:
            raise ValueError("must be 0 or odd")
        return value


class Optimizer(Settings):
    """A table that chooses an optimiser and its learning-rate schedule."""

    name: Literal["sgd", "adamw", "radam"] = "sgd"
    lr: Rate = Field(default=0.1, gt=0, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    weight_decay: Rate = Field(default=1e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    final_factor: Share = Field(default=1e-3, description="the cosine ends at lr × this")
    cosine_from: Literal["start", "warm-up"] = Field(
        default="start",
        description="the cosine falls over all epochs (as SupContrast), or from lr over those after the warm-up "
        "(as LinearLR followed by CosineAnnealingLR of torch)",
    )
    milestones: tuple[int, ...] = Field(
        default=(), description="epochs after which the step schedule multiplies by gamma"
    )
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup_epochs: int = Field(default=0, ge=0, description="linear warm-up, updated every step")
    warmup_from: Rate = Field(default=0.01, ge=0, description="learning rate at the start of the warm-up")


class Head(Settings):
    """The linear classifier, and how it is trained where the method does not train it with the encoder."""

    fit: Literal["epochs", "lbfgs", "full-batch"] = Field(
        default="epochs",
        description="after the encoder: SGD epochs on views, L-BFGS to convergence, or full-batch SGD steps",
    )
    epochs: int | None = Field(
        default=None, ge=1, description="head epochs after the encoder's; default: as many as those"
    )
    steps: int = Field(default=100, ge=1, description="of the full-batch fit")
    normalize: bool = Field(
        default=False, description="the head sees features of unit length, in training and in scoring"
    )
    optimizer: Optimizer = Optimizer()
    views: Views = Views()


class Projection(Settings):
    """The two-layer perceptron between the features and the contrastive loss; it is dropped after training."""

    hidden: int | None = Field(default=None, ge=1, description="default: as wide as the features")
    dim: int = Field(default=128, ge=1)


class Loss(Settings):
    """A table that sets the constants of the encoder's loss."""

    temperature: float = Field(default=0.1, gt=0)
    base_temperature: float | None = Field(
        default=None, gt=0, description="scales the loss by temperature / this; default: no scaling"
    )
    margin: float = Field(default=0.3, gt=0, description="of the triplet loss")
    miner: Literal["closest", "all"] = Field(
        default="closest",
        description="of the triplet loss: the closest semi-hard negative of every pair (or the closest of all), or all "
        "semi-hard triplets of the batch (batch-hard ones only where the batch has none)",
    )


class ExCon(Settings):
    """The settings by which the explanation becomes a view (methods excon and exconb)."""

    explainer: str = Field(default="grad-cam", description="any registered explainer")
    layer: str | None = Field(
        default=None,
        description="explained layer by its name, or excon-2022: the one that the protocol of that name explains; "
        "default: the last convolutional stage",
    )
    cutoff: Share = Field(default=0.5, description="pixels whose min-max scaled map value is at most this are masked")
    target: Literal["label", "predicted"] = Field(default="label", description="the explained class")
    explain_from_epoch: int | None = Field(
        default=None,
        ge=0,
        description="first epoch with explanations, counted from 1 (0 is the same as 1); default: by supcon_share",
    )
    supcon_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="share of the epochs, rounded, that are trained as supcon before explanations join"
    )
    allow_unexplained: bool = Field(
        default=False, description="accept a first epoch with explanations after the last epoch: a run of supcon"
    )
    explain_bn: Literal["eval", "train"] = Field(
        default="eval", description="train: as published, BatchNorm uses and updates its statistics while explaining"
    )
    background_copies: Literal[1, 2] = Field(
        default=2,
        description="exconb: a background image is forwarded twice, as published, or once with weight 2 (BatchNorm "
        "sees it once)",
    )


class Recipe(Settings):
    """All settings that define one training run, except its seed."""

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    method: str
    dataset: str
    image_size: Annotated[int, Field(ge=4)] | tuple[int, int] | None = Field(
        default=None, description="side in pixels, or [height, width]; default: the data set's own"
    )
    arch: str = Field(
        max_length=1000,
        description="network: a name of `xeval list models`, timm:NAME, torchvision:NAME, hf:FOLDER or "
        "pkg.module:function",
    )
    init: str | None = Field(
        default=None,
        min_length=1,
        description="weights that the encoder begins with: pretrained (those published for arch), or a run or weight "
        "file; default: drawn from the seed. The head is always drawn",
    )
    normalization: Literal["network"] | None = Field(
        default=None,
        description="network: constants, and where image_size is not given the size, of the network's own "
        "configuration, as init = pretrained takes them; default: the data set's",
    )
    precision: TrainingPrecision | None = Field(
        default=None,
        description="numbers of the passes that train: float32, tf32 (CUDA only) or bfloat16; losses, BatchNorm's "
        "statistics, ExCon's maps and the validation stay float32. Default: float32 with the convolutions of PyTorch's "
        "default, which on CUDA are tf32",
    )
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    heldout: float = Field(
        default=0.2, ge=0, lt=1, description="share of train kept for validation; none with select_on = test"
    )
    select_on: Literal["heldout", "test", "loss", "last"] = Field(
        default="heldout",
        description="best epoch by held-out accuracy, test accuracy (as published), training loss, or none",
    )
    optimizer: Optimizer = Optimizer()
    head: Head = Head()
    projection: Projection = Projection()
    loss: Loss = Loss()
    views: Views = Views()
    excon: ExCon = ExCon()

    @property
    def explained_from(self) -> int:
        """First epoch, counted from 1, with explanations in the methods that explain."""
        if self.excon.explain_from_epoch is not None:
            return max(self.excon.explain_from_epoch, 1)
        return min(math.floor(self.excon.supcon_share * self.epochs + 0.5), self.epochs - 1) + 1

    @model_validator(mode="after")
    def _selectable(self) -> Recipe:
        if self.select_on == "heldout" and not self.heldout:
            raise ValueError("select_on = 'heldout' needs heldout > 0")
        return self
