"""Small data sets in exactly the official layouts, and the pixels that must come back out of them."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n02000001", "n01000002", "n03000003")
BOXES = ((0, 10, 62, 58), (14, 2, 54, 49), (5, 5, 6, 7), (0, 0, 63, 63))


def noise(count: int, side: int, seed: int) -> np.ndarray:
    """Random images uint8 (count, 3, side, side)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def png(pixels: np.ndarray, **options: object) -> bytes:
    """An image (3, H, W) or (H, W) as PNG bytes (or another format)."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels)
    image.save(buffer, **{"format": "PNG", **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar.gz with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    """A zip file with these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    """The files as a folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every path below ``root`` with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*")}


def cifar100_binary(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """Two thirds train, the rest test; record = coarse, fine, 3,072 bytes."""
    cut = 2 * len(images) // 3
    rows = [bytes([7, label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
    names = "".join(f"fine_{number:02d}\n" for number in range(100))
    return {
        "cifar-100-binary/train.bin": b"".join(rows[:cut]),
        "cifar-100-binary/test.bin": b"".join(rows[cut:]),
        "cifar-100-binary/fine_label_names.txt": names.encode(),
        "cifar-100-binary/coarse_label_names.txt": b"any\n",
    }


def cifar10_binary(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """Six equal batches, the last one test; record = label, 3,072 bytes."""
    step = len(images) // 6
    rows = [bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
    batches = [b"".join(rows[start : start + step]) for start in range(0, 6 * step, step)]
    names = [f"data_batch_{number}.bin" for number in (1, 2, 3, 4, 5)] + ["test_batch.bin"]
    files = {f"cifar-10-batches-bin/{name}": batch for name, batch in zip(names, batches, strict=True)}
    meta = "".join(f"class{number}\n" for number in range(10)) + "\n"
    return {**files, "cifar-10-batches-bin/batches.meta.txt": meta.encode()}


def cifar100_python(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """The same split as the binary one, pickled by today's Python under protocol 2."""
    cut = 2 * len(images) // 3
    flat = images.reshape(len(images), -1)

    def part(rows: slice) -> bytes:
        return pickle.dumps({b"data": flat[rows], b"fine_labels": labels[rows].tolist()}, protocol=2)

    meta = pickle.dumps({"fine_label_names": [f"fine_{number:02d}" for number in range(100)]}, protocol=2)
    start = "cifar-100-python/"
    return {start + "train": part(slice(cut)), start + "test": part(slice(cut, None)), start + "meta": meta}


def cifar10_python(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """Six equal batches as Python 2 pickled the official files, opcode by opcode."""
    step = len(images) // 6
    names = [f"data_batch_{number}" for number in (1, 2, 3, 4, 5)] + ["test_batch"]
    files = {
        f"cifar-10-batches-py/{name}": python2_batch(
            images[step * i : step * (i + 1)], labels[step * i : step * (i + 1)]
        )
        for i, name in enumerate(names)
    }
    words = b"".join(_short(f"class{number}") for number in range(10))
    meta = b"\x80\x02}" + _short("label_names") + b"](" + words + b"es."
    return {**files, "cifar-10-batches-py/batches.meta": meta}


def python2_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """{'data': uint8 array (n, 3072), 'labels': [int]} in Python 2's protocol 2: 8-bit strings, old module name."""
    payload = images.tobytes()
    dtype = b"cnumpy\ndtype\n(" + _short("u1") + b"K\x00K\x01tR(K\x03" + _short("|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + _short("b") + b"tR"
    shape = b"K" + bytes([len(images)]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array = empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(payload)) + payload + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + _short("data") + array + _short("labels") + numbers + b"u."


def _short(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def tiny_imagenet(images: np.ndarray, prefix: str = "") -> dict[str, bytes]:
    """Three classes: two train images and one val image each, from nine images (9, 3, 64, 64) in that order of classes.

    wnids.txt is unsorted on purpose; PNG bytes under .JPEG names keep the pixels exact.
    """
    files: dict[str, bytes] = {"wnids.txt": ("\n".join(WNIDS) + "\n").encode()}
    files["words.txt"] = b"n01000002\tgoldfish, Carassius auratus\nn02000001\tcrane\nn03000003\tcrane, derrick\n"
    lines = []
    for row, wnid in enumerate(sorted(WNIDS)):
        for number in range(2):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = png(images[3 * row + number])
        table = "".join(f"{wnid}_{n}.JPEG\t{_row(BOXES[(row + n) % 4])}\n" for n in range(2))
        files[f"train/{wnid}/{wnid}_boxes.txt"] = table.encode()
        files[f"val/images/val_{row}.JPEG"] = png(images[3 * row + 2])
        lines.append(f"val_{row}.JPEG\t{wnid}\t{_row(BOXES[row])}\n")
    files["val/val_annotations.txt"] = "".join(reversed(lines)).encode()
    return {prefix + name: data for name, data in files.items()}


def _row(box: tuple[int, ...]) -> str:
    return "\t".join(map(str, box))


def imagenet_s50(images: np.ndarray, segmentations: np.ndarray | None = None) -> dict[str, bytes]:
    """Three classes, two train images and one validation image each, with segmentations (3, H, W) of class numbers.

    Without them: the left half is the image's own class, the right half nothing, the lowest rows undecided.
    """
    files: dict[str, bytes] = {}
    for row, wnid in enumerate(sorted(WNIDS)):
        for number in range(2):
            files[f"train/{wnid}/{wnid}_{number}.JPEG"] = png(images[3 * row + number])
        files[f"validation/{wnid}/ILSVRC2012_val_{row:08d}.JPEG"] = png(images[3 * row + 2])
        if segmentations is None:
            numbers = np.zeros(images.shape[2:], dtype=np.int64)
            numbers[:, : images.shape[3] // 2] = row + 1
            numbers[-4:] = 1000
        else:
            numbers = segmentations[row]
        coded = np.stack([numbers % 256, numbers // 256, 0 * numbers]).astype(np.uint8)
        files[f"validation-segmentation/{wnid}/ILSVRC2012_val_{row:08d}.png"] = png(coded)
    return files


def image_folder(images: np.ndarray) -> dict[str, bytes]:
    """train and val with the classes bee and ant; every image a PNG."""
    names = ["train/ant/0.png", "train/ant/1.png", "train/bee/x/2.png", "val/ant/3.png", "val/bee/4.png"]
    return {name: png(image) for name, image in zip(names, images, strict=False)}
