"""Shared fixtures, and ``--fault ROW``: the tests that prove a row of the fault matrix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.faults.matrix import PAGE, chosen

# A busy machine may take long over any single example: only wrong ones fail.
hypothesis.settings.register_profile("xeval", deadline=None)
hypothesis.settings.load_profile("xeval")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault",
        action="append",
        default=[],
        metavar="ROW",
        help="run only the tests that prove this row of docs/reliability.md; repeat it or separate rows by commas",
    )


def pytest_configure(config: pytest.Config) -> None:
    try:
        chosen(config.getoption("--fault"), PAGE.read_text(encoding="utf-8"))
    except ValueError as error:
        raise pytest.UsageError(f"--fault: {error}") from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--fault")
    if not asked:
        return
    rows = chosen(asked, PAGE.read_text(encoding="utf-8"))
    proving = [item for item in items if any(rows & set(marker.args) for marker in item.iter_markers("fault"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in proving])
    items[:] = proving


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is remembered is remembered for these tests only, not in the cache of the user who runs them."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xeval.runtime.cache.user_cache", lambda: folder)
        yield folder


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
    for name in ("figures", "explainer_figures"):
        monkeypatch.setattr(f"xeval.reports.compare.{name}", lambda *_: [])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A fresh folder for hand-made runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder
