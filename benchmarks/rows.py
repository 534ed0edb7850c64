"""Defines the results of a benchmark: rows with a claim, a target and a measurement, printed as one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from xeval.runtime.provenance import package_version

PACKAGES = ("torch", "numpy", "quantus", "captum", "grad-cam", "torchcam", "xeval-explanations")


class DisagreementError(Exception):
    """An error that is raised where two sides that should give the same numbers do not, so that nothing is timed."""


@dataclass(frozen=True)
class Target:
    """The claim on a row's value: it is at least, or at most, ``bound``."""

    kind: Literal["at least", "at most"]
    bound: float

    def met(self, value: float) -> bool:
        """Return whether the value keeps the claim."""
        return value >= self.bound if self.kind == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'at least' else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Claim:
    """One measured claim: ``value`` is a median and ``spread`` the smallest and the largest of the measurements.

    ``passes`` are forward passes of single images; ``checked`` says what was compared before anything was timed;
    ``note`` says what the number depends on and, where the target is missed, where the time goes.
    """

    claim: str
    unit: str
    value: float
    spread: tuple[float, float]
    target: Target | None = None
    passes: Mapping[str, int] = field(default_factory=dict)
    checked: str = ""
    note: str = ""
    measurements: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain objects for JSON; ``met`` is null where nothing is claimed."""
        met = None if self.target is None else self.target.met(self.value)
        return {**asdict(self), "target": None if self.target is None else str(self.target), "met": met}


def row_of(claim: str, unit: str, values: Iterable[float], target: Target | None = None, **about: Any) -> Claim:
    """Make a row from repeated measurements of one number."""
    found = list(values)
    return Claim(claim, unit, median(found), (min(found), max(found)), target, **about)


@dataclass(frozen=True)
class Options:
    """The options of a benchmark; None stands for the benchmark's own size for this device."""

    device: str = "auto"
    quick: bool = False
    arch: tuple[str, ...] | None = None
    images: int | None = None
    rounds: int | None = None
    batch_size: int | None = None
    compile: bool = False
    threads: int | None = None
    explainers: int = 1
    captum: bool = False

    def pick(self, name: Literal["images", "rounds"], usual: int, quick: int) -> int:
        """Return the requested number, else the quick or the usual one."""
        asked: int | None = getattr(self, name)
        return asked if asked is not None else quick if self.quick else usual

    def networks(self, usual: Iterable[str], quick: Iterable[str] = ("cnn-tiny",)) -> tuple[str, ...]:
        """Return the requested architectures, else the quick or the usual ones."""
        return self.arch or tuple(quick if self.quick else usual)


Measure = Callable[[Options], Iterable[Claim]]


def parse(about: str, arguments: list[str]) -> Options:
    """Parse the options of a command line, which are the same for every benchmark."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="torch device (default: the accelerator if there is one)")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: shows that it runs, measures nothing")
    parser.add_argument("--arch", type=lambda text: tuple(text.split(",")), help="architectures, separated by commas")
    parser.add_argument("--images", type=int, help="images of a measurement")
    parser.add_argument("--rounds", type=int, help="measurements of each side")
    parser.add_argument("--batch-size", type=int, help="images a forward pass of xeval (default: found by probing)")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: its own choice)")
    parser.add_argument("--compile", choices=("on", "off"), default="off", help="xeval's side with torch.compile")
    parser.add_argument("--explainers", type=int, default=1, help="of the suite: 1, or 6 with controls")
    parser.add_argument("--captum", action="store_true", help="of the suite: captum's infidelity, not Quantus's")
    given = vars(parser.parse_args(arguments))
    return Options(**{**given, "compile": given["compile"] == "on"})


def machine() -> dict[str, Any]:
    """Describe the machine: system, processor, threads, versions, but nothing that identifies it."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: number for name in PACKAGES if (number := package_version(name))},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """Return the processor's name where the system gives it."""
    table = Path("/proc/cpuinfo")
    names = [line for line in table.read_text().splitlines() if "model name" in line] if table.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def result(name: str, rows: Iterable[Claim], arguments: Iterable[str] = ()) -> dict[str, Any]:
    """Return the result of one run of a benchmark."""
    found = [row.as_dict() for row in rows]
    return {"benchmark": name, "arguments": list(arguments), "machine": machine(), "rows": found}


def main(name: str, about: str | None, measure: Measure, arguments: list[str] | None = None) -> None:
    """Measure and print one line of JSON; exit with an error where the two sides do not agree."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(about or name, given)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        rows = [replace(row, target=None) if options.quick else row for row in measure(options)]
        print(json.dumps(result(name, rows, given), ensure_ascii=False, allow_nan=False))
    except DisagreementError as error:
        raise SystemExit(f"{name}: {error}") from None
