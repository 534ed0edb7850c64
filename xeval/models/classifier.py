"""The classifier around a backbone, and the specification from which it is built."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.errors import UsageError
from xeval.models.architectures import backbone

Side: TypeAlias = Annotated[int, Field(ge=1)]


class ModelSpec(BaseModel):
    """What is needed to build a classifier, saved with the checkpoint; a k-NN head has ``bank`` examples.

    ``image_size`` is the side of square images, or height and width of others. ``typed`` says that the user has named
    the network in this very call. No file can say so: it is not stored, and what is read from a file never has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = Field(max_length=1000)
    num_classes: int = Field(ge=2)
    in_channels: int = Field(default=3, ge=1, le=1024)
    image_size: Side | tuple[Side, Side]
    normalize_features: bool = False
    bank: int = Field(default=0, ge=0)
    _typed: bool = PrivateAttr(default=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return self.in_channels, height, width

    @property
    def typed(self) -> bool:
        """Whether the user has named the network in this very call."""
        return self._typed

    def named(self, arch: str) -> ModelSpec:
        """Return the same with a network that the user has named in this very call."""
        spec = self.model_copy(update={"arch": arch})
        spec._typed = True
        return spec


class NearestNeighbours(nn.Module):
    """A head that lets the k most similar stored examples vote.

        logit_c = log Σ_j exp(cos_j / τ)

    The sum is over the examples j of class c among the k nearest by cosine, so that the softmax is the share of the
    votes. A class without a vote gets log(ε).

    Source: Z. Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018.
    """

    def __init__(self, dim: int, num_classes: int, examples: int, *, k: int = 20, temperature: float = 0.07) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(examples, dim))
        self.register_buffer("labels", torch.zeros(examples, dtype=torch.int64))
        self.bank: Tensor
        self.labels: Tensor
        self.num_classes = num_classes
        self.k = min(k, examples)
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Map unit features N×dim to logits N×classes."""
        similarity, nearest = (features @ self.bank.T).topk(self.k, dim=1)
        votes = torch.exp((similarity - 1) / self.temperature)
        total = torch.zeros(len(features), self.num_classes, dtype=votes.dtype, device=votes.device)
        return torch.log(total.scatter_add(1, self.labels[nearest], votes) + 1e-12)


class Classifier(nn.Module):
    """A network of a backbone, global average pooling and a head, which is linear unless another one is given.

    With ``normalize_features`` the head gets features of unit length (as the probes of the 2026 paper do). Training and
    scoring use the same switch, because it is part of the :class:`ModelSpec`.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, *, normalize_features: bool = False, bank: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        dim = int(backbone.dim)  # type: ignore[arg-type]
        self.head: nn.Module = NearestNeighbours(dim, num_classes, bank) if bank else nn.Linear(dim, num_classes)
        self.normalize_features = normalize_features
        self.head_name = "head"

    @property
    def encoder(self) -> list[nn.Parameter]:
        """The parameters of everything but the head."""
        return list(self.backbone.parameters())

    @property
    def linear(self) -> nn.Linear:
        """The linear head; raise :class:`UsageError` where the head is of another kind."""
        if not isinstance(self.head, nn.Linear):
            raise UsageError("the classifier has no linear head", "use one that was trained with a linear head")
        return self.head

    @property
    def pooled_layer(self) -> str:
        """The name of the module whose output is the input of the global average pooling."""
        return f"backbone.{self.backbone.last_stage}"

    def stages(self, images: Tensor) -> Tensor:
        """Return the last convolutional stage's output, N×K×h×w."""
        return self.backbone(images)  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Return pooled features without normalisation, N×K."""
        return self.stages(images).mean((-2, -1))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits N×classes of pooled features N×K."""
        return self.head(F.normalize(features) if self.normalize_features else features)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits N×classes of images."""
        return self.logits(self.features(images))


def build(spec: ModelSpec) -> Classifier:
    """Build a freshly initialised classifier; seed torch before the call for reproducible weights."""
    return Classifier(
        backbone(spec.arch, spec.in_channels),
        spec.num_classes,
        normalize_features=spec.normalize_features or spec.bank > 0,
        bank=spec.bank,
    )
