"""Small complete run directories, made without training."""

from __future__ import annotations

from pathlib import Path

import torch

from xeval.checkpoints.card import RunCard, Selection, write_card
from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import DatasetInfo, open_dataset
from xeval.models import Classifier, ModelSpec, build


def make_run(
    directory: Path,
    *,
    dataset: str = "digits",
    method: str = "excon",
    seed: int = 0,
    arch: str = "cnn-tiny",
    root: Path | None = None,
    info: DatasetInfo | None = None,
) -> tuple[Path, Classifier]:
    """A run with random weights, as training would have left it; the model of its best weights."""
    info = info or open_dataset(dataset, root).info
    spec = ModelSpec(arch=arch, num_classes=len(info.classes), in_channels=info.channels, image_size=info.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, last = build(spec), build(spec)
    directory.mkdir(parents=True)
    write_tensors(directory / "best.safetensors", model.state_dict())
    write_tensors(directory / "last.safetensors", last.state_dict())
    (directory / "history.csv").write_text("epoch,loss,val_accuracy,val_loss\n1,2.3,0.1,2.3\n2,2.2,0.1,2.2\n")
    card = RunCard(
        name=f"{dataset}-{method}-s{seed}",
        method=method,
        seed=seed,
        recipe_name=dataset,
        recipe={},
        recipe_hash="0" * 64,
        dataset=info,
        train_manifest="0" * 64,
        model=spec,
        selection=Selection(select_on="heldout", best_epoch=1, best_accuracy=0.1, last_accuracy=0.1),
        provenance={},
    )
    write_card(directory, card, ["best.safetensors", "last.safetensors", "history.csv"])
    return directory, model.eval()
