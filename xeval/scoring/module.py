"""Adapts any ``nn.Module`` with a loader of (image, label) to the scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xeval.checkpoints.load import LoadedModel, tensors_sha256
from xeval.data import DatasetInfo, Split
from xeval.data.base import Ints, Pixels
from xeval.errors import DataError, UsageError
from xeval.models import frozen_eval

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Normalization:
    """The constants per channel that the loader's transform used, for images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class TensorSplit(Split):
    """A split whose images are held in memory as float32 in [0, 1], with ids ``0``, ``1``, …"""

    def __init__(self, info: DatasetInfo, images: Tensor, labels: Tensor) -> None:
        super().__init__(info, "given", labels.numpy(), [str(number) for number in range(len(labels))])
        self._tensor = images

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        """Return the images at these positions, float32 (n, C, H, W) in [0, 1]."""
        return self._tensor[torch.as_tensor(self._positions(index))]

    def _images(self, positions: Ints) -> Pixels:
        """Return the images' float32 bytes, for the manifest."""
        return self._tensor[torch.as_tensor(positions)].contiguous().numpy().view(np.uint8)


def adapt(
    model: nn.Module,
    data: Batches,
    *,
    normalization: Normalization | None = None,
    classes: Sequence[str] | None = None,
    name: str = "model",
) -> tuple[LoadedModel, DatasetInfo, TensorSplit]:
    """Return a model and its data in the form that the scorer takes.

    ``data`` yields batches (images N×C×H×W, labels N), normalised with ``normalization``. Without it images are taken
    as pixels in [0, 1]; then noise is in these units and the fill ``mean`` is 0, black. All images are held in memory.
    Raises :class:`DataError` for data that do not fit, :class:`UsageError` for a model without logits.
    """
    images, labels = _collect(data)
    channels = images.shape[1]
    constants = normalization or Normalization((0.0,) * channels, (1.0,) * channels)
    names = tuple(classes) if classes is not None else tuple(str(c) for c in range(_outputs(model, images[:1])))
    info = DatasetInfo(name, names, constants.mean, constants.std, channels, images.shape[-1])
    if _outputs(model, images[:1]) != len(names):
        raise DataError(
            f"the model has {_outputs(model, images[:1])} outputs for {len(names)} classes", "check classes"
        )
    shape = (channels, 1, 1)
    pixels = images * torch.tensor(constants.std).reshape(shape) + torch.tensor(constants.mean).reshape(shape)
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    loaded = LoadedModel(model, None, None, "memory", tensors_sha256(state), Path(name))
    return loaded, info, TensorSplit(info, pixels, labels)


def _collect(data: Batches) -> tuple[Tensor, Tensor]:
    batches = [(images.detach().cpu().float(), labels.detach().cpu().long()) for images, labels in data]
    if not batches:
        raise DataError("the loader yields no batch", "give batches of (images, labels)")
    images, labels = torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or len(images) != len(labels):
        raise DataError(f"images have shape {tuple(images.shape)}", "give square images N×C×H×W and N labels")
    return images, labels


def _outputs(model: nn.Module, example: Tensor) -> int:
    device = next(model.parameters()).device
    with frozen_eval(model), torch.no_grad():
        logits = model(example.to(device))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UsageError("the model does not return logits N×classes", "wrap it in a module that does")
    return int(logits.shape[1])
