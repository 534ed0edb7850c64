"""A head for an encoder that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.runs import make_run
from xeval.checkpoints.load import load_model
from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import normalize, open_dataset
from xeval.errors import CheckpointError, UsageError
from xeval.models.classifier import NearestNeighbours
from xeval.scoring.run import score
from xeval.training.encoder import centroids, probe_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict without a head, in torchvision's manner without a prefix."""
    folder = tmp_path_factory.mktemp("encoder")
    _, model = make_run(folder / "run", arch="resnet-small")
    write_tensors(folder / "moco.safetensors", model.backbone.state_dict())  # type: ignore[arg-type]
    return folder / "moco.safetensors"


def test_centroids_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    found = centroids(features, torch.tensor([0, 1, 1]), 2)
    assert found.weight.tolist() == [[1, 0], [0, 1]]
    assert found.bias.tolist() == [0, 0]


def test_nearest_neighbours_vote_by_hand() -> None:
    head = NearestNeighbours(2, 3, 4, k=3, temperature=0.5)
    head.load_state_dict(
        {"bank": torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [-1, 0]]), "labels": torch.tensor([0, 1, 1, 2])}
    )
    share = head(torch.tensor([[1.0, 0.0]])).softmax(1)[0]
    votes = torch.exp(torch.tensor([1.0, 0.6, 0.0]) / 0.5)  # the opposite example is not among the three nearest
    expected = torch.tensor([votes[0], votes[1] + votes[2], 0]) / votes.sum()
    assert torch.allclose(share, expected, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "centroid"])
@pytest.mark.parametrize("unit", [False, True])
def test_the_head_is_the_same_in_training_and_in_scoring(encoder: Path, tmp_path: Path, head: str, unit: bool) -> None:
    run = probe_encoder(encoder, "digits", out=tmp_path, head=head, normalize_features=unit)  # type: ignore[arg-type]
    assert run.name == "digits-moco-s0"
    loaded = load_model(run)
    assert loaded.card is not None
    assert loaded.card.selection.best_accuracy is not None
    assert loaded.card.selection.best_accuracy > 0.5  # random convolutions, trained head
    model = loaded.model.eval()
    split = open_dataset("digits").split("test")
    x, labels = normalize(split.read(range(len(split))), split.info), torch.as_tensor(split.labels)
    with torch.no_grad():
        features = model.features(x)  # type: ignore[operator]
        if unit or head == "centroid":
            features = F.normalize(features)
        by_hand = features @ model.head.weight.T + model.head.bias  # type: ignore[union-attr,operator]
        assert torch.allclose(model(x), by_hand, atol=1e-5)
        assert (model(x).argmax(1) == labels).float().mean() > 0.5


def test_a_nearest_neighbour_head_is_scored_like_any_other(encoder: Path, tmp_path: Path) -> None:
    run = probe_encoder(encoder, "digits", out=tmp_path, head="knn")
    loaded = load_model(run)
    assert loaded.card is not None
    assert loaded.card.selection.best_accuracy is not None
    assert loaded.card.selection.best_accuracy > 0.8
    out = score(run, limit=20, metrics=("drop", "complexity"))
    summary = json.loads((out / "scores.json").read_text())
    assert summary["scores"]["grad-cam"]["complexity.gini"]["n"] > 0


def test_a_probed_encoder_is_scored_and_an_unprobed_one_refused(encoder: Path, tmp_path: Path) -> None:
    run = probe_encoder(encoder, "digits", out=tmp_path, method="moco-v2")
    assert (score(run, limit=20, metrics=("drop",)) / "scores.json").is_file()
    with pytest.raises(CheckpointError, match="no linear head — run: xeval probe"):
        score(encoder, dataset="digits", arch="resnet-small")


def test_an_encoder_that_fits_nothing_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit resnet18"):
        probe_encoder(encoder, "digits", out=tmp_path, arch="resnet18")


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".safetensors"}


def test_a_probe_replaces_no_other_run(encoder: Path, tmp_path: Path) -> None:
    """The same probe again is the same run; another head, another encoder or a training keep their folder."""
    run = probe_encoder(encoder, "digits", out=tmp_path, head="centroid")
    before = contents(run)
    assert probe_encoder(encoder, "digits", out=tmp_path, head="centroid") == run
    assert contents(run) == before
    _, other = make_run(tmp_path / "other", arch="resnet-small", seed=5)
    (tmp_path / "again").mkdir()
    write_tensors(tmp_path / "again" / "moco.safetensors", other.backbone.state_dict())  # type: ignore[arg-type]
    for path, head in ((encoder, "knn"), (tmp_path / "again" / "moco.safetensors", "centroid")):
        with pytest.raises(UsageError, match="already holds a run, and not of this encoder and head"):
            probe_encoder(path, "digits", out=tmp_path, head=head)  # type: ignore[arg-type]
    assert contents(run) == before
    make_run(tmp_path / "digits-mine-s0", arch="resnet-small")
    with pytest.raises(UsageError, match="already holds a run"):
        probe_encoder(encoder, "digits", out=tmp_path, method="mine")
    (tmp_path / "digits-half-s0" / "state").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds a training that is not finished"):
        probe_encoder(encoder, "digits", out=tmp_path, method="half")
