"""CIFAR in its four forms: exact pixels and labels back, damage named, hostile pickles inert."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data import makers
from xeval.data import open_dataset
from xeval.data.unpickler import load_arrays
from xeval.errors import CheckpointError, DataError

pytestmark = pytest.mark.usefixtures("any_checksum")

IMAGES, LABELS = makers.noise(12, 32, seed=1), np.array([3, 9, 3, 0, 1, 2, 9, 9, 8, 7, 6, 5])
MAKERS = {
    "cifar10": (makers.cifar10_binary, makers.cifar10_python),
    "cifar100": (makers.cifar100_binary, makers.cifar100_python),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_round_trip(name: str, form: int, packed: bool, tmp_path: Path) -> None:
    files = MAKERS[name][form](IMAGES, LABELS)
    if packed:
        archive = f"cifar-{name[5:]}-{('binary', 'python')[form]}.tar.gz"
        (tmp_path / archive).write_bytes(makers.tar_of(files))
    else:
        makers.write_tree(tmp_path, files)
    dataset = open_dataset(name, tmp_path)
    cut = 10 if name == "cifar10" else 8
    for split, rows in ((dataset.split("train"), slice(cut)), (dataset.split("test"), slice(cut, None))):
        assert np.array_equal(split.read(range(len(split))).numpy(), IMAGES[rows])
        assert np.array_equal(split.labels, LABELS[rows])
    names = {"cifar10": "class9", "cifar100": "fine_09"}
    assert dataset.info.classes[9] == names[name]
    assert len(dataset.info.classes) == int(name[5:])


def test_all_forms_have_one_manifest(tmp_path: Path) -> None:
    manifests = set()
    for number, make in enumerate(MAKERS["cifar100"]):
        root = makers.write_tree(tmp_path / str(number), make(IMAGES, LABELS))
        manifests.add(open_dataset("cifar100", root).split("train").manifest())
    assert len(manifests) == 1


def test_binary_comes_before_python_and_the_folder_may_be_the_root(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, makers.cifar100_python(IMAGES, LABELS))
    makers.write_tree(tmp_path, makers.cifar100_binary(IMAGES[::-1], LABELS))
    for root in (tmp_path, tmp_path / "cifar-100-binary"):
        first = open_dataset("cifar100", root).split("train").read([0])[0].numpy()
        assert np.array_equal(first, IMAGES[-1])


def test_binary_files_are_memory_mapped(tmp_path: Path) -> None:
    makers.write_tree(tmp_path, makers.cifar100_binary(IMAGES, LABELS))
    split = open_dataset("cifar100", tmp_path).split("train")
    base = split._array
    while not isinstance(base, np.memmap) and base is not None:
        base = base.base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keep", [0, 1000, 3074 * 3 + 1])
def test_truncated_records(keep: int, packed: bool, tmp_path: Path) -> None:
    files = makers.cifar100_binary(IMAGES, LABELS)
    files["cifar-100-binary/test.bin"] = files["cifar-100-binary/test.bin"][:keep]
    if packed:
        (tmp_path / "cifar-100-binary.tar.gz").write_bytes(makers.tar_of(files))
    else:
        makers.write_tree(tmp_path, files)
    with pytest.raises(DataError, match=r"test\.bin has .* no multiple of 3,074"):
        open_dataset("cifar100", tmp_path).split("test")


def test_label_beyond_the_classes(tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[0] = 200
    makers.write_tree(tmp_path, makers.cifar100_binary(IMAGES, labels))
    with pytest.raises(DataError, match="labels from 0 to 200 for 100 classes"):
        open_dataset("cifar100", tmp_path).split("train")


def test_archive_without_a_member(tmp_path: Path) -> None:
    files = makers.cifar100_binary(IMAGES, LABELS)
    del files["cifar-100-binary/test.bin"]
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(makers.tar_of(files))
    with pytest.raises(DataError, match=r"cifar-100-binary/test\.bin is missing"):
        open_dataset("cifar100", tmp_path).split("test")


class Payload:
    """Creates a file when it is unpickled by an ordinary unpickler."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.reduced


@pytest.mark.fault("D6")
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_payloads_never_run(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payloads = {
        "posix.system": Payload(os.system, f"touch {marker}"),
        "builtin": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "numpy": Payload(np.load, str(marker), None, True),
    }
    for name, payload in payloads.items():
        data = pickle.dumps({"data": payload}, protocol=protocol)
        with pytest.raises(CheckpointError, match=f"refused globals: .*{name}"):
            load_arrays(data, "file")
    assert not marker.exists()
    pickle.loads(pickle.dumps(payloads["posix.system"], protocol=protocol))
    assert marker.exists()  # the payload is a real one


def test_attribute_paths_are_refused() -> None:
    data = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(CheckpointError, match=r"numpy\.ndarray\.tofile"):
        load_arrays(data, "file")


@pytest.mark.fault("D6")
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_python_files_are_refused_where_they_lie(packed: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    files = makers.cifar100_python(IMAGES, LABELS)
    files["cifar-100-python/train"] = pickle.dumps({"data": Payload(os.system, f"touch {marker}")})
    if packed:
        (tmp_path / "cifar-100-python.tar.gz").write_bytes(makers.tar_of(files))
    else:
        makers.write_tree(tmp_path, files)
    dataset = open_dataset("cifar100", tmp_path)
    with pytest.raises(CheckpointError, match=r"cifar-100-python/train.*refused globals: posix\.system"):
        dataset.split("train")
    assert not marker.exists()
    assert len(dataset.split("test")) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"\x80\x02}q", "is damaged"),
        (pickle.dumps([1, 2]), "holds no dictionary"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}), "no entry 'fine_labels'"),
        (pickle.dumps({"data": np.zeros((2, 5), np.uint8), "fine_labels": [0, 1]}), "not uint8"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.float32), "fine_labels": [0, 1]}), "not uint8"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": ["a", "b"]}), "not uint8"),
    ],
)
def test_damaged_python_files(content: bytes, message: str, tmp_path: Path) -> None:
    files = makers.cifar100_python(IMAGES, LABELS)
    makers.write_tree(tmp_path, {**files, "cifar-100-python/test": content})
    with pytest.raises(DataError, match=message):
        open_dataset("cifar100", tmp_path).split("test")
