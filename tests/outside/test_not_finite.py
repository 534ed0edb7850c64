"""One image that is not finite costs one image, in every explainer, in the features and in t-SNE."""

from __future__ import annotations

import pytest
import torch

import xeval
from tests.outside.networks import Plain, labels, pixels, seeded
from xeval.engine import Engine
from xeval.errors import DataError
from xeval.explainers import EXPLAINERS
from xeval.models import last_conv_stage

BAD = 2


def broken() -> torch.Tensor:
    images = pixels(5).clone()
    images[BAD, 0, 3, 3] = torch.nan
    return images


@pytest.mark.parametrize(
    "name",
    ["grad-cam", "eigen-cam", "eigen-cam-numpy", "eigen-cam-signed", "score-cam", "lime", "kernel-shap", "occlusion"],
)
def test_the_other_images_are_explained_as_ever(name: str) -> None:
    model = seeded(Plain)
    layer, explain = last_conv_stage(model, pixels(1)), EXPLAINERS[name]
    targets = torch.zeros(5, dtype=torch.int64)
    rest = [number for number in range(5) if number != BAD]
    found = Engine(model).explain(explain, layer, broken(), targets)
    alone = torch.cat([Engine(model).explain(explain, layer, broken()[n : n + 1], targets[:1]) for n in rest])
    assert torch.allclose(found[rest], alone, atol=1e-4)
    assert not found[BAD].isfinite().all()


def test_an_error_that_is_the_same_for_all_is_raised() -> None:
    model = seeded(Plain)
    layer = last_conv_stage(model, pixels(1))
    with pytest.raises((ValueError, RuntimeError)):
        Engine(model).explain(
            EXPLAINERS["eigen-cam"], layer, torch.full((3, 3, 16, 16), torch.nan), torch.zeros(3, dtype=torch.int64)
        )


@pytest.mark.parametrize("explainer", ["grad-cam", "eigen-cam"])
def test_scoring_names_the_image_and_keeps_the_rest(explainer: str, tmp_path) -> None:
    images = pixels().clone()
    images[BAD, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="1 of 12 images .*first 2"):
        xeval.score(
            seeded(Plain), [(images, labels())], metrics=("drop",), explainers=(explainer, "random"), out=tmp_path
        )
    each = xeval.results(tmp_path)
    column = each[each.explainer == explainer]["drop.mag@0.45"]
    assert list(column.isna()) == [number == BAD for number in range(12)]
