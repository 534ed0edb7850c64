"""Read an embedding as its similarity to vectors, so that an encoder without a head can be explained.

The explained number is a cosine, as in the similarity targets of pytorch-grad-cam (``SimilarityToConceptTarget`` of its
tutorial on embeddings; J. Gildenblat and contributors, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from xeval.models.reading import Meaning, Reading


@dataclass(frozen=True, eq=False)
class Similarity(Reading):
    """Reads an embedding N×D as its cosines N×V with the ``vectors`` V×D, which take the place of logits."""

    kind: str = "embeddings"
    vectors: Tensor = field(kw_only=True)
    stands_for: Meaning = field(kw_only=True)

    @property
    def curved(self) -> str:
        """What lies between the network's answer and the number that is explained."""
        return "a cosine"

    def meaning(self, outputs: int) -> Meaning:
        """Return what the cosines stand for, whatever the length of an embedding."""
        del outputs
        return self.stands_for

    def classes(self, outputs: int) -> int:
        """Return the number of vectors, whatever the length of an embedding."""
        del outputs
        return len(self.vectors)

    def logits(self, answer: Any) -> Tensor:
        """Return the cosines N×V; those of an embedding of zeros are 0."""
        return cosines(self.numbers(answer), self.vectors)


def cosines(embeddings: Tensor, vectors: Tensor) -> Tensor:
    """Return the cosine of each embedding N×D with each vector V×D: N×V."""
    return F.normalize(embeddings) @ F.normalize(vectors.to(embeddings)).T
