from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights."""
    from tests.runs import make_run

    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """The values of that run, scored without any fault."""
    from tests.faults.scored import FAST, table
    from xeval.scoring.run import score

    return table(score(run, out=tmp_path_factory.mktemp("whole"), **FAST))
