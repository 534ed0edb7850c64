"""Tell whether weights are those that a network's own configuration describes, and what it says of images then.

Fine-tuned weights need not keep the preprocessing of the published ones, so a configuration counts only where every
tensor has the shape that it names: its number of classes, its channels, its image size.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from xeval.checkpoints.match import shapes_of
from xeval.checkpoints.normalization import Wish
from xeval.data import Dataset, DatasetInfo, open_dataset
from xeval.data.base import Size
from xeval.data.images import METHODS
from xeval.errors import CheckpointError
from xeval.models import ModelSpec
from xeval.models.configuration import Configuration
from xeval.models.sources import configuration


def own_configuration(path: Path, tensors: dict[str, Tensor], arch: str) -> Configuration | None:
    """Return the configuration of a network that the user has named if the tensors are as it describes them."""
    own = configuration(arch)
    if own is None or own.classes < 2:
        return None
    spec = ModelSpec(arch=arch, num_classes=own.classes, image_size=own.size).named(arch)
    try:
        wanted = shapes_of(path, spec)
    except CheckpointError:
        return None
    return own if wanted == {name: tuple(tensor.shape) for name, tensor in tensors.items()} else None


def open_as_known(
    name: str, root: Path | None, size: Size | None, known: Configuration | DatasetInfo | None
) -> Dataset:
    """Open a data set as weights know its images: in their size unless another is given, with their interpolation."""
    dataset = open_dataset(name, root, size or (known.size if known else None))
    return dataset if known is None else dataset.interpolated(known.interpolation)


def own_wish(own: Configuration) -> Wish:
    """Return the constants of a configuration as if the user had named them."""
    return Wish(mean=own.mean, std=own.std)


def with_constants(info: DatasetInfo, own: Configuration) -> DatasetInfo:
    """Return a data set under the constants of a configuration."""
    return own_wish(own).on(info)


def own_source(arch: str) -> str:
    """Say where constants of a configuration come from."""
    return f"the configuration of {arch}"


def own_notes(arch: str, own: Configuration) -> tuple[str, ...]:
    """Say which size and interpolation a configuration asks for, and what of it is not followed."""
    known = own.interpolation in METHODS
    how = f", resized {own.interpolation} where they are files of a folder" if known else ""
    other = [] if known else [f"{own.interpolation} interpolation"]
    other += [f"a centre crop of {own.crop:g}"] if own.crop != 1 else []
    read = f"images are read at {own.size} px{how} ({own_source(arch)})"
    left = [f"{own_source(arch)} also names {' and '.join(other)}, which is not followed"] if other else []
    return (read, *left)
