from __future__ import annotations

from pathlib import Path

import pytest

from reports.compare import Comparison, compare
from tests.reports import synthetic


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three methods × three seeds with planted values, compared once."""
    root = tmp_path_factory.mktemp("study")
    return compare(synthetic.write_study(root / "runs"), root / "report")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of everything else: drawing takes most of the time."""
    monkeypatch.setattr("reports.compare.figures", lambda *_: [])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A fresh folder for hand-made runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder
