"""Published numbers appear beside ours only where everything that matters is the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.reports.synthetic import scores, write_run
from xeval.metrics import METRICS
from xeval.models import MODELS
from xeval.reports.compare import compare
from xeval.reports.published import known
from xeval.scoring.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("no_figures")


def write(runs: Path, seed: int = 0, **changes: Any) -> None:
    """A run like those of the ExCon paper's CIFAR-100 table at batch 128."""
    found = scores("excon", seed, 0.4, dataset=changes.get("dataset", "cifar100"), recipe="excon-cifar100-b128")
    found["checkpoint"]["arch"] = changes.get("arch", "resnet50-cifar")
    found["protocol"] |= {"name": changes.get("protocol", "excon-2022"), "version": changes.get("version", 1)}
    run = write_run(runs, found)
    card = json.loads((run / "run.json").read_text())
    card["recipe"] = {"batch_size": changes.get("batch", 128)}
    (run / "run.json").write_text(json.dumps(card))


def shown(runs: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Column → (ours, published) as printed."""
    tables = [t for t in compare(runs, out).tables if t.slug.endswith("published")]
    if not tables:
        return {}
    (row,) = tables[0].rows
    pairs = zip(tables[0].headings, row.entries, strict=True)
    cells = {heading.key: entry.mean_text + entry.spread_text for heading, entry in pairs}
    keys = [key.removeprefix("ours.") for key in cells if key.startswith("ours.")]
    return {key: (cells[f"ours.{key}"], cells[f"published.{key}"]) for key in keys}


def test_the_same_thing_measured_the_same_way_stands_beside(runs: Path, tmp_path: Path) -> None:
    write(runs, 0)
    write(runs, 1)
    found = shown(runs, tmp_path / "out")
    assert found[".model.accuracy"][1] == "0.769 ± 0.007"
    assert found["grad-cam.drop.mag@0.15"][1].startswith("0.795 ± 0.06")
    assert len(found) == 1 + 12 + 1  # accuracy, four columns at three thresholds, infidelity


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"protocol": "xeval"}, 1),  # accuracy does not depend on the protocol
        ({"protocol": "excon-2022+fill=blur"}, 1),
        ({"version": 0}, 1),  # rows of an earlier version have other definitions
        ({"batch": 64}, 0),
        ({"arch": "resnet18-cifar"}, 0),
        ({"dataset": "cifar10"}, 0),
    ],
)
def test_anything_else_keeps_them_away(runs: Path, tmp_path: Path, change: dict[str, Any], left: int) -> None:
    write(runs, **change)
    assert len(shown(runs, tmp_path / "out")) == left


def test_the_file_names_things_that_exist_and_nothing_twice() -> None:
    columns = {c.name for name in PROTOCOLS for metric in PROTOCOLS[name].metrics for c in _columns(name, metric)}
    for one in known():
        assert one.protocol == "" or one.version == str(PROTOCOLS[one.protocol].version)
        assert one.arch in MODELS
        assert one.column in columns | {"model.accuracy"}
        assert 0 <= one.mean < 12
    keys = Counter((o.protocol, o.dataset, o.arch, o.batch, o.method, o.explainer, o.column) for o in known())
    assert max(keys.values()) == 1


def _columns(protocol: str, metric: str) -> Any:
    return METRICS[metric].columns(PROTOCOLS[protocol].metric_settings(metric))
