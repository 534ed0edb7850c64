"""Adapts any ``nn.Module`` with a loader of (image, label) to the scorer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from xeval.checkpoints.identity import function_identity, network_sha256
from xeval.checkpoints.load import LoadedModel
from xeval.checkpoints.normalization import identity
from xeval.data import DatasetInfo, Split
from xeval.data.base import Index, Ints, Pixels, as_size
from xeval.errors import DataError, UsageError
from xeval.models.answers import outputs_of
from xeval.models.frozen import device_of
from xeval.models.reading import LOGITS, Reading
from xeval.runtime.files import digest
from xeval.scoring.loader import Given, class_numbers, collect, multi_hot
from xeval.scoring.similarity import target_of

OUTSIDE, SHARE = 0.02, 0.01  # so far outside [0, 1] may lie so large a share of the pixels
FAR = 0.25  # and this far none: bicubic resizing overshoots a little


@dataclass(frozen=True)
class Normalization:
    """The constants per channel that the loader's transform used, for images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def changes(self) -> bool:
        """Whether the constants change any value."""
        return any(self.mean) or any(part != 1 for part in self.std)


Pair: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation, one number a channel."""


def as_normalization(given: Any) -> Normalization:
    """Return the constants that are given, also as a pair (mean, std); raise :class:`UsageError` for anything else."""
    if isinstance(given, Normalization):
        return given
    try:
        mean, std = given
        return Normalization(tuple(map(float, mean)), tuple(map(float, std)))
    except (TypeError, ValueError):
        raise UsageError(
            f"normalization={given!r:.80} is no mean and deviation",
            "give (mean, std), each with one number a channel, such as ((0.5,), (0.25,))",
        ) from None


class TensorSplit(Split):
    """A split whose images are held in memory as float32 in [0, 1], with ids ``0``, ``1``, …; so are its masks."""

    own_objects = True

    def __init__(
        self,
        info: DatasetInfo,
        images: Tensor,
        labels: Tensor,
        masks: Tensor | None,
        ids: Sequence[str] | None = None,
    ) -> None:
        super().__init__(info, "given", labels.numpy(), ids or [str(number) for number in range(len(labels))])
        self._tensor, self._objects = images, masks

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        """Return the images at these positions, float32 (n, C, H, W) in [0, 1]."""
        return self._tensor[self._numbers(self._positions(index))]

    def masks(self, index: Index) -> Tensor | None:
        """Return the masks of the objects, bool (n, 1, H, W)."""
        numbers = self._numbers(self._positions(index))
        return None if self._objects is None else self._objects[numbers]

    def _images(self, positions: Ints) -> Pixels:
        """Return the images' float32 bytes, for the manifest."""
        return self._tensor[self._numbers(positions)].contiguous().numpy().view(np.uint8)

    def _numbers(self, positions: Ints) -> Tensor:
        """Return the numbers of the images at these positions."""
        return torch.as_tensor(positions)


class LabelSplit(TensorSplit):
    """A split of images that may have several labels: one row, ``image:label``, for each label that an image has."""

    def __init__(self, info: DatasetInfo, images: Tensor, labels: Tensor, masks: Tensor | None) -> None:
        """Make the rows of ``labels``, bool N×classes."""
        self._all, (self._rows, of_rows) = labels, labels.nonzero(as_tuple=True)
        self._image_ids = tuple(map(str, self._rows.tolist()))
        ids = [f"{image}:{label}" for image, label in zip(self._image_ids, of_rows.tolist(), strict=True)]
        super().__init__(info, images, of_rows, masks, ids)

    @property
    def images(self) -> tuple[str, ...]:
        """The number of each row's image."""
        return self._image_ids

    def truth(self, index: Index) -> Tensor:
        """Return all labels of the images at these positions, bool (n, classes)."""
        return self._all[self._numbers(self._positions(index))]

    def _numbers(self, positions: Ints) -> Tensor:
        return self._rows[torch.as_tensor(positions)]


def adapt(
    model: nn.Module,
    data: Any,
    *,
    normalization: Normalization | Pair | None = None,
    classes: Sequence[str] | None = None,
    reading: Reading = LOGITS,
    similar_to: Any = None,
    allow_stochastic: bool = False,
    reshape: Callable[[Tensor], Tensor] | None = None,
    name: str = "model",
) -> tuple[LoadedModel, DatasetInfo, TensorSplit]:
    """Return a model and its data as the scorer knows them; all images are held in memory.

    Args:
        model: any module with an answer that can be read as logits N×classes; see :mod:`xeval.models.answers` for what
            is checked. Its answers are not read yet.
        data: batches of (images N×C×H×W, labels N), with masks or boxes of the objects or without; see
            :mod:`xeval.scoring.loader` for the other forms.
        normalization: the constants that the loader applied, also as a pair (mean, std); without them images are taken
            as pixels in [0, 1], which are also the units of noise and the meaning of the fill ``mean`` (then 0, black).
            Bytes from 0 to 255 are pixels in any case, and are normalised for the model.
        classes: names of the classes in the order of the logits.
        reading: how its answers are read (:mod:`xeval.models.reading`); it is a part of what is scored.
        similar_to: for encoders without a head, what embeddings are compared with (:mod:`xeval.scoring.similarity`).
        allow_stochastic: accept answers that differ from call to call or with the other images of a batch.
        reshape: how the output of the explained layer is turned to N×K×h×w; it is a part of what is scored.
        name: what tables call the model.

    Raises:
        DataError: data that do not fit, images outside the range of pixels.
        UsageError: a model that does not answer with logits.
    """
    _require_float32(model)
    given = collect(data)
    channels = given.images.shape[1]
    constants = Normalization((0.0,) * channels, (1.0,) * channels)
    if normalization is not None:
        constants = as_normalization(normalization)
    if len(constants.mean) != channels or len(constants.std) != channels:
        raise DataError(f"normalization has {len(constants.mean)} constants for {channels} channels", "give one each")
    mean, std = (torch.tensor(part).reshape(channels, 1, 1) for part in (constants.mean, constants.std))

    def as_pixels(some: Given) -> Tensor:
        return some.images if some.is_bytes else some.images * std + mean

    def as_taken(some: Given) -> Tensor:
        return ((as_pixels(some) - mean) / std).to(device)

    pixels = as_pixels(given)
    _require_pixels(pixels, normalized=normalization is not None)
    device = device_of(model)
    aim = None if similar_to is None else target_of(similar_to, model, as_taken(given), reading, as_taken)
    reading = aim.reading(reading.key) if aim else reading
    some = ((pixels[:2] - mean) / std).to(device)
    outputs, notes = outputs_of(model, some, reading, allow_stochastic=allow_stochastic)
    count, meaning = reading.classes(outputs), reading.meaning(outputs)
    names = tuple(classes) if classes is not None else tuple(str(number) for number in range(count))
    if count != len(names):
        raise DataError(f"the model has {count} outputs for {len(names)} classes", "check classes")
    info = DatasetInfo(name, names, constants.mean, constants.std, channels, as_size(*pixels.shape[2:]))
    normalized = normalization is not None and constants.changes
    notes = (*notes, *_remarks(given.images, is_bytes=given.is_bytes, normalized=normalized))
    sha256 = network_sha256(model)
    notes = (*notes, *filter(None, [meaning.told]))
    if reading != LOGITS:
        notes = (*notes, f"the model's answers are read as {reading}")
        sha256 = digest([sha256, str(reading), *([aim.identity] if aim else [])])
    if reshape is not None:
        notes = (*notes, f"the explained layer's output is turned by reshape={_called(reshape)}")
        sha256 = digest([sha256, function_identity(reshape)])
    sha256 = identity(sha256, info)
    loaded = LoadedModel(model, None, None, "memory", sha256, Path(name), notes, meaning=meaning, reading=reading)
    if reading.several:
        return loaded, info, LabelSplit(info, pixels, multi_hot(given.labels, count), given.masks)
    labels = aim.labels(given.labels) if aim else class_numbers(given.labels, count)
    return loaded, info, TensorSplit(info, pixels, labels, given.masks)


def _called(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _require_float32(model: nn.Module) -> None:
    """Raise :class:`UsageError` for weights of another floating-point type than the images."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if types:
        raise UsageError(f"the model has weights of {next(iter(types))}", "score model.float()")


def _require_pixels(pixels: Tensor, *, normalized: bool) -> None:
    """Raise :class:`DataError` for images that are no pixels in [0, 1] once the normalisation is undone."""
    beyond = torch.maximum(-pixels, pixels - 1).nan_to_num(nan=0.0)
    if float((beyond > OUTSIDE).float().mean()) <= SHARE and float(beyond.max()) <= FAR:
        return
    finite = pixels[pixels.isfinite()]
    span = f"from {float(finite.min()):.3g} to {float(finite.max()):.3g}" if len(finite) else "not finite"
    if not normalized:
        raise DataError(
            f"the images are {span}, not pixels in [0, 1]",
            "give normalization=(mean, std) of the loader's transform, or images in [0, 1]",
        )
    raise DataError(
        f"with normalization undone the images are {span}, not pixels in [0, 1]",
        "give the normalization= that the loader's transform applied",
    )


def _remarks(given: Tensor, *, is_bytes: bool, normalized: bool) -> Iterator[str]:
    """Yield what is worth saying of images that are accepted."""
    if is_bytes:
        yield "the images are bytes and were divided by 255"
    elif normalized and float(given.min()) >= 0 and float(given.max()) <= 1:
        yield "warning: the images lie in [0, 1] although normalization was given: was it applied?"
