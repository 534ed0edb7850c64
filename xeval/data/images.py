"""Image files to pixels, one rule per oddity, so that the same file always gives the same picture or the same error.

* grey, palette, CMYK and 16-bit pictures become 8-bit RGB (16 bits: v / 257, rounded); transparency is dropped, as
  torchvision's ImageFolder does; the orientation in EXIF is applied;
* of a stereo or preview JPEG (MPO) the first picture counts;
* empty, damaged or animated files, floating-point pictures and pictures beyond 50 million pixels are DataErrors that
  name the file;
* another size: the shorter side is resized (bilinear with antialiasing) and the centre square cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xeval.data.base import DatasetInfo, Ints, Pixels, Split
from xeval.errors import DataError

if TYPE_CHECKING:
    from xeval.data.files import Tree

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 50_000_000
THREADS = 4
THUMBNAIL = 64  # decoding such small files spends its time in Python, where threads only wait for one another


class FileSplit(Split):
    """A split of image files, decoded when read; ids are the names in the tree.

    With ``native`` every file must be a square of that side: boxes given in its pixels stay true.
    """

    def __init__(
        self, info: DatasetInfo, name: str, tree: Tree, ids: Sequence[str], labels: Ints, *, native: int | None = None
    ) -> None:
        super().__init__(info, name, labels, ids)
        self._tree = tree
        self._native = native

    def _images(self, positions: Ints) -> Pixels:
        images = np.empty((len(positions), 3, self.info.size, self.info.size), dtype=np.uint8)
        if self._native and self._native <= THUMBNAIL:
            for row, position in enumerate(positions):
                images[row] = self._image(position)
            return images
        with ThreadPoolExecutor(THREADS) as pool:
            for row, image in enumerate(pool.map(self._image, positions)):
                images[row] = image
        return images

    def _image(self, position: int) -> Pixels:
        name = self.ids[position]
        image = decode(self._tree.read(name), self._tree.describe(name))
        if self._native and image.size != (self._native, self._native):
            width, height = image.size
            raise _unfit(self._tree.describe(name), f"is {width}×{height}, the first image a square of {self._native}")
        return np.asarray(square(image, self.info.size)).transpose(2, 0, 1)


def decode(data: bytes, name: str) -> Image.Image:
    """One upright RGB picture; DataError naming the file for anything else (rules above)."""
    if not data:
        raise _unfit(name, "is a 0-byte file")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _refuse(image, name)
            return _rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise _unfit(name, "has too many pixels (DecompressionBomb)") from fault
    except UnidentifiedImageError as fault:
        raise _unfit(name, "is not an image that can be read") from fault
    except Exception as fault:  # decoders raise anything on damaged bytes
        raise _unfit(name, f"is damaged ({fault})") from fault


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """Width and height of a picture as :func:`decode` returns it."""
    return decode(data, name).size


def square(image: Image.Image, side: int) -> Image.Image:
    """The picture at side × side pixels: shorter side resized, centre cut out."""
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), method=Image.Resampling.BILINEAR)


def is_image_name(name: str) -> bool:
    """Whether a file counts as an image by its name; hidden files do not."""
    return name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def _refuse(image: Image.Image, name: str) -> None:
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


def _unfit(name: str, problem: str) -> DataError:
    return DataError(f"{name} {problem}", "replace or remove the file")
