"""What a loader yields, as images N×C×H×W, labels (N,) and masks: used where the meaning is plain, else refused.

Accepted are batches as pairs, as triples, as dictionaries with the usual keys, of tensors, arrays or lists, and a data
set of (image, label) instead of a loader. A third item, or the keys ``mask`` and ``boxes``, say where the objects are:
masks N×H×W or N×1×H×W of 0 and 1, or boxes N×4 with the first and the last pixel x0, y0, x1, y1. A third item of
another shape, and whatever comes after it, is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from xeval.errors import DataError
from xeval.perturb.masks import box_masks
from xeval.runtime.endings import first_line

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")
MASK_KEYS, BOX_KEYS = ("mask", "masks"), ("box", "boxes")
BYTES = 255
ITEMS = 64
FEW, CHANNELS = 4, 16  # so short is the last axis of images whose channels lie last, and longer the first one
GIVE = "give masks N×H×W or N×1×H×W, or boxes N×4"


@dataclass(frozen=True)
class Batch:
    """What one batch or one item holds, on the host: images, labels, and masks or boxes where there are any.

    ``named`` says that masks or boxes were called so; a third item may be something else.
    """

    images: Tensor
    labels: Tensor
    where: Tensor | None = None
    named: bool = False


@dataclass(frozen=True)
class Given:
    """All that a loader yields: images, float32 N×C×H×W, labels as given, and masks, bool N×1×H×W, if there are any.

    ``is_bytes`` says that the images were bytes from 0 to 255, which are divided by 255.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    is_bytes: bool


def collect(data: Any) -> Given:
    """Return what a loader yields; raise :class:`DataError` for anything else than images with labels."""
    batches = list(_batches(data))
    if not batches:
        raise DataError("the loader yields no batch", "give batches of (images, labels)")
    shapes = sorted({tuple(batch.images.shape[1:]) for batch in batches})
    if len(shapes) > 1:
        raise DataError(f"the images have several shapes: {shapes[:3]}", "resize them to one size in the loader")
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    if images.ndim != 4 or _channels_last(images) or len(images) != len(labels):
        raise DataError(f"images have shape {tuple(images.shape)}", "give images N×C×H×W and N labels")
    is_bytes = images.dtype == torch.uint8
    return Given(images.float() / (BYTES if is_bytes else 1), labels, _all_masks(batches), is_bytes)


def _channels_last(images: Tensor) -> bool:
    """Return whether images must be N×H×W×C: as N×C×H×W they would have many channels and hardly any width."""
    _, first, second, last = images.shape
    return last <= FEW < first or (last <= CHANNELS < first and last < second)


def _all_masks(batches: list[Batch]) -> Tensor | None:
    """Return the masks of all images, empty for those of batches without any; None where no batch has any."""
    found = [masks_of(batch) for batch in batches]
    if all(masks is None for masks in found):
        return None
    empty = [torch.zeros_like(batch.images[:, :1], dtype=torch.bool) for batch in batches]
    return torch.cat([other if masks is None else masks for masks, other in zip(found, empty, strict=True)])


def masks_of(batch: Batch) -> Tensor | None:
    """Return the masks of a batch, bool N×1×H×W, those of boxes drawn; None where it has neither.

    Raises :class:`DataError` for masks of other values than 0 and 1, boxes that lie outside, and other shapes.
    """
    where, (count, _, height, width) = batch.where, batch.images.shape
    if where is None:
        return None
    if where.shape == (count, 4):
        return _drawn(where, height, width)
    if where.shape not in ((count, height, width), (count, 1, height, width)):
        if batch.named:
            raise DataError(f"the masks or boxes of {count} images have shape {tuple(where.shape)}", GIVE)
        return None
    if not ((where == 0) | (where == 1)).all():
        raise DataError("the masks hold other values than 0 and 1", "give bool masks, such as mask > 0")
    return where.bool().reshape(count, 1, height, width)


def _drawn(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return boxes N×4 as masks."""
    limit = torch.tensor([width, height, width, height])
    outside = (boxes < 0) | (boxes >= limit) | (boxes != boxes.floor())
    bad = outside.any(1) | (boxes[:, :2] > boxes[:, 2:]).any(1)
    if bad.any():
        raise DataError(
            f"{boxes[bad][0].tolist()} is no box in {width}×{height} pixels",
            "give whole numbers x0, y0, x1, y1: the first and the last pixel across and down",
        )
    return box_masks(boxes, height, width)


def _batches(data: Any) -> Iterator[Batch]:
    """Yield batches; the items of a data set are stacked."""
    if not isinstance(data, Dataset):
        if not isinstance(data, Iterable):
            raise DataError(f"the data are a {type(data).__name__}", "give a loader of (images, labels)")
        yield from map(_batch, data)
        return
    items = [_batch(data[number]) for number in range(len(data))]  # type: ignore[arg-type]
    for start in range(0, len(items), ITEMS):
        yield _stacked(items[start : start + ITEMS])


def _stacked(items: list[Batch]) -> Batch:
    """Return some items as one batch; third items of several shapes are nothing that is read here."""
    where = [item.where for item in items if item.where is not None]
    alike = len(where) == len(items) and len({part.shape for part in where}) == 1
    try:
        return Batch(
            torch.stack([item.images for item in items]),
            torch.stack([item.labels for item in items]),
            torch.stack(where) if alike or items[0].named else None,
            items[0].named,
        )
    except RuntimeError as error:
        raise DataError(
            f"the items of the data set have several shapes ({first_line(error)})", "resize them to one size"
        ) from None


def _batch(batch: Any) -> Batch:
    """Return what one batch or item holds, on the host."""
    if isinstance(batch, Mapping):
        named = [batch[key] for key in (*MASK_KEYS, *BOX_KEYS) if key in batch]
        return Batch(
            _array(_named(batch, IMAGE_KEYS)),
            _array(_named(batch, LABEL_KEYS)),
            _array(named[0]) if named else None,
            bool(named),
        )
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise DataError(f"a batch is a {type(batch).__name__}", "give batches of (images, labels)")
    third = None
    with suppress(DataError):  # a third item may be anything
        third = _array(batch[2]) if len(batch) > 2 else None
    return Batch(_array(batch[0]), _array(batch[1]), third)


def _array(part: Any) -> Tensor:
    """Return a part of a batch as a tensor of its own."""
    try:
        return torch.as_tensor(part).detach().clone().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"a batch holds no arrays ({first_line(error)})", "give batches of (images, labels)") from None


def _named(batch: Mapping[Any, Any], keys: tuple[str, ...]) -> Any:
    present = [key for key in keys if key in batch]
    if len(present) != 1:
        found = ", ".join(map(str, batch)) or "none"
        raise DataError(
            f"a batch has the keys {found}; exactly one of {', '.join(keys)} is needed",
            "give batches of (images, labels)",
        )
    return batch[present[0]]


def class_numbers(labels: Tensor, classes: int) -> Tensor:
    """Return labels as class numbers, int64 (N,), of N, N×1 or one-hot N×classes.

    Raises :class:`DataError` for soft and multi-hot labels and for numbers outside the classes.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        return _of_one_hot(labels, classes)
    if labels.ndim != 1:
        raise DataError(f"labels have shape {tuple(labels.shape)}", "give one class number an image")
    numbers = labels.long()
    if not torch.equal(numbers.to(labels.dtype), labels):
        raise DataError(
            "labels are no whole numbers: a quantity (regression) has no probability that a mask could lower",
            "give one class number an image",
        )
    outside = numbers[(numbers < 0) | (numbers >= classes)]
    if len(outside):
        raise DataError(f"the label {int(outside[0])} is none of {classes} classes", "number them from 0")
    return numbers


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """Return which labels each image has, bool (N, classes).

    Raises :class:`DataError` for other labels than 0 and 1 for each class, and where no image has any.
    """
    if labels.ndim == 1 and classes == 1:
        labels = labels[:, None]
    if labels.shape[1:] != (classes,) or not ((labels == 0) | (labels == 1)).all():
        raise DataError(
            f"labels of shape {tuple(labels.shape)} are not 0 or 1 for each of {classes} labels", "give N×classes"
        )
    if not labels.any():
        raise DataError("no image has a label to explain", "give images that have some")
    return labels.bool()


def _of_one_hot(labels: Tensor, classes: int) -> Tensor:
    single = ((labels == 0) | (labels == 1)).all() and bool((labels.sum(1) == 1).all())
    if not single or labels.shape[1] != classes:
        raise DataError(
            f"labels of shape {tuple(labels.shape)} are not one-hot over {classes} classes",
            'give class numbers, or output="multilabel" where an image has several',
        )
    return labels.argmax(1)
