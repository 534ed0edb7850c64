"""``xeval doctor`` says what works in this installation, what does not, and what to do about it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from typing import Any, Literal

from xeval._version import __version__
from xeval.cli.completion import registries
from xeval.errors import ResourceError, UsageError, XevalError
from xeval.registry import PluginWarning
from xeval.runtime.files import nearest_existing
from xeval.runtime.provenance import package_version

SAFE_TORCH = (2, 10)
LITTLE = 1 << 30
PACKAGES = ("torch", "torchvision", "captum", "quantus", "numpy", "safetensors", "grad-cam", "torchcam")
OPTIONAL = ("grad-cam", "torchcam")
SYSTEM = "install libgl1 and libglib2.0-0, or: pip uninstall opencv-python, then pip install opencv-python-headless"


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``remedy`` says what to do where the state is not ok, ``status`` is the exit code."""

    about: str
    state: Literal["ok", "warning", "failed"]
    text: str
    remedy: str = ""
    status: int = 0


def examine(root: Path | None = None) -> list[Finding]:
    """Check everything; ``root`` is the folder of the data."""
    return [Finding("xeval", "ok", __version__), Finding("python", "ok", platform.python_version()), *_all(root)]


def _all(root: Path | None) -> Iterator[Finding]:
    yield from map(package, PACKAGES)
    yield safe_torch(package_version("torch") or "0")
    yield from _devices()
    yield opencv(packages_distributions().get("cv2", []))
    yield from _disks(root)
    yield from _data(root)
    yield from _plugins()


def package(name: str) -> Finding:
    """Check whether a distribution is installed, without importing it."""
    found = package_version(name)
    if found is not None:
        return Finding(name, "ok", found)
    if name in OPTIONAL:
        return Finding(
            name, "warning", "not installed", "xeval verify needs it: pip install xeval-explanations[verify]"
        )
    return Finding(name, "failed", "not installed", f"pip install {name}", 2)


def safe_torch(found: str) -> Finding:
    """Check whether this version of torch opens weight files safely."""
    if tuple(int(part) for part in found.split("+", maxsplit=1)[0].split(".")[:2]) >= SAFE_TORCH:
        return Finding("weight files", "ok", f"torch {found} is not affected by CVE-2025-32434 and CVE-2026-24747")
    return Finding(
        "weight files",
        "failed",
        f"torch {found} is open to CVE-2026-24747: a hostile .pt file can corrupt memory",
        "pip install 'torch>=2.10', and open no foreign weight files before",
        2,
    )


def _devices() -> Iterator[Finding]:
    import torch

    from xeval.engine import pick_device

    device = pick_device()
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield Finding("device", "ok", f"{device}" + (f" ({', '.join(names)})" if names else ""))
    yield Finding("threads", "ok", str(torch.get_num_threads()))


def opencv(owners: Sequence[str]) -> Finding:
    """Check whether cv2 loads, in a child process because it may crash, and whether only one distribution owns it."""
    if not owners:
        return Finding("opencv", "warning", "not installed", "Quantus needs it: pip install opencv-python-headless")
    run = subprocess.run(
        [sys.executable, "-c", "import cv2; print(cv2.__version__)"], capture_output=True, text=True, check=False
    )
    names = " and ".join(sorted(set(owners)))
    if run.returncode:
        problem = (run.stderr.strip().splitlines() or ["it crashed"])[-1]
        return Finding("opencv", "failed", f"cv2 of {names} does not load ({problem})", SYSTEM, 2)
    if len(set(owners)) > 1:
        return Finding(
            "opencv",
            "warning",
            f"cv2 {run.stdout.strip()} loads, but {names} own the same package",
            "keep one: removing either breaks the other until it is installed again",
        )
    return Finding("opencv", "ok", f"cv2 {run.stdout.strip()} of {names}")


def _disks(root: Path | None) -> Iterator[Finding]:
    from xeval.data.sources import data_root

    yield disk("disk of the data", data_root(root))
    yield disk("disk of this folder", Path.cwd())


def disk(about: str, folder: Path) -> Finding:
    """Check the free space where a folder is, or will be."""
    free = shutil.disk_usage(nearest_existing(folder)).free
    text = f"{free / (1 << 30):.1f} GiB free ({folder})"
    return Finding(about, "ok", text) if free >= LITTLE else Finding(about, "failed", text, "make room", 5)


def _data(root: Path | None) -> Iterator[Finding]:
    from xeval.data.manage import listing

    for row in listing(root):
        yield Finding(f"data {row['name']}", "ok", row["state"])


def _plugins() -> Iterator[Finding]:
    """Yield every plug-in that is installed, and for one that does not load, the error."""
    for registry in registries():
        with warnings.catch_warnings(action="ignore", category=PluginWarning):
            list(registry)
        for point in entry_points(group=f"xeval.{registry.kind}s"):
            package = point.dist.name if point.dist is not None else ""
            broken = registry.broken.get(point.name)
            text = f"{registry.kind} of {package}" + (f" does not load ({broken.error})" if broken else "")
            state: Literal["ok", "warning"] = "warning" if broken else "ok"
            yield Finding(f"plug-in {point.name}", state, text, f"mend or uninstall {package}" if broken else "")


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return one line for each finding."""
    marks = {"ok": " ", "warning": "!", "failed": "✗"}
    return [
        f"{marks[one.state]} {one.about:<22} {one.text}" + (f" — {one.remedy}" if one.remedy else "")
        for one in findings
    ]


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as JSON objects."""
    return [asdict(one) for one in findings]


def require_sound(findings: Sequence[Finding]) -> None:
    """Raise ResourceError or UsageError, as it fits, for the first finding that failed."""
    for one in findings:
        if one.state == "failed":
            kind: type[XevalError] = ResourceError if one.status == ResourceError.exit_code else UsageError
            raise kind(f"{one.about}: {one.text}", one.remedy)
