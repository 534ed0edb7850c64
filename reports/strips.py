"""One image explained by one checkpoint, as pictures and words: the map over the image, what the mask leaves, p0 → p1.

Pixels are uint8 H×W×C, maps float H×W at the size of the image. All pictures are made here, byte for byte the same for
the same numbers.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xeval.reports.text import clean
from xeval.scoring.gallery import Pictures

Pixels = NDArray[np.uint8]
TIE = 1e-6  # as drop and increase count it
STRENGTH = 0.85  # how much of the picture the strongest colour hides
SIDE, LARGEST = (
    96,
    128,
)  # pixels of a thumbnail: small pictures are enlarged towards the one, large ones cut to the other


@dataclass(frozen=True)
class Strip:
    """An image, its map, what the mask leaves of it, and the softmax of the explained class before and after.

    What the mask leaves is None where the gallery keeps the map alone.
    """

    pixels: Pixels
    heat: NDArray[np.float32]
    masked: Pixels | None
    explained: str
    predicted: str
    before: float
    after: float
    wrong: bool = False  # the prediction is not the label

    @property
    def change(self) -> str:
        """Return the arrow: up, down, or equal."""
        difference = self.after - self.before
        if math.isnan(difference) or abs(difference) <= TIE:
            return "="
        return "▲" if difference > 0 else "▼"

    @property
    def scores(self) -> str:
        """Print both scores, as in ``0.83 → 0.91 ▲``."""
        before, after = self._numbers
        return f"{before} → {after} {self.change}"

    @property
    def words(self) -> str:
        """Return the same without signs that a reader may not know."""
        before, after = self._numbers
        verb = {"▲": "rises", "▼": "falls", "=": "stays"}[self.change]
        named = f"predicted {clean(self.predicted)}, softmax of {clean(self.explained)}"
        return f"{named} {verb} from {before} to {after}"

    @property
    def _numbers(self) -> tuple[str, str]:
        """Print both with two decimals, or with as many as tell apart what is no tie; a dash where undefined."""
        found = [(_number(self.before, decimals), _number(self.after, decimals)) for decimals in range(2, 7)]
        return found[0] if self.change == "=" else next((pair for pair in found if pair[0] != pair[1]), found[0])


def _number(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def strips(pool: Pictures, numbers: Sequence[int], classes: Sequence[str], row: str | None = None) -> list[Strip]:
    """Show some images of a pool as its first explainer explains them, or as a ``row`` of the score table does.

    A row's maps are shares of each one's strongest value. Class numbers become names.
    """
    shown = list(numbers)
    maps, after = (pool.maps, pool.after) if row is None else (pool.rows[row].maps, pool.rows[row].after)
    heat = enlarged(maps[shown], (pool.pixels.shape[2], pool.pixels.shape[3]))
    return [
        Strip(
            pool.pixels[i].transpose(1, 2, 0),
            heat[place],
            pool.masked[i].transpose(1, 2, 0) if row is None else None,
            class_name(classes, int(pool.explained[i])),
            class_name(classes, int(pool.predicted[i])),
            float(pool.p0[i]),
            float(after[i]),
            bool(pool.predicted[i] != pool.label[i]),
        )
        for place, i in enumerate(shown)
    ]


def enlarged(maps: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return maps N×1×h×w at the images' size (N, H, W), enlarged as scoring enlarges them."""
    import torch

    from xeval.explainers.cam import upsample

    return np.asarray(upsample(torch.from_numpy(maps.astype(np.float32)), size)[:, 0].numpy())


def class_name(classes: Sequence[str], number: int) -> str:
    """Return the name of a class; a network whose output is no number predicts nothing."""
    return classes[number] if 0 <= number < len(classes) else "nothing"


@dataclass(frozen=True)
class Scale:
    """Values as colours: −limit … limit around 0 for signed maps, 0 … limit for others."""

    limit: float
    signed: bool

    @property
    def ticks(self) -> tuple[str, ...]:
        """Return the numbers under the colour bar, from left to right."""
        high = f"{self.limit:.2g}"
        return (f"−{high}", "0", high) if self.signed else ("0", high)

    @property
    def bar(self) -> Pixels:
        """Return the colour bar as a picture of 12×96 pixels, over mid-grey as the maps over a picture."""
        values = np.linspace(-self.limit if self.signed else 0, self.limit, SIDE, dtype=np.float32)
        grey = np.full((12, SIDE, 1), 128, np.uint8)
        return self.over(grey, np.broadcast_to(values, (12, SIDE)))

    def over(self, pixels: Pixels, heat: Any) -> Pixels:
        """Lay the map over the picture in greys, H×W×3: the stronger the value, the less is seen of the picture."""
        import matplotlib as mpl

        part = np.nan_to_num(np.asarray(heat, np.float64) / (self.limit or 1)).clip(-1, 1)
        name, place = ("coolwarm", (part + 1) / 2) if self.signed else ("viridis", part)
        colour = mpl.colormaps[name](place)[..., :3] * 255
        opaque = STRENGTH * np.abs(part)[..., None]
        mixed = np.rint(colour * opaque + grey(pixels)[..., None] * (1 - opaque))
        return np.asarray(mixed, np.uint8)


def scale_of(maps: Iterable[Any], *, signed: bool) -> Scale:
    """Return the scale that the strongest finite value of several maps fills."""
    finite = [np.abs(values[np.isfinite(values)]) for values in map(np.asarray, maps)]
    return Scale(float(max((values.max() for values in finite if values.size), default=0)), signed)


def grey(pixels: Pixels) -> NDArray[np.float64]:
    """Return the luminance of a colour picture (ITU-R BT.601), the mean of other channels; H×W in [0, 255]."""
    values = pixels.astype(np.float64)
    return np.asarray(values @ np.array([0.299, 0.587, 0.114]) if values.shape[2] == 3 else values.mean(2))


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, and the size in which it is shown."""

    source: str
    width: int
    height: int


def picture(pixels: Pixels) -> Picture:
    """Make a picture for the page: few pixels are enlarged by the browser, many are reduced here."""
    longest = max(pixels.shape[:2])
    if longest > LARGEST:
        pixels = _reduced(pixels, LARGEST / longest)
    height, width = pixels.shape[:2]
    times = _times(longest)
    source = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    return Picture(source, width * times, height * times)


def resizing(height: int, width: int) -> str:
    """Say what :func:`picture` does to a picture of this size."""
    longest = max(height, width)
    if longest > LARGEST:
        return f"reduced to {LARGEST}"
    return f"enlarged {_times(longest)} times without smoothing" if _times(longest) > 1 else "shown as they are"


def _times(longest: int) -> int:
    return max(1, round(SIDE / longest))


def _reduced(pixels: Pixels, share: float) -> Pixels:
    from PIL.Image import Resampling

    height, width = (max(1, round(side * share)) for side in pixels.shape[:2])
    return np.asarray(_image(pixels).resize((width, height), Resampling.BOX)).reshape(height, width, -1)


def png(pixels: Pixels) -> bytes:
    """Return a PNG file without any text in it."""
    file = io.BytesIO()
    _image(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _image(pixels: Pixels) -> Any:
    from PIL import Image

    if pixels.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(pixels))
    return Image.fromarray(np.rint(grey(pixels)).astype(np.uint8))
