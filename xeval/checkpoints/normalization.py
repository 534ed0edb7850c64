"""Settle which mean and deviation a network's images are normalised with.

A wrong choice changes every number and no shape, so it is never guessed. Runs and exported files carry the constants
that they were trained with. For other weights the data set's published constants are taken, or what the user names;
where the data set's constants are only measured on its images, the user has to name some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from xeval.errors import UsageError
from xeval.runtime.files import digest
from xeval.runtime.validation import first_mistake

if TYPE_CHECKING:
    from xeval.data import DatasetInfo

NormalizeName: TypeAlias = Literal["imagenet", "none", "dataset"]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = "normalization"
"""The key of a run's recipe that says where constants come from that are not simply the data set's."""
HOW = "give --mean and --std, or --normalize imagenet, none or dataset: what the network was trained with"
CLOSE = 1e-6  # constants are the same where only their text was read anew


def numbers(given: str | Sequence[float] | None) -> tuple[float, ...] | None:
    """Return ``"0.485,0.456,0.406"``, or numbers as they are, as floats; raise :class:`UsageError` for other text."""
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(f"{given!r} is no list of numbers", "give numbers such as 0.485,0.456,0.406") from None


Constants: TypeAlias = Annotated[tuple[float, ...] | None, BeforeValidator(numbers)]
Mean: TypeAlias = Annotated[
    Constants, Field(description="mean that images in [0, 1] are normalised with, one number or one a channel")
]
Std: TypeAlias = Annotated[Constants, Field(description="standard deviation that belongs to --mean")]
Named: TypeAlias = Annotated[
    NormalizeName | None,
    Field(description="constants by name, in place of --mean and --std; dataset: the data set's own"),
]


class Wish(BaseModel):
    """What the user says of the normalisation: constants for images in [0, 1], the name of some, or nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Mean = None
    std: Std = None
    normalize: Named = None

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Return a wish from keywords; raise :class:`UsageError` for what is not understood."""
        try:
            return cls(**given)
        except ValidationError as error:
            found = first_mistake(error)
            raise UsageError(f"--{found.key}: {found.message}", HOW) from None

    @model_validator(mode="after")
    def _require_one_way(self) -> Self:
        if self.normalize is not None and (self.mean is not None or self.std is not None):
            raise UsageError("--normalize and --mean, --std exclude each other", "give one of them")
        if (self.mean is None) != (self.std is None):
            raise UsageError("--mean and --std belong together", "give both")
        if not all(0 <= value <= 1 for value in self.mean or ()):
            raise UsageError(f"--mean {self.mean} does not belong to pixels in [0, 1]", "divide it by 255")
        if not all(0 < value <= 1 for value in self.std or ()):
            raise UsageError(f"--std {self.std} does not belong to pixels in [0, 1]", "divide it by 255")
        return self

    @property
    def given(self) -> bool:
        """Whether the user says anything."""
        return self.mean is not None or self.normalize is not None

    @property
    def source(self) -> str:
        """Where the constants come from, for people."""
        names = {"imagenet": "those of ImageNet", "none": "none: pixels as they are", "dataset": "the data set's own"}
        return names[self.normalize] if self.normalize else "as given"

    @property
    def options(self) -> str:
        """The options that say the same on the command line; empty where nothing is said."""
        if self.mean is not None and self.std is not None:
            return f" --mean {_text(self.mean)} --std {_text(self.std)}"
        return f" --normalize {self.normalize}" if self.normalize else ""

    def on(self, info: DatasetInfo) -> DatasetInfo:
        """Return a data set with these constants, its own where nothing is said; raise :class:`UsageError` if unfit."""
        if self.normalize == "imagenet":
            return _with(info, *IMAGENET)
        if self.normalize == "none":
            return _with(info, (0.0,), (1.0,))
        if self.mean is None or self.std is None:
            return info
        return _with(info, self.mean, self.std)

    def for_plain_weights(self, info: DatasetInfo, *, measured: bool) -> DatasetInfo:
        """Return a data set with the constants for weights that carry none.

        Raises:
            UsageError: nothing is said, and the data set's own constants are ``measured`` on its images.
        """
        if measured and not self.given:
            raise UsageError(
                f"the weights do not say how their images were normalised, and {info.name} has no published constants",
                HOW,
            )
        return self.on(info)

    def for_trained(self, info: DatasetInfo, trained: DatasetInfo) -> DatasetInfo:
        """Return a data set with the constants of training; raise :class:`UsageError` where others are wished for."""
        wished = self.on(info)
        if self.given and not same_constants(wished, trained):
            raise UsageError(
                f"the checkpoint was trained with mean {trained.mean} std {trained.std}, "
                f"not with mean {wished.mean} std {wished.std}",
                "leave out --mean, --std and --normalize: a run carries its own constants",
            )
        return replace(info, mean=trained.mean, std=trained.std)


def same_constants(a: DatasetInfo, b: DatasetInfo) -> bool:
    """Return whether two data sets are normalised alike."""
    pairs = zip((*a.mean, *a.std), (*b.mean, *b.std), strict=False)
    return len(a.mean) == len(b.mean) and all(abs(one - other) <= CLOSE for one, other in pairs)


def told(info: DatasetInfo, source: str) -> str:
    """Say with what images are normalised, and where that comes from."""
    return f"images are normalised with mean {_text(info.mean)} std {_text(info.std)} ({source})"


def identity(sha256: str, info: DatasetInfo) -> str:
    """Return what tells weights under these constants from the same weights under others."""
    return digest({"weights": sha256, "mean": info.mean, "std": info.std})


def _with(info: DatasetInfo, mean: tuple[float, ...], std: tuple[float, ...]) -> DatasetInfo:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, info.channels):
            raise UsageError(
                f"{len(values)} numbers of the {name} do not fit the {info.channels} channels of {info.name}",
                "give --mean and --std with one number, or one a channel",
            )
    return replace(info, mean=_each(mean, info), std=_each(std, info))


def _each(values: tuple[float, ...], info: DatasetInfo) -> tuple[float, ...]:
    return values if len(values) == info.channels else values * info.channels


def _text(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
