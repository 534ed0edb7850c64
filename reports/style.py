"""How tables are printed for a paper: one object, read from ``comparison.toml`` and from options by one function.

The styles of the venues fix the widths: a table that is set for one of them is nowhere wider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from xeval.errors import UsageError
from xeval.runtime.validation import first_mistake

POINTS = 72.27  # TeX's points in an inch


@dataclass(frozen=True)
class Page:
    """The text of a page in inches; ``column`` is the width of one of two columns, or of the only one."""

    text: float
    column: float
    height: float = 9.0

    @property
    def widths(self) -> tuple[float, ...]:
        """Return the widths that a table may have, the narrowest first."""
        return tuple(dict.fromkeys((self.column, self.text)))


#: iclr20XX_conference.sty and neurips_20XX.sty set a text of 5.5 by 9 in. cvpr.sty sets one of 6.875 by 8.875 in with
#: 5/16 in between its columns, which its instructions call 3 1/4 in wide.
PAGES = {"iclr": Page(5.5, 5.5), "neurips": Page(5.5, 5.5), "cvpr": Page(6.875, 3.25, 8.875)}
LEAST_WIDTH, GREATEST_WIDTH = 2.0, 20.0

#: How papers write what the command line calls by these names.
NAMES = {
    "ce": "CE", "triplet": "Triplet", "simclr": "SimCLR", "supcon-ori": "SupCon (original)", "supcon": "SupCon",
    "excon": "ExCon", "exconb": "ExConB",
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny ImageNet", "imagenet-s50": "ImageNet-S50",
    "grad-cam": "Grad-CAM", "grad-cam++": "Grad-CAM++", "eigen-cam": "Eigen-CAM", "score-cam": "Score-CAM",
    "layer-cam": "Layer-CAM", "lime": "LIME", "lrp": "LRP",
}  # fmt: skip


def _listed(value: Any) -> Any:
    """Split ``a,b``, as options are typed."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _paired(value: Any) -> Any:
    """Split each ``name=text``, as options are typed."""
    if not isinstance(value, tuple | list):
        return value
    pairs = [str(one).partition("=") for one in value]
    if wrong := [name for name, sign, _ in pairs if not (name and sign)]:
        raise ValueError(f"{wrong[0]!r} is no NAME=TEXT")
    return {name: text for name, _, text in pairs}


def _inches(value: Any) -> Any:
    """Return the name of a page, or a width in inches."""
    if value in PAGES:
        return value
    try:
        inches = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is neither {', '.join(PAGES)} nor a number of inches") from None
    if not LEAST_WIDTH <= inches <= GREATEST_WIDTH:
        raise ValueError(f"a table is from {LEAST_WIDTH:g} to {GREATEST_WIDTH:g} inches wide")
    return inches


Spread = Literal["sd", "se", "ci", "none"]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Style(BaseModel):
    """How tables are printed; every field is an option of ``xeval compare`` and a key of [table] in comparison.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Names = Field(
        default=(), description="columns of the headline table, such as model.accuracy,drop.mag@0.45"
    )
    methods: Names = Field(default=(), description="methods in the order of the tables; the others follow")
    label: Annotated[dict[str, str], BeforeValidator(_paired)] = Field(
        default={}, description='how .tex and .md write a method, data set, explainer or column: supcon="SupCon"'
    )
    decimals: int | None = Field(
        default=None,
        ge=0,
        le=8,
        description="decimals of every mean [default: two digits of the standard error, by column]",
    )
    percent: bool = Field(default=False, description="print shares, which lie between 0 and 1, in %")
    bold: Literal["best", "tied", "none"] = Field(
        default="tied",
        description="what is bold: the best mean; with it, where tested, all not significantly worse; nothing",
    )
    underline: Literal["second", "none"] = Field(
        default="none", description="whether the second-best mean is underlined"
    )
    spread: Spread = Field(
        default="sd",
        description="behind a mean: standard deviation or standard error over seeds, 95 % interval, nothing",
    )
    controls: Literal["all", "random", "none"] = Field(default="all", description="which control maps have a row")
    caption: str = Field(default="", description="caption of the headline table [default: written from the runs]")
    style: Literal["booktabs", "siunitx"] = Field(default="booktabs", description="how .tex aligns numbers")
    width: Annotated[float | str, BeforeValidator(_inches)] = Field(
        default="iclr", description="page that .tex is set for: iclr, neurips, cvpr (two columns), or a width in inches"
    )

    @property
    def page(self) -> Page:
        """Return the page that LaTeX tables are set for."""
        return PAGES[self.width] if isinstance(self.width, str) else Page(self.width, self.width)

    def in_percent(self, share: bool) -> bool:
        """Return whether a measure is printed in %."""
        return self.percent and share

    def shows(self, control: str) -> bool:
        """Return whether a control map has a row."""
        return self.controls == "all" or (self.controls == "random" and control == "random")

    def named(self, text: str) -> str:
        """Return text in which every name that has a label is replaced by it; names end where words end."""
        return self._names.sub(lambda found: self._labels[found[0]], text) if self._labels else text

    @cached_property
    def _labels(self) -> dict[str, str]:
        return {**NAMES, **self.label}

    @cached_property
    def _names(self) -> re.Pattern[str]:
        longest_first = sorted(self._labels, key=len, reverse=True)
        return re.compile(rf"(?<![\w.@+-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w@+-]|\.\w)")


def style_of(declared: Style, given: Style | Mapping[str, Any]) -> Style:
    """Return a declared style, changed by what was given; raises UsageError for a value that no key can have."""
    if isinstance(given, Style):
        given = {name: getattr(given, name) for name in given.model_fields_set}
    try:
        return Style(**{**{name: getattr(declared, name) for name in declared.model_fields_set}, **given})
    except ValidationError as error:
        found = first_mistake(error)
        raise UsageError(
            f"--{found.path[0]}: {found.message.removeprefix('Value error, ')}", "see: xeval table --help"
        ) from None
