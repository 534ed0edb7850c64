from __future__ import annotations

import pytest

from reports.compare import Comparison, compare
from tests.reports import synthetic


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three methods × three seeds with planted values, compared once."""
    root = tmp_path_factory.mktemp("study")
    return compare(synthetic.write_study(root / "runs"), root / "report")
