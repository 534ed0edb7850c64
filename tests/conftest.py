"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photos() -> Path:
    """The Tiny ImageNet subset named by XEVAL_TEST_PHOTOS; skips where the variable is not set."""
    name = os.environ.get("XEVAL_TEST_PHOTOS")
    if not name:
        pytest.skip("XEVAL_TEST_PHOTOS is not set: a Tiny ImageNet subset in the official layout")
    return Path(name).resolve(strict=True)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of everything else: drawing takes most of the time."""
    monkeypatch.setattr("xeval.reports.compare.figures", lambda *_: [])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A fresh folder for hand-made runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder
