"""Images with several labels: each label is explained in a row of its own, and the rows of an image belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import xeval
from tests.outside.networks import pixels, seeded
from xeval.errors import DataError, UsageError
from xeval.metrics import METRICS
from xeval.models.answers import as_logits
from xeval.models.reading import LOGITS, Reading
from xeval.reports.collect import collect
from xeval.runtime.files import read_json
from xeval.scoring.maps import _partner
from xeval.scoring.module import adapt
from xeval.statistics.clusters import means_of_runs

LABELS = 3
OURS = tuple(name for name in METRICS if not name.startswith("quantus:"))
ONE_NETWORK_A_LABEL = ("contrast", "logit", "mprt", "fgsm")  # other labels, other heads, one class an image
TRUTH = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
ROWS = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 2), (4, 1), (4, 2)]
BOTH = ("grad-cam", "random")


def network(labels: int = LABELS) -> nn.Sequential:
    layers = (nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, labels))


MODEL = seeded(network)
MODEL[6].weight.data *= 20


def single(label: int) -> nn.Module:
    """The network of one label: one logit."""
    alone = network(1).eval()
    head = {"6.weight": MODEL[6].weight[label : label + 1], "6.bias": MODEL[6].bias[label : label + 1]}
    alone.load_state_dict({**MODEL.state_dict(), **head})
    return alone


def scored(model: nn.Module, given: Tensor, output: str, **options: Any) -> pd.DataFrame:
    images = pixels(len(given))
    masks = torch.zeros(len(given), 16, 16, dtype=torch.bool)
    masks[:, 4:12, 2:9] = True
    return xeval.score(model, [(images, given, masks)], output=output, **{"layer": "3", **options})


FAIR = tuple(name for name in OURS if name not in ONE_NETWORK_A_LABEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several")
    scored(MODEL, TRUTH, "multilabel", metrics=FAIR, explainers=BOTH, out=out)
    return out


def test_each_row_is_that_of_the_network_of_its_label(folder: Path, tmp_path: Path) -> None:
    """Independent sigmoids: K labels score like K networks of one logit, whose class 1 is explained."""
    each = xeval.results(folder)
    assert each["image"][: len(ROWS)].tolist() == [f"{image}:{label}" for image, label in ROWS]
    assert each["label"][: len(ROWS)].tolist() == [label for _, label in ROWS]
    columns = [column for column in each if "." in column]
    assert len(columns) > 40
    for label in range(LABELS):
        out = tmp_path / str(label)
        scored(single(label), torch.ones(5), "logits", metrics=FAIR, explainers=BOTH, out=out, target="label")
        alone = xeval.results(out)
        for explainer in BOTH:
            mine = each[(each["explainer"] == explainer) & (each["label"] == label)]
            images = [image for image, of in ROWS if of == label]
            other = alone[alone["explainer"] == explainer].iloc[images]
            np.testing.assert_allclose(mine["p0"], other["p0"], rtol=1e-6)
            for column in columns:
                np.testing.assert_allclose(mine[column], other[column], rtol=2e-4, atol=2e-6, err_msg=column)


def test_p_is_the_sigmoid_and_accuracy_the_share_of_exact_matches(folder: Path) -> None:
    each, summary = xeval.results(folder)[: len(ROWS)], read_json(folder / "scores.json", "xeval.scores/1")
    with torch.no_grad():
        p = MODEL(pixels(5)).sigmoid()
    assert each["p0"].tolist() == pytest.approx([float(p[row]) for row in ROWS], abs=1e-6)
    right = ((p > 0.5) == TRUTH.bool()).all(1)
    assert each["correct"].tolist() == [bool(right[image]) for image, _ in ROWS]
    seen = [0, 1, 2, 4]
    assert summary["model"]["accuracy"] == pytest.approx(float(right[seen].double().mean()))
    by_hand = [float(p[image][TRUTH[image].bool()].double().mean()) for image in seen]
    assert summary["model"]["p0"] == pytest.approx(float(np.mean(by_hand)), abs=1e-6)
    assert summary["model"]["ece"] is None
    assert "exact match" in " ".join(summary["conventions"])


def test_the_unit_of_means_and_errors_is_the_image(folder: Path) -> None:
    """By hand, in plain loops: an image's rows are averaged first, so its labels are no independent draws."""
    each, summary = xeval.results(folder), read_json(folder / "scores.json", "xeval.scores/1")
    assert (summary["dataset"]["n"], summary["dataset"]["of"], summary["dataset"]["rows"]) == (4, 4, [2, 1, 3, 2])
    for column in ("deletion.auc", "drop.mag@0.3", "complexity.gini", "infidelity.skill"):
        values = each[each["explainer"] == "grad-cam"][column].tolist()
        images = [
            [value for value, (of, _) in zip(values, ROWS, strict=True) if of == image and not np.isnan(value)]
            for image in (0, 1, 2, 4)
        ]
        means = [sum(found) / len(found) for found in images if found]
        told = summary["scores"]["grad-cam"][column]
        assert told["n"] == len(means)
        assert told["mean"] == pytest.approx(np.mean(means), rel=1e-9)
        assert told["se"] == pytest.approx(np.std(means, ddof=1) / len(means) ** 0.5, rel=1e-9)
    for curve in summary["curves"]["deletion"].values():
        assert len(curve) == 33


def test_reports_see_images_not_rows(folder: Path) -> None:
    (run,) = collect(folder).groups[0].runs
    assert run.images is not None
    values = run.images.values("grad-cam", "deletion.auc")
    assert values.shape == run.images.correct.shape == (4,)
    each = xeval.results(folder)
    first = each[each["explainer"] == "grad-cam"]["deletion.auc"]
    assert values[0] == pytest.approx(first[:2].mean())


def test_a_loader_of_copies_does_not_shrink_the_error(folder: Path) -> None:
    """A label that is given twice adds a row and no information: mean, error and n of the images stay."""
    twice = nn.Sequential(*MODEL[:6], nn.Linear(8, 2 * LABELS)).eval()
    twice[6].weight.data, twice[6].bias.data = MODEL[6].weight.repeat(2, 1), MODEL[6].bias.repeat(2)
    found = scored(twice, TRUTH.repeat(1, 2), "multilabel", metrics=("complexity",), explainers=BOTH)
    told = read_json(folder / "scores.json", "xeval.scores/1")["scores"]["grad-cam"]["complexity.gini"]
    (row,) = found[(found["explainer"] == "grad-cam") & (found["column"] == "complexity.gini")].to_dict("records")
    assert [row[key] for key in ("mean", "se", "n")] == pytest.approx([told[key] for key in ("mean", "se", "n")])


def test_what_needs_one_class_is_left_out_and_said() -> None:
    few = torch.eye(3, dtype=torch.int64)
    summary = scored(MODEL, few, "multilabel", explainers=BOTH, limit=2).attrs["summary"]
    assert "contrast.other" in summary["columns"], "labels have maps of their own"
    for asked, reason in (("fgsm", "several labels, not one class"), ("quantus:Complexity", "sigmoids, not a softmax")):
        with pytest.raises(UsageError, match=reason):
            scored(MODEL, few, "multilabel", metrics=(asked,))
    alone = scored(single(0), torch.ones(3), "multilabel", explainers=BOTH, limit=2).attrs["summary"]
    assert not [column for column in alone["columns"] if column.startswith("contrast")]
    assert "left out, as there is no other class: contrast" in alone["dataset"]["notes"]
    with pytest.raises(UsageError, match="each row has a target of its own"):
        scored(MODEL, few, "multilabel", target="pred")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (torch.arange(5) % 3, "are not 0 or 1 for each of 3 labels"),
        (TRUTH * 0.5, "are not 0 or 1 for each of 3 labels"),
        (TRUTH[:, :2], "are not 0 or 1 for each of 3 labels"),
        (TRUTH * 0, "no image has a label to explain"),
    ],
)
def test_labels_are_one_or_zero_for_each_class(given: Tensor, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        scored(MODEL, given, "multilabel")


def test_labels_of_several_classes_without_saying_so() -> None:
    with pytest.raises(DataError, match="not one-hot over 3 classes") as told:
        scored(MODEL, TRUTH, "logits")
    assert 'output="multilabel"' in told.value.remedy


def test_sigmoids_inside_are_told_and_undone() -> None:
    squashed = nn.Sequential(MODEL, nn.Sigmoid()).eval()
    with pytest.raises(UsageError, match="probabilities, not logits") as told:
        scored(squashed, TRUTH, "multilabel", layer="0.3")
    assert 'output="multilabel-probabilities"' in told.value.remedy
    with as_logits(squashed, Reading.of("multilabel-probabilities")):
        assert torch.allclose(squashed(pixels(5)), MODEL(pixels(5)), atol=1e-4)


def test_readings_of_labels_are_no_readings_of_classes() -> None:
    several = Reading.of("multilabel")
    given = [(pixels(5), TRUTH)]
    first = adapt(MODEL, given, reading=several)[0].sha256
    assert first != adapt(MODEL, [(pixels(5), torch.arange(5) % 3)], reading=LOGITS)[0].sha256
    assert first == adapt(MODEL, given, reading=several)[0].sha256


def test_the_shuffled_map_is_of_another_image() -> None:
    split = adapt(MODEL, [(pixels(5), TRUTH)], reading=Reading.of("multilabel"))[2]
    partners = [_partner(split, row) for row in range(len(split))]
    assert all(split.images[a] != split.images[b] for a, b in enumerate(partners))
    assert len(set(partners)) > 2


def test_means_of_runs_by_hand() -> None:
    values = np.array([1.0, np.nan, np.nan, 4.0, 6.0, 2.0])
    assert means_of_runs(values, [2, 1, 3]).tolist() == pytest.approx([1.0, np.nan, 4.0], nan_ok=True)
    curves = np.array([[1.0, 3.0], [3.0, 5.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(means_of_runs(curves, [2, 1]), [[2.0, 4.0], [np.nan, np.nan]])


def test_maps_made_elsewhere_are_of_an_image_and_a_label(tmp_path: Path) -> None:
    """By hand: p of the two thirds of the pixels that each label's own map ranks highest, the rest black."""
    images, pairs = pixels(len(TRUTH)), TRUTH.nonzero().tolist()
    ids = [f"{image}:{label}" for image, label in pairs]
    maps = torch.rand(len(pairs), 1, 16, 16, generator=torch.Generator().manual_seed(4))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5)).tolist()
    made = xeval.PrecomputedMaps("made", maps[order], ids=[ids[i] for i in order], targets=[pairs[i][1] for i in order])
    given = {"metrics": ("drop",), "thresholds": (2 / 3,), "explainers": (made, "random"), "out": tmp_path}
    scored(MODEL, TRUTH, "multilabel", **given)
    each = xeval.results(tmp_path)
    column = next(name for name in each if name.startswith("drop.mag"))
    values = each[each["explainer"] == "made"].set_index("image")[column]
    assert list(values.index) == ids
    for row, (image, label) in zip(maps, pairs, strict=True):
        kept = torch.zeros(256)
        kept[row.flatten().argsort(descending=True)[:170]] = 1
        with torch.no_grad():
            p = MODEL(torch.stack([images[image], images[image] * kept.reshape(1, 16, 16)])).double().sigmoid()
        clean, masked = p[:, label].tolist()
        assert values[f"{image}:{label}"] == pytest.approx(max(0, clean - masked) / clean, abs=1e-6)
