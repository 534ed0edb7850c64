"""Encoders without a head are explained through the cosine of an embedding to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

import xeval
from tests.outside.networks import pixels, seeded
from tests.outside.oracles import require_equal
from xeval.errors import DataError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import frozen_eval
from xeval.models.answers import as_logits
from xeval.models.reading import LOGITS, Meaning
from xeval.models.similarity import Similarity
from xeval.scoring.module import Normalization, adapt
from xeval.scoring.similarity import ITSELF, LOCAL, WAYS, target_of

SIZE = 5
UNRULED = ("deep-lift", "lrp")


def encoder() -> nn.Sequential:
    layers = (nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, SIZE))


MODEL = seeded(encoder)
LINEAR = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, SIZE, bias=False)))
VECTORS = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(6) % 3


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt()))


def scored(model: nn.Module, similar_to: Any, given: Tensor = LABELS, **options: Any) -> pd.DataFrame:
    chosen = {"explainers": ("occlusion", "random"), "metrics": ("drop", "deletion"), **options}
    return xeval.score(model, [(pixels(len(given)), given)], similar_to=similar_to, **chosen)


def test_p_is_the_cosine_and_the_drop_is_one_of_it(tmp_path: Path) -> None:
    """By hand: the embedding of a linear encoder, its cosines, and p of the control's masked images through drop."""
    vectors = VECTORS * torch.tensor([1, -1, 1])[:, None]
    scored(LINEAR, vectors, out=tmp_path, target="label")
    each = xeval.results(tmp_path)[:6]
    z = pixels(6).flatten(1) @ LINEAR[1].weight.T
    by_hand = [[cosine(one, vector) for vector in vectors] for one in z]
    assert each["p0"].tolist() == pytest.approx([by_hand[n][int(LABELS[n])] for n in range(6)], abs=1e-6)
    assert each["predicted"].tolist() == [int(np.argmax(row)) for row in by_hand]
    summary = scored(LINEAR, vectors, target="label").attrs["summary"]
    right = [int(np.argmax(row)) == int(label) for row, label in zip(by_hand, LABELS, strict=True)]
    assert summary["model"]["accuracy"] == pytest.approx(sum(right) / 6)
    assert summary["model"]["ece"] is None
    negative = each["p0"] <= 0
    assert 0 < negative.sum() < 6
    assert each["drop.mag@0.3"].isna().tolist() == negative.tolist()
    assert summary["scores"]["occlusion"]["drop.mag@0.3"]["undefined"] == {"clean score not positive": negative.sum()}
    assert "f is the cosine itself" in " ".join(summary["conventions"])


def test_gradients_of_a_linear_encoder_by_hand() -> None:
    """∂ cos(Wx, v)/∂x = (v̂ − cos·ẑ)ᵀ W / ‖z‖."""
    x, w, chosen = pixels(3), LINEAR[1].weight.detach(), torch.tensor([2, 0, 1])
    maps = xeval.explain(LINEAR, x, chosen, explainer="input-x-gradient", layer="0", similar_to=VECTORS)
    for n in range(3):
        z, v = w @ x[n].flatten(), VECTORS[chosen[n]]
        slope = (v / v.norm() - cosine(z, v) * z / z.norm()) @ w / z.norm()
        assert torch.allclose(maps[n, 0], (slope.reshape(3, 16, 16) * x[n]).sum(0), atol=1e-6)


class SimilarityToConceptTarget:
    """As in pytorch-grad-cam's tutorial on embeddings."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __call__(self, model_output: Tensor) -> Tensor:
        return nn.CosineSimilarity(dim=0)(model_output, self.features)


def test_grad_cam_is_that_of_pytorch_grad_cam() -> None:
    images, chosen, raw = pixels(2), torch.tensor([0, 2]), []

    class Unclipped(GradCAM):  # type: ignore[misc]
        def get_cam_image(self, *arguments: Any, **keywords: Any) -> Any:
            raw.append(super().get_cam_image(*arguments, **keywords))
            return raw[-1]

    with Unclipped(MODEL, [MODEL[2]]) as explain:
        explain(images.clone(), [SimilarityToConceptTarget(VECTORS[n]) for n in chosen])
    found = xeval.explain(MODEL, images, chosen, layer="2", similar_to=VECTORS)
    require_equal(found, torch.as_tensor(raw[0]).unsqueeze(1))


def test_itself_is_1_and_falls_with_the_cosine_to_the_clean_image(tmp_path: Path) -> None:
    summary = scored(MODEL, ITSELF, out=tmp_path, metrics=("drop", "deletion", "ssim")).attrs["summary"]
    each = xeval.results(tmp_path)
    assert each["p0"].tolist() == pytest.approx([1.0] * len(each), abs=1e-6)
    assert summary["model"]["accuracy"] is None
    assert summary["explained"]["target"] == "label"
    with torch.no_grad():
        clean, black = MODEL(pixels(6)), MODEL(torch.zeros(1, 3, 16, 16))
    (steps,) = [curve for name, curve in summary["curves"]["deletion"].items() if name == "random"]
    assert steps[0] == pytest.approx(1, abs=1e-6)
    assert steps[-1] == pytest.approx(float(np.mean([cosine(one, black[0]) for one in clean])), abs=1e-5)


def test_explainers_of_the_gradient_at_the_image_have_nothing_to_go_by() -> None:
    """The list is the truth: their maps vanish at the maximum of the cosine, and no other explainer's do."""
    images = pixels(2).double()
    model = seeded(encoder).double()
    own, given = (
        Similarity(vectors=vectors, stands_for=Meaning("cosine")) for vectors in (model(images).detach(), -VECTORS)
    )
    targets = torch.arange(2)
    for name in EXPLAINERS:
        if name not in (*UNRULED, "attention-rollout", "gradient-attention"):
            sizes = []
            for reading in (own, given):
                with as_logits(model, reading), frozen_eval(model):
                    sizes.append(float(EXPLAINERS[name].explain(model, "2", images, targets).abs().amax()))
            assert (sizes[0] < 1e-9 * sizes[1]) == (name in LOCAL), name
    for refused in (
        lambda: scored(MODEL, ITSELF, explainers="grad-cam"),
        lambda: xeval.explain(MODEL, pixels(2), similar_to=ITSELF),
    ):
        with pytest.raises(UsageError, match="grad-cam takes the gradient at the image"):
            refused()


@pytest.mark.parametrize("name", UNRULED)
def test_rules_for_layers_have_none_for_a_cosine(name: str) -> None:
    with pytest.raises(UsageError, match="no rule for a cosine behind the network"):
        xeval.explain(MODEL, pixels(2), explainer=name, similar_to=VECTORS)


def test_classes_are_the_means_of_unit_embeddings_of_another_loader() -> None:
    """By hand, with a loader that normalises: both loaders' images reach the encoder as they are."""
    constants = Normalization((0.4,) * 3, (0.5,) * 3)
    others, of = (pixels(9).flip(0) - 0.4) / 0.5, torch.arange(9) % 3
    given = [((pixels(6) - 0.4) / 0.5, LABELS)]
    loaded = adapt(MODEL, given, normalization=constants, similar_to=[(others, of)])[0]
    with torch.no_grad():
        z = MODEL(others)
        for number in range(3):
            mean = sum(one / one.norm() for one in z[of == number]) / 3
            assert torch.allclose(loaded.reading.vectors[number], mean, atol=1e-6)  # type: ignore[attr-defined]
    hot = adapt(MODEL, given, normalization=constants, similar_to=[(others, torch.eye(3)[of])])[0]
    assert torch.equal(hot.reading.vectors, loaded.reading.vectors)  # type: ignore[attr-defined]
    summary = scored(MODEL, [(pixels(9), of)], explainers=("grad-cam", "random")).attrs["summary"]
    assert summary["dataset"]["classes"] == ["0", "1", "2"]
    assert "the mean embedding of a class, of 3" in " ".join(summary["checkpoint"]["notes"])


def test_targets_are_a_part_of_what_a_row_is() -> None:
    given, other = [(pixels(6), LABELS)], VECTORS + 1
    keys = [
        adapt(MODEL, given, similar_to=aim)[0].sha256
        for aim in (
            ITSELF,
            VECTORS,
            other,
            [(pixels(9), torch.arange(9) % 3)],
            [(pixels(9).flip(0), torch.arange(9) % 3)],
        )
    ]
    assert (
        len({*keys, adapt(seeded(encoder), given, similar_to=None)[0].sha256}) == 6
        if SIZE == 3
        else len(set(keys)) == 5
    )
    assert adapt(MODEL, given, similar_to=VECTORS.clone())[0].sha256 == keys[1]


def test_metrics_that_need_the_probability_of_a_class_are_left_out_and_said() -> None:
    for name in ("fgsm", "quantus:Complexity"):
        with pytest.raises(UsageError, match="the score is a cosine, not the probability of a class"):
            scored(MODEL, VECTORS, metrics=(name,))
    notes = scored(MODEL, VECTORS[0], metrics=None, limit=2).attrs["summary"]["dataset"]["notes"]
    assert "left out, as there is no other class: contrast" in notes


@pytest.mark.parametrize(
    ("similar_to", "output", "problem"),
    [
        ("others", "logits", "similar_to='others' is unknown"),
        (VECTORS[:, 1:], "logits", "as long as embeddings, 5"),
        (0 * VECTORS, "logits", "other than 0"),
        ([(pixels(4), torch.tensor([0, 0, 2, 2]))], "logits", "no image of similar_to= has the label 1"),
        (VECTORS, "probabilities", "similar_to= takes embeddings, and output= says probabilities"),
    ],
)
def test_other_targets_are_refused(similar_to: Any, output: str, problem: str) -> None:
    with pytest.raises((UsageError, DataError), match=problem) as told:
        scored(MODEL, similar_to, output=output)
    assert told.value.remedy
    assert ITSELF in WAYS


def test_the_embedding_may_lie_in_a_container() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MODEL

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = self.inner(x)
            return {"last": z[:, :2], "pooler_output": z}

    images, one = pixels(2), torch.tensor([0, 1])
    wanted = xeval.explain(MODEL, images, one, layer="2", similar_to=VECTORS)
    assert torch.equal(xeval.explain(Packed(), images, one, layer="inner.2", similar_to=VECTORS), wanted)
    named = xeval.explain(Packed(), images, one, layer="inner.2", similar_to=VECTORS, output="pooler_output")
    assert torch.equal(named, wanted)
    assert target_of(VECTORS, Packed(), images, LOGITS, lambda given: given.images).vectors.equal(VECTORS)
