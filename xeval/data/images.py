"""Decode image files; fixed rules make the same file always give the same picture or the same error.

* Grey, palette, CMYK and 16-bit pictures become 8-bit RGB (16 bits: v / 257, rounded). Transparency is dropped, as
  torchvision's ImageFolder does. The orientation in EXIF is applied.
* Of a stereo or preview JPEG (MPO), the first picture is used.
* Empty, damaged or animated files, floating-point pictures and pictures beyond 50 million pixels raise DataErrors that
  name the file.
* For another size, the picture is resized (bilinear with antialiasing) until it just covers that size, and the centre
  is cut out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xeval.data.base import DatasetInfo, Ints, Pixels, Size, Split, height_and_width
from xeval.data.manifests import Subject, image_hash, keep, kept
from xeval.errors import DataError

if TYPE_CHECKING:
    from xeval.data.files import Tree

T = TypeVar("T")
Mask = NDArray[np.bool_]
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is decoded; each further decoder is a way in for hostile files, and that of EPS runs another program."""
METHODS = {method.name.lower(): method for method in Image.Resampling}
"""How a picture can be resized, by the names that libraries give it."""
MAX_PIXELS = 50_000_000
THREADS = 4
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the tag in EXIF, and its values that swap width and height
THUMBNAIL = 64  # pixels a side; up to this size, decoding is mostly Python code, which threads do not speed up


class FileSplit(Split):
    """A split of image files, which are decoded when read; the ids are their names, unless ``files`` holds these.

    With ``native``, every file must be a square of that side, so that boxes given in its pixels stay valid.
    """

    def __init__(
        self,
        info: DatasetInfo,
        name: str,
        tree: Tree,
        ids: Sequence[str],
        labels: Ints,
        notes: tuple[str, ...] = (),
        *,
        native: int | None = None,
        files: Sequence[str] | None = None,
    ) -> None:
        super().__init__(info, name, labels, ids)
        self.notes = notes
        self._files = self.ids if files is None else tuple(files)
        self._tree = tree
        self._native = native

    def _kept(self) -> str | None:
        try:
            return kept(self._subject, self._image)
        except (OSError, DataError):  # a file is gone or damaged: reading all of them says which
            return None

    def _hashed(self, each: Callable[[Pixels], None] = lambda _: None) -> str:
        hashes: list[str] = []

        def note(images: Pixels) -> None:
            hashes.extend(map(image_hash, images))
            each(images)

        before = ""
        with suppress(OSError):  # a file is gone: reading all of them says which
            before, _ = self._subject.fingerprint()
        manifest = super()._hashed(note)
        with suppress(OSError):
            keep(self._subject, manifest, hashes, before)
        return manifest

    @property
    def _subject(self) -> Subject:
        labels = hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()
        ids = hashlib.sha256("\n".join(self.ids).encode()).hexdigest()
        method = (self.info.interpolation,) if self.info.interpolation != "bilinear" else ()
        about = (type(self).__name__, self.name, self.info.size, self._native, labels, ids, *method)
        return Subject(self._tree, self._files, about)

    def _images(self, positions: Ints) -> Pixels:
        images = np.empty((len(positions), *self.info.shape), dtype=np.uint8)
        if self._native and self._native <= THUMBNAIL:
            for row, position in enumerate(positions):
                images[row] = self._image(position)
            return images
        with ThreadPoolExecutor(THREADS) as pool:
            for row, image in enumerate(pool.map(self._image, positions)):
                images[row] = image
        return images

    def _image(self, position: int) -> Pixels:
        name = self._files[position]
        image = decode(self._tree.read(name), self._tree.describe(name))
        if self._native and image.size != (self._native, self._native):
            width, height = image.size
            raise _unfit(self._tree.describe(name), f"is {width}×{height}, the first image a square of {self._native}")
        return np.asarray(fitted(image, self.info.size, METHODS[self.info.interpolation])).transpose(2, 0, 1)


def decode(data: bytes, name: str) -> Image.Image:
    """Decode one upright RGB picture; raise DataError naming the file for anything else (rules above)."""
    return opened(data, name, lambda image: _rgb(ImageOps.exif_transpose(image)))


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """Return width and height of a picture as :func:`decode` returns it; only its header is read."""
    return opened(data, name, _upright)


def mask_of(data: bytes, name: str) -> Mask:
    """Return where an upright picture is not 0 in any channel but the transparency, bool (H, W)."""
    return opened(data, name, lambda image: _marked(ImageOps.exif_transpose(image)))


def opened(data: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    """Return what ``use`` makes of a picture; raise DataError naming the file for what is no plain picture."""
    if not data:
        raise _unfit(name, "is a 0-byte file")
    try:
        with Image.open(BytesIO(data), formats=decoders()) as image:
            _require_plain(image, name)
            return use(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise _unfit(name, "has too many pixels (DecompressionBomb)") from fault
    except UnidentifiedImageError as fault:
        raise _unfit(name, "is not an image that can be read") from fault
    except Exception as fault:  # decoders raise many kinds of errors on damaged bytes
        raise _unfit(name, f"is damaged ({fault})") from fault


def fitted(image: Image.Image, size: Size, method: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Return the picture in another size: resized until it just covers that size, and its centre cut out."""
    height, width = height_and_width(size)
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), method=method)


def fitted_mask(mask: Mask, size: Size) -> Mask:
    """Return a mask (H, W) resized and cut as :func:`fitted` does with its picture; each pixel is the nearest one."""
    image = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(fitted(image, size, Image.Resampling.NEAREST)).astype(np.bool_)


@cache
def decoders() -> tuple[str, ...]:
    """Return those of the formats for which the installed Pillow has a decoder."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # that of JPEG opens MPO too


@cache
def suffixes() -> tuple[str, ...]:
    """Return the endings of image files, in lower case and sorted: those that Pillow registers for the formats."""
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS))


def is_image_name(name: str) -> bool:
    """Return whether a file counts as an image by its name; hidden files do not."""
    return name.lower().endswith(suffixes()) and not name.rpartition("/")[2].startswith(".")


def _require_plain(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _unfit(name, f"has {image.width}×{image.height} pixels (DecompressionBomb)")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise _unfit(name, "has several frames")
    if image.mode == "F":
        raise _unfit(name, "has floating-point pixels")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values + 128) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _upright(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ORIENTATION) in TURNED
    return (image.height, image.width) if turned else image.size


def _marked(image: Image.Image) -> Mask:
    if image.mode not in ("1", "L") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    return np.asarray(np.asarray(image).reshape(image.height, image.width, -1).any(2))


def _unfit(name: str, problem: str) -> DataError:
    return DataError(f"{name} {problem}", "replace or remove the file")
