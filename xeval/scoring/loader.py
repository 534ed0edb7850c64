"""What a loader yields, as images N×C×H×W and labels (N,): used where the meaning is plain, else refused in a sentence.

Accepted are batches as pairs, as triples whose rest is ignored, as dictionaries with the usual keys, of tensors, arrays
or lists, and a data set of (image, label) instead of a loader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from xeval.errors import DataError
from xeval.runtime.endings import first_line

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")
BYTES = 255
ITEMS = 64


def collect(data: Any) -> tuple[Tensor, Tensor, bool]:
    """Return all images, float32 N×C×H×W, their labels as given, and whether the images were bytes from 0 to 255.

    Bytes are divided by 255. Raises :class:`DataError` for anything else than images with labels.
    """
    batches = [_pair(batch) for batch in _batches(data)]
    if not batches:
        raise DataError("the loader yields no batch", "give batches of (images, labels)")
    shapes = sorted({tuple(images.shape[1:]) for images, _ in batches})
    if len(shapes) > 1:
        raise DataError(f"the images have several shapes: {shapes[:3]}", "resize them to one size in the loader")
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or len(images) != len(labels):
        raise DataError(f"images have shape {tuple(images.shape)}", "give square images N×C×H×W and N labels")
    is_bytes = images.dtype == torch.uint8
    return images.float() / (BYTES if is_bytes else 1), labels, is_bytes


def _batches(data: Any) -> Iterator[Any]:
    """Yield batches; the items of a data set are stacked."""
    if not isinstance(data, Dataset):
        if not isinstance(data, Iterable):
            raise DataError(f"the data are a {type(data).__name__}", "give a loader of (images, labels)")
        yield from data
        return
    items = [_pair(data[number]) for number in range(len(data))]  # type: ignore[arg-type]
    for start in range(0, len(items), ITEMS):
        part = items[start : start + ITEMS]
        try:
            yield torch.stack([image for image, _ in part]), torch.stack([label for _, label in part])
        except RuntimeError as error:
            raise DataError(
                f"the items of the data set have several shapes ({first_line(error)})", "resize them to one size"
            ) from None


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels of one batch, on the host."""
    if isinstance(batch, Mapping):
        images, labels = _named(batch, IMAGE_KEYS), _named(batch, LABEL_KEYS)
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        images, labels = batch[0], batch[1]
    else:
        raise DataError(f"a batch is a {type(batch).__name__}", "give batches of (images, labels)")
    try:
        found, classes = torch.as_tensor(images), torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"a batch holds no arrays ({first_line(error)})", "give batches of (images, labels)") from None
    return found.detach().clone().cpu(), classes.detach().clone().cpu()


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
        raise DataError("labels are no whole numbers", "give one class number an image")
    outside = numbers[(numbers < 0) | (numbers >= classes)]
    if len(outside):
        raise DataError(f"the label {int(outside[0])} is none of {classes} classes", "number them from 0")
    return numbers


def _of_one_hot(labels: Tensor, classes: int) -> Tensor:
    single = ((labels == 0) | (labels == 1)).all() and bool((labels.sum(1) == 1).all())
    if not single or labels.shape[1] != classes:
        raise DataError(
            f"labels of shape {tuple(labels.shape)} are not one-hot over {classes} classes", "give class numbers"
        )
    return labels.argmax(1)
