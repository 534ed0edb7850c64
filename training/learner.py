"""What is trained: a classifier, the projection of the contrastive losses, and the views both look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.data import DatasetInfo, normalize
from xeval.models import Classifier, ModelSpec, build
from xeval.runtime.distributed import ALONE, Processes
from xeval.training.batches import Batch
from xeval.training.settings import Recipe, Views
from xeval.training.views import Draws, random_view


def model_spec(recipe: Recipe, info: DatasetInfo) -> ModelSpec:
    """The classifier that the recipe trains on this data set."""
    return ModelSpec(
        arch=recipe.arch,
        num_classes=len(info.classes),
        in_channels=info.channels,
        image_size=info.size,
        normalize_features=recipe.head.normalize,
    )


def projection(dim: int, recipe: Recipe) -> nn.Sequential:
    """Linear, ReLU, linear: features → embeddings before normalisation."""
    hidden = recipe.projection.hidden or dim
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, recipe.projection.dim))


class Learner(nn.Module):
    """Model and projection with weights drawn from ``seed``; views are functions of (seed, epoch, view, image).

    Of several ``processes`` each passes its share of a batch through the network, :meth:`everyone` gathers what comes
    out, and from there on all compute the same: losses never know how many processes there are.
    """

    def __init__(self, recipe: Recipe, info: DatasetInfo, seed: int, processes: Processes = ALONE) -> None:
        super().__init__()
        self.recipe, self.info, self.seed, self.processes = recipe, info, seed, processes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: Classifier = build(model_spec(recipe, info))
            self.projection = projection(self.model.linear.in_features, recipe)

    def standard(self, batch: Batch) -> Tensor:
        """The view without randomness: normalised images."""
        return normalize(batch.images, self.info).contiguous(memory_format=torch.channels_last)

    def view(self, batch: Batch, stream: str, views: Views) -> Tensor:
        """A random view, normalised; the same again for the same ``stream``."""
        scaled = batch.images.float() / 255
        changed = random_view(scaled, Draws(self.seed, stream, batch.keys), views)
        return normalize(changed, self.info).contiguous(memory_format=torch.channels_last)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of unit length."""
        return F.normalize(self.projection(self.model.features(images)))

    def everyone(self, outputs: Tensor, batch: Batch, views: int = 1) -> Tensor:
        """Rows of the whole batch from the outputs of this rank's share, one view of all images after the other."""
        if self.processes.world == 1:
            return outputs
        by_image = outputs.reshape(views, len(batch.labels), *outputs.shape[1:]).transpose(0, 1)
        return self.processes.gather(by_image, batch.shares).transpose(0, 1).flatten(0, 1)

    def extra(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Rows of which every rank has as many as it happens to have."""
        own = len(outputs) if batch.shares[self.processes.rank] else 0
        return self.processes.gather(outputs, self.processes.counts(own))


def make_learner(
    recipe: Recipe, info: DatasetInfo, seed: int, device: torch.device, processes: Processes = ALONE
) -> Learner:
    """A learner on its device; several GPUs share BatchNorm's statistics, several CPU ranks have each their own."""
    learner = Learner(recipe, info, seed, processes)
    if device.type == "cuda" and processes.world > 1:
        learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
    return learner.to(device).to(memory_format=torch.channels_last)


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; every module's own flag comes back."""
    flags = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag
