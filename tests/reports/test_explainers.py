"""Explainers compared on one checkpoint: the planted truth is found, tested over images, and said in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import xeval
from tests.commands import here
from xeval.errors import UsageError
from xeval.reports.compare import Comparison, compare

N, SIDE, KEY = 64, 8, "deletion.gain"


class Known(nn.Module):
    """Two classes; the score of class 1 is the mean of the known pixels, the upper left quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: Tensor) -> Tensor:
        mean = images[..., : SIDE // 2, : SIDE // 2].mean((1, 2, 3))
        return self.scale * torch.stack([1 - mean, mean], 1)


def oracle(_model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """What each known pixel adds to the score of the class."""
    known = torch.zeros(SIDE, SIDE)
    known[: SIDE // 2, : SIDE // 2] = 1
    sign = 2.0 * targets[:, None, None] - 1
    return sign * known * (images[:, 0] - images.mean())


def partly(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The truth in every other row."""
    maps = oracle(model, images, targets)
    maps[:, ::2] = 0
    return maps


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(N, 1, SIDE, SIDE, generator=draw), torch.arange(N) % 2
    out = tmp_path_factory.mktemp("runs") / "known"
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    chosen = {"explainers": [partly, oracle, "random", "inverse"], "metrics": "deletion,complexity", "batch_size": 64}
    xeval.score(Known(), loader, out=out, method="known", training_seed=3, dataset="pixels", **chosen)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def made(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xeval.reports.compare.explainer_figures", lambda *_: ())
        return compare(scored, tmp_path_factory.mktemp("out") / "report", rows="explainers", primary=(KEY,))


def test_the_truth_is_best_then_what_knows_half_then_chance_then_its_reverse(made: Comparison) -> None:
    headline = made.tables[0]
    place = [heading.key for heading in headline.headings].index(KEY)
    means = {row.label: row.entries[place].mean for row in headline.rows}
    assert means["oracle"] > means["partly"] > means["random"] == 0 > means["inverse"]
    assert [row.label for row in headline.rows if row.entries[place].bold] == ["oracle"]


def test_the_difference_is_a_paired_t_test_over_images_for_this_checkpoint(made: Comparison, scored: Path) -> None:
    values = xeval.results(scored).pivot(index="image", columns="explainer", values=KEY)
    t = stats.ttest_rel(values["oracle"], values["partly"])
    (one,) = (c for c in made.results["sections"][0]["contrasts"] if (c["row"], c["column"]) == ("oracle", KEY))
    assert one["reference"] == "partly"
    assert one["difference"] == pytest.approx(float(np.mean(values["oracle"] - values["partly"])))
    assert one["interval"] == pytest.approx(list(t.confidence_interval()))
    assert one["p"] == pytest.approx(t.pvalue, rel=1e-6)
    assert one["n"] == N
    assert one["note"] == "for this checkpoint; says nothing about retraining"


def test_the_verdict_says_so(made: Comparison) -> None:
    said = made.verdict
    assert "For this checkpoint (known, seed 3), 64 images:" in said
    assert f"oracle has the best mean on {KEY} ↑ (" in said
    assert f"Against partly on {KEY}: oracle " in said
    assert "supcon" not in said
    assert any("the images are the sample" in threat for threat in made.sections[0].verdict.threats)


def test_any_explainer_can_be_the_reference(scored: Path, tmp_path: Path, no_figures: None) -> None:
    again = compare(scored, tmp_path / "out", rows="explainers", primary=(KEY,), reference="oracle")
    assert f"Against oracle on {KEY}: partly -" in again.verdict.replace("−", "-")
    assert "Not as declared" not in " ".join(again.sections[0].verdict.threats)
    with pytest.raises(UsageError, match="unknown reference explainer 'random'.*oracle"):
        compare(scored, tmp_path / "out", rows="explainers", reference="random")


def test_an_explainer_that_beats_no_control_is_named(tmp_path: Path, no_figures: None) -> None:
    def useless(_model: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
        return torch.rand(len(images), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))

    draw = torch.Generator().manual_seed(1)
    loader = [(torch.rand(N, 1, SIDE, SIDE, generator=draw), torch.arange(N) % 2)]
    chosen = {"explainers": [oracle, useless, "random"], "metrics": "deletion", "batch_size": 64}
    xeval.score(Known(), loader, out=tmp_path / "runs", method="known", dataset="pixels", **chosen)  # type: ignore[arg-type]
    said = compare(tmp_path / "runs", tmp_path / "out", rows="explainers", primary=("deletion.auc",)).verdict
    assert "useless is not shown to be better than random on deletion.auc (‡)." in said
    assert "oracle is not" not in said


def test_on_the_command_line(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    command = ("compare", str(scored), "--rows", "explainers", "--reference", "oracle", "--out", str(tmp_path / "out"))
    code, shown, _ = here(capsys, *command)
    assert code == 0
    assert "2 explainers, compared with oracle." in shown
