"""Explainers compared on one checkpoint: the planted truth is found, tested over images, and said in words."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import xeval
from tests.commands import here
from tests.reports.test_page import Reader
from xeval.errors import UsageError
from xeval.reports.agreement import between_maps, between_scores
from xeval.reports.compare import Comparison, compare
from xeval.reports.rows import blocks_of
from xeval.reports.summary import column_measure
from xeval.scoring.gallery import read_pictures

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


ROW = re.compile(r'<tr><th scope="row"><img src="data:image/png;base64,([^"]*)".*?</tr>', re.DOTALL)
MAP = re.compile(
    r'<figure( class="control")?>\s*<img src="data:image/png;base64,([^"]*)".*?<figcaption>([^<]*)', re.DOTALL
)


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(float)


def test_the_gallery_shows_the_maps_of_all_explainers_on_the_same_images(made: Comparison, scored: Path) -> None:
    """Where the truth is silent the grey image is seen, and each map has its own strongest value in full colour."""
    pool = read_pictures(scored)
    assert pool is not None
    rows = ROW.finditer(made.page.read_text())
    shown = [(pixels(row[1]), MAP.findall(row[0])) for row in rows]
    assert len(shown) == 8
    for number, (original, maps) in enumerate(shown):
        assert np.array_equal(original, pool.pixels[number, 0])
        assert [(name, bool(grey)) for grey, _, name in maps] == [
            ("partly", False),
            ("oracle", False),
            ("random", True),
        ]
        overlay = pixels(maps[1][1])
        silent = np.ones((SIDE, SIDE), bool)
        silent[: SIDE // 2, : SIDE // 2] = False
        assert np.abs(overlay[silent] - original[silent][:, None]).max() <= 0.5
        image = original / 255
        truth = np.where(silent, 0, image - image.mean()) * (1 if pool.explained[number] else -1)
        y, x = np.unravel_index(np.abs(truth).argmax(), truth.shape)
        end = np.array([180, 4, 38] if truth[y, x] > 0 else [59, 76, 192])  # the ends of the map coolwarm
        assert np.abs(overlay[y, x] - (0.85 * end + 0.15 * original[y, x])).max() <= 2
    assert made.results["sections"][0]["gallery"] == {"selection": "random", "images": pool.ids[:8]}


def test_the_page_is_about_explainers(made: Comparison) -> None:
    section = made.sections[0]
    names = {figure.slug.removeprefix("pixels-") for figure in section.figures}
    assert names >= {"means", "forest", "maps-agreement", "scores-agreement"}
    assert not names & {"seeds", "convergence", "tsne", "reliability"}
    told = [table.title + table.caption + table.corner for table in section.tables]
    told += [figure.title + figure.caption for figure in section.figures]
    told += [section.gallery.caption if section.gallery else "", *section.verdict.sentences, *section.verdict.threats]
    told += [re.sub(r"Holm's method", "", section.methods.text), *(table.slug for table in section.tables)]
    for text in told:
        assert not re.search(r"\bmethods?\b|\btrained\b|seed pairs|one seed|seeds\b", text), text
    for path in made.out.glob("tables/*.tex"):
        assert "method" not in path.read_text().replace("Holm's method", "")
    assert section.reference == "partly"
    assert "reference partly" in Reader(made.page.read_text()).text
    assert "paired over images for this checkpoint" in next(t.caption for t in section.tables if "Diff" in t.title)
    assert "A12" not in "".join(told)


def test_the_cost_of_a_map_stands_beside_the_scores(made: Comparison, scored: Path) -> None:
    cost = json.loads((scored / "scores.json").read_text())["cost"]
    headline = made.tables[0]
    assert [heading.label for heading in headline.headings[-2:]] == ["ms", "passes"]
    for row in headline.rows:
        spent = cost["explainers"][row.label]
        found = [entry.mean for entry in row.entries[-2:]]
        assert found == pytest.approx([1000 * spent["seconds"] / N, spent["passes"] / N])
        assert not any(entry.bold or entry.mark for entry in row.entries[-2:])


def test_agreement_of_maps_is_a_rank_correlation_over_pixels(scored: Path) -> None:
    pool = read_pictures(scored)
    assert pool is not None
    found, names = between_maps(pool), list(pool.rows)
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        each = [
            stats.spearmanr(x.ravel(), y.ravel()).statistic
            for x, y in zip(pool.rows[a].maps, pool.rows[b].maps, strict=True)
        ]
        assert [found[i, j], found[j, i]] == pytest.approx([np.mean(each)] * 2)
    assert found[names.index("partly"), names.index("oracle")] > 0.5
    assert abs(found[names.index("oracle"), names.index("random")]) < 0.1


def test_agreement_of_scores_is_over_images_within_a_checkpoint(made: Comparison, scored: Path) -> None:
    group = made.sections[0].group
    block = blocks_of(group, "known", "explainers")["known"]
    found = between_scores(block.lines, column_measure(group, KEY))
    values = xeval.results(scored).pivot(index="image", columns="explainer", values=KEY)
    assert found[0, 1] == pytest.approx(stats.kendalltau(values["partly"], values["oracle"]).statistic)


def test_without_pictures_the_agreement_of_maps_is_still_shown(scored: Path, tmp_path: Path) -> None:
    bare = compare(scored, tmp_path / "bare", rows="explainers", primary=(KEY,), gallery="none")
    assert "data:image" not in bare.page.read_text()
    assert any(figure.slug.endswith("maps-agreement") for figure in bare.sections[0].figures)


def test_a_run_that_kept_the_maps_of_one_explainer_is_compared_without_them(scored: Path, tmp_path: Path) -> None:
    run = shutil.copytree(scored, tmp_path / "run")
    about = json.loads((run / "gallery.json").read_text())
    del about["rows"]
    (run / "gallery.json").write_text(json.dumps(about))
    old = compare(run, tmp_path / "out", rows="explainers", primary=(KEY,))
    assert old.results["sections"][0]["gallery"] is None
    assert not any(figure.slug.endswith("maps-agreement") for figure in old.sections[0].figures)


def test_best_and_failures_go_by_the_explainers(scored: Path, tmp_path: Path, no_figures: None) -> None:
    pool = read_pictures(scored)
    assert pool is not None
    falls = {name: np.maximum(0, pool.p0 - row.after) / pool.p0 for name, row in pool.rows.items()}
    order = np.argsort(falls["oracle"] - falls["partly"], kind="stable")[:8]
    best = compare(scored, tmp_path / "best", rows="explainers", primary=(KEY,), gallery="best")
    assert best.results["sections"][0]["gallery"]["images"] == [pool.ids[i] for i in order]
    assert "of oracle minus that of partly, lowest first" in Reader(best.page.read_text()).text
    wrong = [name for name, a, b in zip(pool.ids, pool.predicted, pool.label, strict=True) if a != b]
    failed = compare(scored, tmp_path / "wrong", rows="explainers", primary=(KEY,), gallery="failures")
    assert failed.results["sections"][0]["gallery"]["images"] == wrong[:8]


def test_several_checkpoints_are_the_sample(tmp_path: Path) -> None:
    for seed in range(2):
        draw = torch.Generator().manual_seed(0)
        loader = [(torch.rand(N, 1, SIDE, SIDE, generator=draw), torch.arange(N) % 2)]
        model = Known()
        model.scale.data += seed
        about = {"method": "known", "training_seed": seed, "dataset": "pixels", "out": tmp_path / "runs" / str(seed)}
        chosen = {"explainers": "input-x-gradient,saliency,random", "metrics": "deletion", "batch_size": 64}
        xeval.score(model, loader, **about, **chosen)  # type: ignore[arg-type]
    made = compare(tmp_path / "runs", tmp_path / "out", rows="explainers", primary=(KEY,))
    assert "For known, paired on 2 checkpoints:" in made.verdict
    assert "mean ± std (n−1) over 2 checkpoints" in made.tables[0].caption
    assert "which two checkpoints do not give" in made.tables[0].caption or "‡" not in made.tables[0].caption
    slugs = {figure.slug for figure in made.sections[0].figures}
    assert "pixels-checkpoints" in slugs
    dots = next(figure for figure in made.sections[0].figures if figure.slug == "pixels-checkpoints")
    assert "2 checkpoints of known" in dots.caption
    assert "seed" not in dots.caption
