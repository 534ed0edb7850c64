"""What a loader may yield: forms of batches and labels, and images that are pixels once the normalisation is undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import xeval
from tests.outside.networks import CLASSES, MEAN, SIDE, STD, Plain, labels, normalized, pixels, seeded
from tests.runs import make_run
from xeval.errors import DataError, UsageError
from xeval.scoring.module import Normalization

CHOSEN = {"metrics": ("drop",), "explainers": ("grad-cam", "random")}
IMAGENET = Normalization(MEAN, STD)


def scored(data: Any, **options: Any) -> pd.DataFrame:
    return xeval.score(seeded(Plain), data, **CHOSEN, **options)


def means(frame: pd.DataFrame) -> list[float]:
    return list(frame["mean"])


@pytest.mark.parametrize(
    "data",
    [
        [{"image": pixels(), "label": labels()}],
        [{"pixel_values": pixels(), "labels": labels(), "id": ["x"] * 12}],
        [(pixels(), labels(), torch.arange(12))],
        [[pixels().numpy(), labels().numpy()]],
        [(pixels(), labels().tolist())],
        [(pixels()[:5], labels()[:5]), (pixels()[5:], labels()[5:])],
        TensorDataset(pixels(), labels()),
        [(pixels(), labels()[:, None])],
        [(pixels(), torch.eye(CLASSES)[labels()])],
        [(pixels(), labels().float())],
        [(pixels().double(), labels())],
    ],
    ids=[
        "dict",
        "dict-with-more",
        "triple",
        "numpy",
        "list",
        "two",
        "data-set",
        "column",
        "one-hot",
        "float",
        "double",
    ],
)
def test_plain_forms_mean_the_same(data: Any) -> None:
    found = scored(data)
    assert means(found) == pytest.approx(means(scored([(pixels(), labels())])), abs=1e-6)
    assert found.attrs["summary"]["model"]["accuracy"] == pytest.approx(accuracy())


def accuracy() -> float:
    with torch.no_grad():
        return float((seeded(Plain)(pixels()).argmax(1) == labels()).float().mean())


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (torch.eye(CLASSES)[labels()] * 0.9 + 0.025, "not one-hot"),
        (torch.eye(CLASSES)[labels()] + torch.eye(CLASSES)[(labels() + 1) % 4], "not one-hot"),
        (torch.eye(CLASSES + 1)[labels()], "not one-hot"),
        (labels() + 1, "the label 4 is none of 4 classes"),
        (labels() - 1, "the label -1 is none of 4 classes"),
        (labels() + 0.5, "no whole numbers"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(given: Tensor, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        scored([(pixels(), given)])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([(pixels(4), labels(4)), (pixels(4, 20), labels(4))], "several shapes"),
        ([{"picture": pixels(), "label": labels()}], "has the keys picture, label"),
        ([{"image": pixels(), "images": pixels(), "label": labels()}], "exactly one of"),
        ([pixels()], "a batch is a Tensor"),
        ([("a", "b")], "holds no arrays"),
        (3, "the data are a int"),
        ([(pixels().movedim(1, -1), labels())], "images have shape"),
        ([(torch.rand(12, 48, 96, 16), labels())], "images have shape"),
        ([(pixels(), labels(), 2 * torch.ones(12, SIDE, SIDE))], "other values than 0 and 1"),
        ([(pixels(), labels(), torch.tensor([[0, 0, SIDE, 3]] * 12))], "is no box in 16×16 pixels"),
        ([(pixels(), labels(), torch.tensor([[4, 0, 3, 3]] * 12))], "is no box in 16×16 pixels"),
        ([(pixels(), labels(), torch.tensor([[0.5, 0, 3, 3]] * 12))], "is no box in 16×16 pixels"),
        (
            [{"image": pixels(), "label": labels(), "mask": torch.ones(12, 3)}],
            "the masks or boxes of 12 images have shape",
        ),
    ],
)
def test_what_has_no_plain_meaning_is_refused(data: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        scored(data)


WHERE = torch.zeros(12, SIDE, SIDE, dtype=torch.bool)
WHERE[:9, 3:9, 2:12] = True
BOXES = torch.tensor([[2, 3, 11, 8]] * 9 + [[0, 0, 0, 0]] * 3)


@pytest.mark.parametrize(
    "data",
    [
        [(pixels(), labels(), WHERE)],
        [(pixels(), labels(), WHERE[:, None].float(), "more")],
        [(pixels(), labels(), WHERE.long().numpy())],
        [{"image": pixels(), "label": labels(), "mask": WHERE}],
        [(pixels()[:9], labels()[:9], BOXES[:9]), (pixels()[9:], labels()[9:])],
        [{"image": pixels()[:9], "label": labels()[:9], "boxes": BOXES[:9].double()}, (pixels()[9:], labels()[9:])],
        TensorDataset(pixels(), labels(), WHERE),
        TensorDataset(pixels(), labels(), WHERE[:, None]),
    ],
    ids=["bool", "float", "numpy", "mask", "boxes", "named-boxes", "data-set", "data-set-of-planes"],
)
def test_masks_and_boxes_of_a_loader_mean_the_same(data: Any) -> None:
    """Nine objects of 60 pixels; a map that is the same everywhere has 60/256 of its relevance on each."""
    chosen = {"metrics": ("relevance", "pointing"), "explainers": ("grad-cam", "constant")}
    found = xeval.score(seeded(Plain), data, device="cpu", **chosen)
    flat = found[found["explainer"] == "constant"].set_index("column")
    assert flat.loc["relevance.mass", "mean"] == pytest.approx(60 / 256)
    assert list(flat["n"]) == [9, 9]
    notes = found.attrs["summary"]["dataset"]["notes"]
    assert notes == ["3 of 12 images have no object mask or box, and no value of relevance, pointing"]


@pytest.mark.parametrize(
    "third",
    [torch.arange(12), pixels(), ["a"] * 12, None, torch.rand(12, SIDE)],
    ids=["index", "second-view", "names", "nothing", "features"],
)
def test_a_third_item_that_is_no_mask_is_ignored(third: Any) -> None:
    found = scored([(pixels(), labels(), third)])
    assert means(found) == pytest.approx(means(scored([(pixels(), labels())])), abs=1e-6)
    with pytest.raises(UsageError, match="needs object masks or boxes"):
        xeval.score(seeded(Plain), [(pixels(), labels(), third)], metrics=("pointing",), device="cpu")


def test_metrics_that_the_data_do_not_allow_are_said() -> None:
    chosen = {"explainers": ("grad-cam", "constant"), "protocol": "clxai-2026", "device": "cpu"}
    found = xeval.score(seeded(Plain), [(pixels(), labels())], limit=2, **chosen)
    (note,) = found.attrs["summary"]["dataset"]["notes"]
    assert note == "left out, as the images have no object masks or boxes: pointing, relevance"
    assert "pointing.hit" not in set(found["column"])


def test_images_outside_the_range_of_pixels_name_the_normalisation() -> None:
    with pytest.raises(DataError, match=r"from -\d.* not pixels in \[0, 1\]") as told:
        scored([(normalized(pixels()), labels())])
    assert "normalization=" in told.value.remedy
    with pytest.raises(DataError, match="not pixels"):
        scored([(pixels() * 255, labels())])
    wrong = Normalization((0.5, 0.5, 0.5), (0.05, 0.05, 0.05))
    with pytest.raises(DataError, match="with normalization undone"):
        scored([(normalized(pixels()) * 8, labels())], normalization=wrong)
    assert len(scored([(normalized(pixels()), labels())], normalization=IMAGENET))


@pytest.mark.parametrize(
    ("share", "by", "fits"), [(0.009, 0.2, True), (0.02, 0.2, False), (0.02, 0.01, True), (0.001, 0.3, False)]
)
def test_how_far_resizing_may_overshoot(share: float, by: float, fits: bool) -> None:
    images = pixels().clone().flatten()
    images[: int(share * len(images))] = 1 + by
    data = [(images.reshape(12, 3, SIDE, SIDE), labels())]
    if fits:
        assert len(scored(data))
    else:
        with pytest.raises(DataError, match="not pixels"):
            scored(data)


def test_constants_that_were_not_applied_are_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"lie in \[0, 1\] although"):
        found = scored([(pixels(), labels())], normalization=IMAGENET)
    assert any("lie in [0, 1]" in note for note in found.attrs["summary"]["checkpoint"]["notes"])


def test_bytes_are_pixels_and_are_normalised_for_the_model() -> None:
    raw = (pixels() * 255).round().to(torch.uint8)
    found = scored([(raw, labels())], normalization=IMAGENET)
    same = scored([(normalized(raw.float() / 255), labels())], normalization=IMAGENET)
    assert means(found) == pytest.approx(means(same), abs=1e-5)
    assert any("divided by 255" in note for note in found.attrs["summary"]["checkpoint"]["notes"])


def test_data_is_a_loader_for_modules_and_a_folder_for_checkpoints(tmp_path: Any) -> None:
    run, _ = make_run(tmp_path / "digits-excon-s0")
    assert len(xeval.score(run, str(tmp_path), limit=10, **CHOSEN))
    with pytest.raises(UsageError, match="scored on its data set"):
        xeval.score(run, [(pixels(), labels())])
    with pytest.raises(UsageError, match="needs data"):
        xeval.score(seeded(Plain), tmp_path)
    assert np.isfinite(means(scored([(pixels(), labels())], batch_size=10**9))).all()
