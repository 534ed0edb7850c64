from __future__ import annotations

import pytest

from tests.reports import synthetic
from xeval.reports.compare import Comparison, compare


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three methods × three seeds with planted values, compared once."""
    root = tmp_path_factory.mktemp("study")
    return compare(synthetic.write_study(root / "runs"), root / "report")
