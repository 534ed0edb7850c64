"""Take a network of any library apart at its head: the features before it, the linear layer, the logits behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.models.classifier import ModelSpec
from xeval.models.frozen import device_of
from xeval.models.watch import calls


@dataclass(frozen=True)
class Parts:
    """A network and the name of the linear layer whose output are its logits; made by :func:`taken_apart`.

    It answers to the same names as a :class:`~xeval.models.Classifier`, so that training need not know which it has.
    """

    network: nn.Module
    head_name: str
    normalize_features: bool

    @property
    def head(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.network.get_submodule(self.head_name)

    @property
    def linear(self) -> nn.Linear:
        """The linear head."""
        head = self.head
        if not isinstance(head, nn.Linear):
            raise UsageError("the classifier has no linear head", "use one that was trained with a linear head")
        return head

    @property
    def encoder(self) -> list[nn.Parameter]:
        """The parameters of everything but the head."""
        heads = set(map(id, self.head.parameters()))
        return [parameter for parameter in self.network.parameters() if id(parameter) not in heads]

    def features(self, images: Tensor) -> Tensor:
        """Return what the head is given, N×K, before it is brought to unit length."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]), prepend=True)
        try:
            self.network(images)
        finally:
            handle.remove()
        return seen[-1]

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits N×classes of features N×K."""
        return self.head(features)  # type: ignore[no-any-return]


def taken_apart(model: nn.Module, spec: ModelSpec) -> Parts:
    """Find the head of a network in one pass of two black images, on the network's device.

    Raises:
        UsageError: no linear layer gives the logits of features N×K.
    """
    seen = calls(model, torch.zeros(2, *spec.shape, device=device_of(model)))
    heads = [one.module for one in seen if one.made is seen[-1].made and isinstance(one.module, nn.Linear)]
    if not heads or not (seen[-1].module is model and seen[-1].alone and seen[-1].made.ndim == 2):
        raise UsageError(
            f"no linear layer gives the logits of {spec.arch}: it has no features to train a head on",
            "choose a network that ends in one linear layer",
        )
    if heads[-1].out_features != spec.num_classes:
        raise UsageError(
            f"{spec.arch} gives {heads[-1].out_features} outputs, and there are {spec.num_classes} classes",
            "let it take num_classes",
        )
    names = {module: name for name, module in model.named_modules()}
    return Parts(model, names[heads[-1]], spec.normalize_features)
