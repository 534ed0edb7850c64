"""Defines the training methods: what one step of the encoder does, and when the classifier is trained.

A new method is one function with one decorator here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xeval.explainers import EXPLAINERS
from xeval.explainers.cam import closed_form, closed_form_applies
from xeval.models import Classifier
from xeval.registry import Registry
from xeval.training.batches import Batch
from xeval.training.learner import Learner, mode
from xeval.training.losses import collapsed_value, nt_xent, supcon, triplet
from xeval.training.settings import Recipe
from xeval.training.views import masked_view


@dataclass(frozen=True)
class Step:
    """The report of a step: the loss to minimise, and what the history shows.

    ``correct`` counts right predictions (joint classifier), ``collapsed`` is the loss of a collapsed encoder on this
    batch, and ``accepted`` the share of masked images that were classified correctly.
    """

    loss: Tensor
    correct: Tensor | None = None
    collapsed: float | None = None
    accepted: Tensor | None = None


EncoderStep = Callable[[Learner, Batch, int], Step]
HeadTraining = Literal["joint", "every epoch", "after"]


@dataclass(frozen=True)
class Method:
    """One way of training; ``head`` says whether the classifier learns with the encoder, every epoch, or at the end.

    ``explains`` says that the table ``excon`` of a recipe applies to the method.
    """

    name: str
    description: str
    head: HeadTraining
    step: EncoderStep
    explains: bool = False


METHODS: Registry[Method] = Registry("method")


def method(
    name: str, description: str, *, head: HeadTraining, explains: bool = False
) -> Callable[[EncoderStep], EncoderStep]:
    """Register the encoder step of a method."""

    def decorate(step: EncoderStep) -> EncoderStep:
        METHODS.add(name, Method(name, description, head, step, explains), step)
        return step

    return decorate


def head_epochs(recipe: Recipe) -> int:
    """Return the epochs of the head after those of the encoder; a fit on stored features counts as one."""
    if METHODS[recipe.method].head != "after":
        return 0
    return (recipe.head.epochs or recipe.epochs) if recipe.head.fit == "epochs" else 1


def _random(learner: Learner, batch: Batch, epoch: int, number: int) -> Tensor:
    return learner.view(batch, f"encoder:{epoch}:{number}", learner.recipe.views)


def _scale(learner: Learner) -> float:
    loss = learner.recipe.loss
    return loss.temperature / (loss.base_temperature or loss.temperature)


def _contrast(
    learner: Learner, views: tuple[Tensor, Tensor], batch: Batch, background: Tensor | None = None, weight: float = 1
) -> Step:
    """Compute SupCon on two views, with background images in the denominators; all in one forward pass."""
    own = 2 * len(batch.labels)
    images = torch.cat([*views, background]) if background is not None else torch.cat(views)
    embedded = learner.embed(images)
    embeddings = learner.everyone(embedded[:own], batch, views=2)
    extra = None if background is None else learner.extra(embedded[own:], batch)
    loss = learner.recipe.loss
    value = supcon(
        embeddings,
        batch.whole.repeat(2),
        temperature=loss.temperature,
        base_temperature=loss.base_temperature,
        background=extra if extra is not None and len(extra) else None,
        background_weight=weight,
    )
    behind = 0 if extra is None else len(extra)
    return Step(value, collapsed=collapsed_value(len(embeddings), _scale(learner), weight * behind))


def _accepted_share(learner: Learner, batch: Batch, accepted: Tensor) -> Tensor:
    return learner.everyone(accepted.float(), batch).mean()


@method("ce", "cross-entropy, end to end", head="joint")
def ce(learner: Learner, batch: Batch, epoch: int) -> Step:
    """One random view; the head is trained with the encoder."""
    features = learner.features(_random(learner, batch, epoch, 0))
    logits = learner.everyone(learner.logits(features), batch)
    return Step(F.cross_entropy(logits, batch.whole), correct=(logits.argmax(1) == batch.whole).sum())


@method("triplet", "semi-hard triplets on the features, classifier afterwards", head="after")
def triplets(learner: Learner, batch: Batch, epoch: int) -> Step:
    """One random view; no projection."""
    features = learner.everyone(learner.features(_random(learner, batch, epoch, 0)), batch)
    loss = learner.recipe.loss
    return Step(triplet(features, batch.whole, margin=loss.margin, miner=loss.miner))


@method("simclr", "NT-Xent on two random views, labels unused, classifier afterwards", head="after")
def simclr(learner: Learner, batch: Batch, epoch: int) -> Step:
    """Two random views, each the other's only positive."""
    views = torch.cat([_random(learner, batch, epoch, number) for number in (0, 1)])
    embeddings = learner.everyone(learner.embed(views), batch, views=2)
    loss = learner.recipe.loss
    value = nt_xent(embeddings, temperature=loss.temperature, base_temperature=loss.base_temperature)
    return Step(value, collapsed=collapsed_value(len(embeddings), _scale(learner)))


@method("supcon-ori", "supervised contrastive, classifier afterwards for as many epochs", head="after")
@method("supcon", "supervised contrastive, classifier trained after every encoder epoch", head="every epoch")
def supervised(learner: Learner, batch: Batch, epoch: int) -> Step:
    """Two random views."""
    return _contrast(learner, (_random(learner, batch, epoch, 0), _random(learner, batch, epoch, 1)), batch)


@method(
    "excon",
    "supcon with the explanation-masked image as a view where it is still recognised",
    head="every epoch",
    explains=True,
)
def excon(learner: Learner, batch: Batch, epoch: int) -> Step:
    """A masked image that is classified correctly replaces the first random view."""
    if epoch < learner.recipe.explained_from:
        return supervised(learner, batch, epoch)
    masked, accepted = explained_views(learner, batch)
    step = _contrast(learner, _pair(learner, batch, epoch, masked, accepted), batch)
    return Step(step.loss, collapsed=step.collapsed, accepted=_accepted_share(learner, batch, accepted))


@method(
    "exconb",
    "excon with the unrecognised masked images as background negatives",
    head="every epoch",
    explains=True,
)
def exconb(learner: Learner, batch: Batch, epoch: int) -> Step:
    """As excon; the other masked images join the denominators, counted twice."""
    if epoch < learner.recipe.explained_from:
        return supervised(learner, batch, epoch)
    masked, accepted = explained_views(learner, batch)
    copies = learner.recipe.excon.background_copies
    background = masked[~accepted].repeat(copies, 1, 1, 1)
    views = _pair(learner, batch, epoch, masked, accepted)
    step = _contrast(learner, views, batch, background, weight=2 / copies)
    return Step(step.loss, collapsed=step.collapsed, accepted=_accepted_share(learner, batch, accepted))


def _pair(learner: Learner, batch: Batch, epoch: int, masked: Tensor, accepted: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (_random(learner, batch, epoch, number) for number in (0, 1))
    return torch.where(accepted[:, None, None, None], masked, first), second


def explained_views(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the masked images N×C×H×W and, bool (N,), which of them the classifier assigns to their true label.

    BatchNorm's statistics stay untouched unless the recipe asks for the published behaviour (``explain_bn = "train"``).
    """
    settings, model = learner.recipe.excon, learner.model
    standard = learner.standard(batch)
    with mode(model, training=settings.explain_bn == "train"):
        maps = _maps(learner, standard, batch.labels)
        masked = masked_view(standard, maps, settings.cutoff)
        with torch.no_grad():
            accepted = model(masked).argmax(1) == batch.labels
    return masked, accepted


def _maps(learner: Learner, standard: Tensor, labels: Tensor) -> Tensor:
    """Return the maps of the true (or predicted) class.

    Where the closed form holds, one forward pass gives both the prediction and the map.
    """
    settings, model = learner.recipe.excon, learner.model
    layer = learner.explained_layer
    closed = settings.explainer == "grad-cam" and settings.explain_bn == "eval" and closed_form_applies(model, layer)
    if closed and isinstance(model, Classifier):
        with torch.no_grad():
            activations = model.stages(standard)
            targets = labels if settings.target == "label" else model.logits(activations.mean((-2, -1))).argmax(1)
            return closed_form(activations, model.linear.weight, targets)
    with torch.no_grad():  # the published code also predicts the standard view in a separate pass
        predicted = model(standard).argmax(1) if settings.target == "predicted" or model.training else labels
    targets = labels if settings.target == "label" else predicted
    return EXPLAINERS[settings.explainer].explain(model, layer, standard, targets)
