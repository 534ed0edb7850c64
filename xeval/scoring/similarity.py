"""What an encoder without a head is explained for: to which vectors the embedding of an image is similar.

``itself`` is the image's own embedding, as it is without any perturbation; a tensor D or V×D are vectors, such as
embeddings of texts; a loader of (images, labels) stands for the mean of the embeddings of each of its classes, each
brought to unit length first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.checkpoints.identity import tensors_sha256
from xeval.errors import DataError, UsageError
from xeval.models import frozen_eval
from xeval.models.reading import LOGITS, Meaning, Reading
from xeval.models.similarity import Similarity
from xeval.runtime.files import digest
from xeval.scoring.loader import Given, class_numbers, collect

ITSELF = "itself"
LOCAL = frozenset(
    {
        "grad-cam",
        "grad-cam++",
        "layer-cam",
        "hires-cam",
        "xgrad-cam",
        "guided-backprop",
        "guided-grad-cam",
        "saliency",
        "input-x-gradient",
        "gradient-attention",
    }
)
"""The explainers that know of the score only its gradient at the image."""
AT_ONCE = 64
WAYS = 'give "itself", a tensor D or V×D, or a loader of (images, labels)'
P = "f is the cosine itself, between −1 and 1: a drop is a drop of the cosine"


@dataclass(frozen=True)
class Target:
    """The vectors V×D that embeddings are compared with, what the cosines mean, and their ``identity`` in a row."""

    vectors: Tensor
    meaning: Meaning
    identity: str

    def reading(self, key: str | None) -> Similarity:
        """Return how answers are read whose part ``key`` is the embedding."""
        return Similarity(key=key, vectors=self.vectors, stands_for=self.meaning)

    def labels(self, given: Tensor) -> Tensor:
        """Return the number of the vector that belongs to each image, int64 (N,): given, unless there is no choice."""
        if self.identity == ITSELF:
            return torch.arange(len(given))
        return torch.zeros(len(given)).long() if self.meaning.fixed else class_numbers(given, len(self.vectors))


def require_slope(meaning: Meaning, explainers: Sequence[str]) -> None:
    """Raise :class:`UsageError` for explainers that have nothing to go by: a cosine of 1 has the gradient 0."""
    flat = [name for name in explainers if name in LOCAL] if meaning.peak else []
    if flat:
        raise UsageError(
            f"{flat[0]} takes the gradient at the image, where the cosine of its embedding to itself is at its maximum "
            "and the gradient 0",
            "name others: occlusion, lime, kernel-shap, integrated-gradients, score-cam or ablation-cam",
        )


def target_of(
    similar_to: Any, model: nn.Module, images: Tensor, reading: Reading, as_taken: Callable[[Given], Tensor]
) -> Target:
    """Return what ``similar_to`` means; ``images`` N×C×H×W are as the model takes them, as ``as_taken`` makes others.

    Raises:
        UsageError: it is none of the three.
        DataError: vectors or classes that are none.
    """
    if reading.kind != LOGITS.kind:
        raise UsageError(f"similar_to= takes embeddings, and output= says {reading.kind}", 'give output="KEY" alone')

    def embed(some: Tensor) -> Tensor:
        return _embeddings(model, some, Similarity(key=reading.key, vectors=images[:0], stands_for=Meaning()))

    if isinstance(similar_to, str):
        if similar_to != ITSELF:
            raise UsageError(f"similar_to={similar_to!r} is unknown", WAYS)
        told = f"explained: the cosine of an image's embedding to that of the clean image itself; {P}"
        return Target(embed(images), Meaning("cosine", fixed=True, peak=True, told=told), ITSELF)
    if isinstance(similar_to, Tensor):
        return _of_vectors(_rows(similar_to.detach().float().cpu()), embed(images[:1]).shape[1])
    return _of_classes(collect(similar_to), embed, as_taken)


def _embeddings(model: nn.Module, images: Tensor, reading: Reading) -> Tensor:
    with frozen_eval(model), torch.no_grad():
        return torch.cat([reading.numbers(model(part)) for part in torch.split(images, AT_ONCE)])


def _rows(vectors: Tensor) -> Tensor:
    return vectors[None] if vectors.ndim == 1 else vectors


def _of_vectors(vectors: Tensor, size: int) -> Target:
    if vectors.ndim != 2 or vectors.shape[1] != size or not bool((vectors.isfinite() & vectors.any(1, True)).all()):
        raise DataError(
            f"vectors of shape {tuple(vectors.shape)} are not finite, other than 0 and as long as embeddings, {size}",
            "give a tensor D or V×D",
        )
    count = len(vectors)
    told = f"explained: the cosine of an image's embedding to a given vector, of {count}; {P}"
    return Target(vectors, Meaning("cosine", fixed=count == 1, told=told), digest(vectors.tolist()))


def _of_classes(given: Given, embed: Callable[[Tensor], Tensor], as_taken: Callable[[Given], Tensor]) -> Target:
    columns = given.labels.shape[1] if given.labels.ndim == 2 else 1
    labels = class_numbers(given.labels, columns if columns > 1 else int(given.labels.max()) + 1)
    count = int(labels.max()) + 1
    missing = sorted(set(range(count)) - set(labels.tolist()))
    if missing:
        raise DataError(f"no image of similar_to= has the label {missing[0]}", "give images of each class")
    units = F.normalize(embed(as_taken(given)))
    centroids = torch.stack([units[labels == number].mean(0) for number in range(count)])
    told = f"explained: the cosine of an image's embedding to the mean embedding of a class, of {count}; {P}"
    identity = digest([tensors_sha256({"images": given.images}), labels.tolist()])
    return Target(centroids, Meaning("cosine", fixed=count == 1, told=told), identity)
