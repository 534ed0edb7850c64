"""Explainers and metrics of one's own: functions of a session, files that --plugin names, and those that misbehave."""

from __future__ import annotations

import re
import sqlite3
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import xeval
from tests.commands import here
from tests.runs import make_run
from xeval.cli.tables import score_table
from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS
from xeval.scoring.module import Normalization

PLAIN = Normalization((0.0,), (1.0,))
N, SIDE = 6, 8


class Mean(nn.Module):
    """Two classes; the logit of the second is the mean of the left half, of the first that of the right half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        half = images.shape[-1] // 2
        return self.scale * torch.stack([images[..., half:].mean((1, 2, 3)), images[..., :half].mean((1, 2, 3))], 1)


@pytest.fixture(scope="module")
def data() -> DataLoader[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.rand(N, 1, SIDE, SIDE, generator=draw), torch.arange(N) % 2), batch_size=4)


def halves(_model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The truth about :class:`Mean`."""
    maps = torch.zeros(len(images), SIDE, SIDE)
    maps[targets == 1, :, : SIDE // 2] = 1
    maps[targets == 0, :, SIDE // 2 :] = 1
    return maps


def share(_model: nn.Module, images: Tensor, maps: Tensor, _targets: Tensor) -> Tensor:
    """Share of the pixels above a half."""
    return ((maps > 0.5) & (images >= 0)).flatten(1).double().mean(1)


def scored(data: DataLoader[tuple[Tensor, ...]], model: nn.Module | None = None, **options: object) -> pd.DataFrame:
    chosen = {"metrics": ("drop",), "normalization": PLAIN, "batch_size": 8, **options}
    return xeval.score(model or Mean(), data, **chosen)  # type: ignore[arg-type]


def test_a_function_is_a_row_with_the_values_of_its_maps(data: DataLoader[tuple[Tensor, ...]]) -> None:
    """All pixels of the class's half are kept, so the loop says p(kept half) and nothing else."""
    frame = scored(data, explainers=[halves, "random"], thresholds=(0.5,))
    images, labels = (torch.cat(part) for part in zip(*data, strict=True))
    model, drops = Mean(), []
    for image in images:
        p = model(image[None]).softmax(1)[0].double()
        target = int(p.argmax())
        left = torch.arange(SIDE).lt(SIDE // 2)
        kept = image.clone()
        kept[..., ~left if target == 1 else left] = 0
        q = model(kept[None]).softmax(1)[0].double()
        drops.append(max(0.0, float(((p[target] - q[target]) / p[target]).detach())))
    row = frame[(frame.explainer == "halves") & (frame.column == "drop.mag@0.5")].iloc[0]
    assert row["mean"] == pytest.approx(np.mean(drops), abs=1e-6)
    assert row["n"] == N
    assert labels.shape == (N,)
    assert "halves" not in EXPLAINERS  # lent for the call


def test_a_function_is_a_column(data: DataLoader[tuple[Tensor, ...]]) -> None:
    frame = scored(data, explainers="saliency,constant", metrics=[share, "complexity"])
    assert set(frame.column) >= {"share", "complexity.gini"}
    assert frame[(frame.explainer == "constant") & (frame.column == "share")]["mean"].item() in (0.0, 1.0)
    assert "Share of the pixels above a half." in str(frame.attrs["summary"]["conventions"])
    assert "share" not in METRICS


def test_a_function_is_never_taken_from_an_earlier_call(data: DataLoader[tuple[Tensor, ...]], tmp_path: Path) -> None:
    level = 0.0

    def mine(_model: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
        return torch.where(torch.arange(SIDE) < SIDE // 2, level, 1 - level).expand(len(images), 1, SIDE, SIDE)

    found = []
    for level in (0.0, 1.0, 0.0):  # noqa: B007 - the function reads it
        frame = scored(data, explainers=["saliency", mine], out=tmp_path / "out")
        found.append(frame[frame.explainer == "mine"].set_index("column")["mean"])
    pd.testing.assert_series_equal(found[0], found[2])
    assert found[0]["drop.mag@0.45"] != found[1]["drop.mag@0.45"]
    with sqlite3.connect(tmp_path / "out" / "scores.sqlite") as store:
        kinds = store.execute(
            "SELECT explainer, count(DISTINCT definition) FROM cell WHERE name = 'drop.mag@0.45' GROUP BY 1"
        ).fetchall()
        assert dict(kinds) == {**dict.fromkeys(dict(kinds), 1), "mine": 3}
    values = xeval.results(tmp_path / "out")
    assert values[values.explainer == "mine"]["drop.mag@0.45"].mean() == pytest.approx(found[2]["drop.mag@0.45"])


def nothing(_model: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
    return torch.zeros(len(images), 3, SIDE, SIDE)


def adds(model: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    return images


def blind(_model: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
    return torch.full_like(images, torch.nan)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (
            nothing,
            r"the explainer 'nothing' of .* fails \(TypeError: it gives \(\d, 3, 8, 8\) for \d images, not N×1×h×w",
        ),
        (adds, r"the explainer 'adds' changes the weights of the network \(scale\)"),
        (lambda *_: None, "has no name for its rows"),
    ],
)
def test_a_function_that_misbehaves_is_named(data: DataLoader[tuple[Tensor, ...]], function: object, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        scored(data, explainers=["saliency", function])


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("explainers", "saliency", "the explainer 'saliency' exists already"),
        ("explainers", "random", "the control 'random' exists already"),
        ("metrics", "drop", "the metric 'drop' exists already"),
        ("metrics", "sanity", "the name 'sanity' of a metric means something else already"),
        ("metrics", "predicted", "the name 'predicted' of a metric means something else already"),
    ],
)
def test_a_taken_name_is_refused(data: DataLoader[tuple[Tensor, ...]], kind: str, name: str, told: str) -> None:
    def function(*_: object) -> Tensor:
        raise AssertionError("it is not called")

    function.__name__ = name
    with pytest.raises(UsageError, match=told):
        scored(data, **{"explainers": ["saliency"], kind: [function]})


def test_maps_that_are_nan_are_counted_and_the_others_kept(data: DataLoader[tuple[Tensor, ...]]) -> None:
    frame = scored(data, explainers=["saliency", blind], allow_partial=True)
    counts = frame[frame.column == "drop.mag@0.45"].set_index("explainer")["n"]
    assert (counts["blind"], counts["saliency"]) == (0, N)


def two(_model: nn.Module, images: Tensor, _maps: Tensor, _targets: Tensor) -> Tensor:
    return torch.zeros(2 * len(images))


def test_a_metric_of_the_wrong_shape_is_named_and_the_others_are_kept(
    data: DataLoader[tuple[Tensor, ...]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"two failed on 6 images.*it gives two as \(2,\) for 1 images") as caught:
        scored(data, explainers=["saliency"], metrics=[two, "complexity"], out=tmp_path / "out")
    assert "report" not in str(caught.value.remedy).split("see")[0]
    values = xeval.results(tmp_path / "out")
    assert values["complexity.gini"].notna().any()


def gap(_model: nn.Module, images: Tensor, _maps: Tensor, _targets: Tensor) -> Tensor:
    return torch.full((len(images),), torch.nan)


def test_a_metric_that_gives_nan_is_named_and_the_others_are_kept(
    data: DataLoader[tuple[Tensor, ...]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"gap of saliency has no value for 6 of 6 images \(not finite: 6\)") as caught:
        scored(data, explainers=["saliency"], metrics=[gap, "complexity"], out=tmp_path / "out")
    assert "report" not in str(caught.value)
    values = xeval.results(tmp_path / "out")
    assert values["gap"].isna().all()
    assert values["complexity.gini"].notna().any()


def test_rows_and_columns_of_functions_stand_in_the_terminal_table_and_on_the_page(
    data: DataLoader[tuple[Tensor, ...]], tmp_path: Path
) -> None:
    def fraction(model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor) -> Tensor:
        """Share of the pixels above a half."""
        return share(model, images, maps, targets)

    fraction.direction = "lower"  # type: ignore[attr-defined]
    frame = scored(data, explainers=["saliency", halves], metrics=[fraction], out=tmp_path / "out")
    shown = score_table(frame.attrs["summary"]).splitlines()
    head = next(line for line in shown if "saliency" in line).split()
    values = next(line for line in shown if line.startswith("fraction ↓")).split()[2:]
    assert values[head.index("halves")] == "0.500"
    assert "· fraction: a function of the session that scored; Share of the pixels above a half." in shown
    xeval.compare(tmp_path / "out", out=tmp_path / "report", rows="explainers")
    page = (tmp_path / "report" / "report.html").read_text()
    table = next(part for part in page.split("<table")[1:] if "fraction" in part.partition("</thead>")[0])
    row = next(part for part in table.split("<tr")[1:] if re.search(r">\s*halves\s*<", part))
    assert "0.500" in row
    assert "Share of the pixels above a half." in page


# ---- files


MINE = """
    import torch
    from xeval.explainers import explainer

    @explainer("mine", units="location", citation="this file")
    def mine(model, layer, images, targets):
        return images.mean(1, keepdim=True) * FACTOR
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    yield write(tmp_path, 1)
    EXPLAINERS._things.pop("mine", None)
    EXPLAINERS._origins.pop("mine", None)


def write(folder: Path, factor: int) -> Path:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(MINE).replace("FACTOR", str(factor)))
    return path


@pytest.mark.fault("S30")
def test_a_file_that_is_named_is_run_in_this_call_and_its_rows_know_its_code(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = make_run(tmp_path / "run")
    command = ("score", str(run), "--explainers", "mine,random", "--metrics", "complexity", "--limit", "8")
    code, shown, _ = here(capsys, *command, "--plugin", str(plugin))
    assert code == 0
    assert "mine" in shown
    EXPLAINERS._things.pop("mine")
    EXPLAINERS._origins.pop("mine")
    code, _, told = here(capsys, *command)  # what was stored names it, and nothing follows the name
    assert code == 2
    assert "unknown explainer 'mine'" in told
    write(tmp_path, -1)
    _, other, _ = here(capsys, *command, "--plugin", str(plugin))
    assert other != shown


@pytest.mark.fault("S30")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is not a file"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", r"sys.exit\(3\)"),
        (MINE.replace('"mine"', '"grad-cam"'), "the explainer 'grad-cam' is defined twice"),
        (MINE.replace('"mine"', '"random"'), "the explainer 'random' is defined twice"),
    ],
)
def test_a_file_that_does_not_load_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    path = tmp_path / "sad.py"
    if text is not None:
        path.write_text(textwrap.dedent(text))
    code, _, error = here(capsys, "list", "explainers", "--plugin", str(path))
    assert code == 2
    assert str(path) in error
    assert re.search(told, error)
