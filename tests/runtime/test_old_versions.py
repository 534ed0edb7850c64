"""The names that only newer versions of torch and numpy have are not needed: here they are hidden."""

from __future__ import annotations

import re
import tomllib

import numpy as np
import pytest
import torch

from tests.commands import ROOT
from xeval.quantus_bridge.arguments import curve_area
from xeval.quantus_bridge.runtime import old_numpy
from xeval.runtime.memory import is_device_failure

NEWER = {"np.trapezoid", "numpy.trapezoid", "torch.AcceleratorError"}


def test_a_lost_device_is_known_without_a_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "AcceleratorError", raising=False)
    assert is_device_failure(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_device_failure(RuntimeError("a defect"))
    assert not is_device_failure(ValueError("CUDA error"))


def test_a_lost_device_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class AcceleratorError(RuntimeError):
        pass

    monkeypatch.setattr(torch, "AcceleratorError", AcceleratorError, raising=False)
    assert is_device_failure(AcceleratorError("whatever it says"))


@pytest.mark.parametrize("names", [("trapezoid",), ("trapezoid", "trapz"), ("trapz",)])
def test_areas_need_neither_name_of_numpy(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        monkeypatch.delattr(np, name, raising=False)
    found = curve_area([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0]], {}, None)  # type: ignore[arg-type]
    assert found.tolist() == [0.5, 0.5]
    with old_numpy():
        assert np.trapz([0.0, 1.0, 4.0], dx=2.0) == 6.0  # type: ignore[attr-defined]  # 2·(½ + 2½)
        assert np.isnan(np.NaN)  # type: ignore[attr-defined]
    assert not any(hasattr(np, name) for name in names)


def test_no_file_names_what_only_newer_versions_have() -> None:
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, NEWER))})\b")
    for room in ("xeval", "training", "reports", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_every_dependency_has_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(re.match(r"([\w-]+)>=([\d.]+)", one).groups() for one in project["dependencies"])  # type: ignore[union-attr]
    assert (
        bounds.items() >= {"torch": "2.6", "numpy": "1.26", "pandas": "2.1", "scipy": "1.11", "captum": "0.7"}.items()
    )
