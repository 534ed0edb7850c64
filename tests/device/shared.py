"""One epoch of SupCon, shared by the ranks of a job: ``python -m tests.device.shared OUT DEVICE`` on each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import open_dataset
from xeval.runtime.distributed import Processes, joined
from xeval.runtime.progress import Silent
from xeval.training.batches import make_pool
from xeval.training.epochs import encoder_epoch
from xeval.training.learner import make_learner
from xeval.training.methods import METHODS
from xeval.training.precision import exact
from xeval.training.recipe import load_recipe
from xeval.training.schedule import make_optimizer

SETTINGS = ("image_size=8", "epochs=2", "batch_size=16", "optimizer.name=sgd", "optimizer.lr=0.02", "precision=float32")


def trained(processes: Processes, device: torch.device, out: Path) -> None:
    """Train on 48 digits in three steps; the main rank writes the weights."""
    recipe, split = load_recipe("digits", "supcon", SETTINGS), open_dataset("digits", None, 8).split("train")
    learner = make_learner(recipe, split.info, 0, device, processes)
    pool = make_pool(split, np.arange(48), device, processes)
    optimizer = make_optimizer(learner.parameters(), recipe.optimizer)
    with exact(recipe.precision):
        encoder_epoch(learner, METHODS["supcon"], pool, optimizer, epoch=1, progress=Silent())
    if processes.main:
        write_tensors(out, {name: tensor.cpu() for name, tensor in learner.state_dict().items()})


if __name__ == "__main__":
    with joined(sys.argv[2]) as job:
        trained(job, torch.device(job.device), Path(sys.argv[1]))
