"""Read CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from the binary distribution or, if it is absent, the Python one.

A binary record is the label bytes (CIFAR-100: coarse, then fine) and 3,072 bytes: red, green and blue planes, each row
by row. Folders are memory-mapped or read once; a tar.gz is read in memory and never unpacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from xeval.data.archive import read_members
from xeval.data.base import ArraySplit, Dataset, DatasetInfo, Ints, Pixels
from xeval.data.download import Archive
from xeval.data.files import FolderTree
from xeval.data.sources import missing, reader, require_official
from xeval.data.unpickler import load_arrays
from xeval.errors import DataError

HOST = "https://www.cs.toronto.edu/~kriz/"
SIDE, PIXELS = 32, 3 * 32 * 32


@dataclass(frozen=True)
class Form:
    """One distribution (binary or Python) of one of the two data sets: it says where its parts lie."""

    archive: Archive
    parts: dict[str, tuple[str, ...]]
    names: str
    labels: int | str  # binary: number of label bytes, of which the last is used; Python: the key of the labels

    @property
    def folder(self) -> str:
        """The name of the folder in the archive."""
        return str(self.archive.folder)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files that are read."""
        return (self.names, *(file for files in self.parts.values() for file in files))


@dataclass(frozen=True)
class Variant:
    """One data set of the family, CIFAR-10 or CIFAR-100."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    forms: tuple[Form, ...]

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The official archives; the first is the one to fetch."""
        return tuple(form.archive for form in self.forms)


def _archive(file: str, md5: str, folder: str) -> Archive:
    return Archive(file, HOST + file, md5, folder)


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10 = Variant(
    "cifar10",
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
    (
        Form(
            _archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"),
            {"train": tuple(f"{name}.bin" for name in BATCHES), "test": ("test_batch.bin",)},
            "batches.meta.txt",
            1,
        ),
        Form(
            _archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
            {"train": BATCHES, "test": ("test_batch",)},
            "batches.meta",
            "labels",
        ),
    ),
)
CIFAR100 = Variant(
    "cifar100",
    (0.5071, 0.4867, 0.4408),
    (0.2675, 0.2565, 0.2761),
    (
        Form(
            _archive("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary"),
            {"train": ("train.bin",), "test": ("test.bin",)},
            "fine_label_names.txt",
            2,
        ),
        Form(
            _archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
            {"train": ("train",), "test": ("test",)},
            "meta",
            "fine_labels",
        ),
    ),
)


@dataclass(frozen=True)
class Files:
    """The files of a distribution, in a folder or in a tar.gz."""

    place: Path
    form: Form

    def describe(self, file: str) -> str:
        """Return where a file lies, for messages."""
        return str(self.place / file) if self.place.is_dir() else f"{self.place}:{self.form.folder}/{file}"

    def read(self, file: str) -> bytes:
        """Return all bytes of a file."""
        if self.place.is_dir():
            return FolderTree(self.place, limit=2**28).read(file)
        if file not in self._members:
            raise DataError(f"{self.describe(file)} is missing", "fetch the archive again")
        return self._members[file]

    @cached_property
    def _members(self) -> dict[str, bytes]:
        start = f"{self.form.folder}/"
        wanted = {start + file for file in self.form.files}
        return {name.removeprefix(start): data for name, data in read_members(self.place, wanted).items()}

    def records(self, split: str) -> tuple[Pixels, Ints]:
        """Return images uint8 (N, 3, 32, 32) and labels (N,) of a split."""
        parse = _binary if isinstance(self.form.labels, int) else _python
        parts = [parse(self, file) for file in self.form.parts[split]]
        images = parts[0][0] if len(parts) == 1 else np.concatenate([images for images, _ in parts])
        return images, np.concatenate([labels for _, labels in parts])

    def class_names(self) -> tuple[str, ...]:
        """Return the class names in label order."""
        data = self.read(self.form.names)
        if isinstance(self.form.labels, int):
            return tuple(
                line.strip() for line in data.decode("utf-8-sig", errors="replace").splitlines() if line.strip()
            )
        key = self.form.labels.replace("labels", "label_names")
        return tuple(map(str, _entry(load_arrays(data, self.describe(self.form.names)), key, self, self.form.names)))


def _binary(files: Files, file: str) -> tuple[Pixels, Ints]:
    label_bytes = int(files.form.labels)
    width = label_bytes + PIXELS
    path = files.place / file
    data: Pixels
    if files.place.is_dir() and path.is_file() and path.stat().st_size:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    else:
        data = np.frombuffer(files.read(file), dtype=np.uint8)
    if not len(data) or len(data) % width:
        raise DataError(
            f"{files.describe(file)} has {len(data):,} bytes, no multiple of {width:,}", "fetch the data set again"
        )
    records = data.reshape(-1, width)
    return records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE), records[:, label_bytes - 1].astype(np.int64)


def _python(files: Files, file: str) -> tuple[Pixels, Ints]:
    content = load_arrays(files.read(file), files.describe(file))
    images = np.asarray(_entry(content, "data", files, file))
    labels = np.asarray(_entry(content, str(files.form.labels), files, file))
    if images.dtype != np.uint8 or images.shape != (len(labels), PIXELS) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{files.describe(file)} holds {images.dtype} {images.shape} for {len(labels)} labels, not uint8 (N, 3072)",
            "fetch the data set again",
        )
    return images.reshape(-1, 3, SIDE, SIDE), labels.astype(np.int64)


def _entry(content: dict[str, Any], key: str, files: Files, file: str) -> Any:
    if key not in content:
        raise DataError(f"{files.describe(file)} has no entry {key!r}", "fetch the data set again")
    return content[key]


def find(variant: Variant, root: Path) -> Files | None:
    """Return the first distribution found: ``root`` itself, or a folder or archive under its official name in it."""
    for form in variant.forms:
        if root.name == form.archive.file and root.is_file():
            return Files(root, form)
        for place in (root, root / form.folder):
            if all((place / file).is_file() for file in form.files):
                return Files(place, form)
        if (root / form.archive.file).is_file():
            return Files(root / form.archive.file, form)
    return None


def _locate(variant: Variant, root: Path) -> Path | None:
    files = find(variant, root)
    return files.place if files else None


@reader(
    "cifar10",
    "60,000 photographs of 10 classes, 32 px, colour",
    archives=CIFAR10.archives,
    locate=partial(_locate, CIFAR10),
)
def read_cifar10(root: Path, size: int | None) -> Dataset:
    """Ten classes, named in the files."""
    return _read(CIFAR10, root, size)


@reader(
    "cifar100",
    "60,000 photographs of 100 fine classes, 32 px, colour",
    archives=CIFAR100.archives,
    locate=partial(_locate, CIFAR100),
)
def read_cifar100(root: Path, size: int | None) -> Dataset:
    """A hundred fine classes, named in the files; the coarse ones are passed over."""
    return _read(CIFAR100, root, size)


def _read(variant: Variant, root: Path, size: int | None) -> Dataset:
    files = find(variant, root)
    if files is None:
        raise missing(variant.name, " or ".join(_places(variant)), root)
    require_official(files.place, (files.form.archive,))
    names = files.class_names()
    info = DatasetInfo(variant.name, names, variant.mean, variant.std, channels=3, size=size or SIDE, native=SIDE)
    return Dataset(info, {name: partial(_split, info, files, name) for name in ("train", "test")})


def _places(variant: Variant) -> list[str]:
    return [place for form in variant.forms for place in (f"{form.folder}/", form.archive.file)]


def _split(info: DatasetInfo, files: Files, name: str) -> ArraySplit:
    images, labels = files.records(name)
    return ArraySplit(info, name, images, labels, [f"{name}/{row:05d}" for row in range(len(labels))])
