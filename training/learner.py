"""Defines what is trained: a classifier, the projection of the contrastive losses, and the views that both get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.data import DatasetInfo, normalize
from xeval.errors import UsageError, XevalError
from xeval.models import Classifier, ModelSpec
from xeval.models.frozen import device_of
from xeval.models.layers import EXCON_LAYER, excon_layer, last_conv_stage
from xeval.models.parts import Parts
from xeval.models.sources import apart, network
from xeval.runtime.distributed import ALONE, Processes
from xeval.runtime.endings import first_line
from xeval.training.batches import Batch
from xeval.training.initial import begin_with
from xeval.training.precision import forward
from xeval.training.settings import Recipe, Views
from xeval.training.views import Draws, random_view


def model_spec(recipe: Recipe, info: DatasetInfo) -> ModelSpec:
    """Return the classifier that the recipe trains on this data set; who gives a recipe names its network."""
    return ModelSpec(
        arch=recipe.arch,
        num_classes=len(info.classes),
        in_channels=info.channels,
        image_size=info.size,
        normalize_features=recipe.head.normalize,
    ).named(recipe.arch)


def projection(dim: int, recipe: Recipe) -> nn.Sequential:
    """Return the projection linear, ReLU, linear: features → embeddings before normalisation."""
    hidden = recipe.projection.hidden or dim
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, recipe.projection.dim))


class Learner(nn.Module):
    """A model and its projection with weights drawn from ``seed``; views are functions of (seed, epoch, view, image).

    With several ``processes`` each passes its share of a batch through the network, and :meth:`everyone` gathers the
    outputs. From there on all processes compute the same, so losses do not depend on how many there are.
    """

    def __init__(
        self,
        recipe: Recipe,
        info: DatasetInfo,
        seed: int,
        parts: Classifier | Parts,
        projection: nn.Module,
        processes: Processes = ALONE,
        begun_with: str | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.info, self.seed, self.processes = recipe, info, seed, processes
        self.model: nn.Module = parts if isinstance(parts, Classifier) else parts.network
        self.projection, self.begun_with = projection, begun_with
        self._taken_apart = None if isinstance(parts, Classifier) else parts

    @property
    def parts(self) -> Classifier | Parts:
        """The model as features, head and logits."""
        return self._taken_apart or cast("Classifier", self.model)

    @property
    def explained_layer(self) -> str:
        """Name of the layer whose explanation becomes a view."""
        named = self.recipe.excon.layer or self.default_layer
        return excon_layer(self.model, self.info.size) if named == EXCON_LAYER else named

    @cached_property
    def default_layer(self) -> str:
        """Name of the layer that is explained where none is named; raise :class:`UsageError` where there is none."""
        if isinstance(self.model, Classifier):
            return self.model.pooled_layer
        return last_conv_stage(self.model, torch.zeros(1, *self.info.shape, device=device_of(self.model)))

    def standard(self, batch: Batch) -> Tensor:
        """Return the view without randomness: normalised images."""
        return normalize(batch.images, self.info).contiguous(memory_format=torch.channels_last)

    def view(self, batch: Batch, stream: str, views: Views) -> Tensor:
        """Return a random view, normalised; the same ``stream`` gives the same view again."""
        scaled = batch.images.float() / 255
        changed = random_view(scaled, Draws(self.seed, stream, batch.keys), views)
        return normalize(changed, self.info).contiguous(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Return features N×K, float32, of a pass in the recipe's precision."""
        with forward(self.recipe.precision, images.device):
            return self.parts.features(images).float()

    def logits(self, features: Tensor) -> Tensor:
        """Return logits, float32, of a pass in the recipe's precision."""
        with forward(self.recipe.precision, features.device):
            return self.parts.logits(features).float()

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings of unit length, float32, of a pass in the recipe's precision."""
        with forward(self.recipe.precision, images.device):
            projected = self.projection(self.parts.features(images))
        return F.normalize(projected.float())

    def everyone(self, outputs: Tensor, batch: Batch, views: int = 1) -> Tensor:
        """Gather the rows of the whole batch from every rank's share, one view of all images after the other."""
        if self.processes.world == 1:
            return outputs
        by_image = outputs.reshape(views, len(batch.labels), *outputs.shape[1:]).transpose(0, 1)
        return self.processes.gather(by_image, batch.shares).transpose(0, 1).flatten(0, 1)

    def extra(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Gather rows of which each rank has a different number."""
        own = len(outputs) if batch.shares[self.processes.rank] else 0
        return self.processes.gather(outputs, self.processes.counts(own))


def fresh_learner(recipe: Recipe, info: DatasetInfo, seed: int, processes: Processes = ALONE) -> Learner:
    """Return a learner on the CPU whose weights are drawn from ``seed``; torch's random state is put back.

    The encoder has the weights of ``recipe.init`` where it names some.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = model_spec(recipe, info)
        parts = _parts(spec)
        projected = projection(parts.linear.in_features, recipe)
        begun_with = begin_with(parts, spec, recipe.init) if recipe.init else None
        return Learner(recipe, info, seed, parts, projected, processes, begun_with)


def _parts(spec: ModelSpec) -> Classifier | Parts:
    """Build a network and take it apart; raise :class:`UsageError` where it is none for these images."""
    try:
        return apart(network(spec), spec)
    except XevalError:
        raise
    except Exception as error:  # other libraries raise anything for sizes that they do not expect
        raise UsageError(
            f"{spec.arch} cannot be trained on images of {spec.image_size} px ({first_line(error)})",
            "choose another image_size or arch",
        ) from None


def make_learner(
    recipe: Recipe, info: DatasetInfo, seed: int, device: torch.device, processes: Processes = ALONE
) -> Learner:
    """Return a learner on its device; several GPUs share BatchNorm's statistics, several CPU ranks do not."""
    learner = fresh_learner(recipe, info, seed, processes)
    if device.type == "cuda" and processes.world > 1:
        learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
    return learner.to(device).to(memory_format=torch.channels_last)


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Set training or evaluation mode inside the block, then restore the flag of every module."""
    flags = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag
