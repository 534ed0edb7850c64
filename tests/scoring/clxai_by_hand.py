"""``clxai-2026`` a second time, in plain numpy, one image and one pixel at a time; nothing of the package is imported.

Written from the definitions: Grad-CAM and Eigen-CAM as pytorch-grad-cam returns them, SSIM as scikit-image has it,
entropy, sparseness, pointing game and attribution localisation as Quantus has them, pixel flipping as Quantus 0.5 and
0.6 do.
A map is an array H×W, an image C×H×W; a value that is undefined is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]
"""Images N×C×H×W → logits N×classes."""


# ---- maps ------------------------------------------------------------------------------------------------------------


def grad_cam(activations: Array, gradient: Array) -> Array:
    """Σ_k α_k A_k with α_k the mean of the gradient of channel k; both K×h×w."""
    cam = np.zeros(activations.shape[1:])
    for channel, slope in zip(activations, gradient, strict=True):
        cam = cam + sum(float(value) for value in slope.ravel()) / slope.size * channel
    return cam


def eigen_cam(activations: Array) -> Array:
    """The activations, centred over positions, on the first right singular vector, with all vectors asked for."""
    table = activations.reshape(len(activations), -1).transpose()
    centred = table - table.mean(axis=0)
    _, _, rows = np.linalg.svd(centred, full_matrices=True)
    return (centred @ rows[0]).reshape(activations.shape[1:])


def scaled(map_: Array) -> Array:
    """Minimum subtracted, then divided by 1e-7 + maximum."""
    above = map_ - map_.min()
    return above / (1e-7 + above.max())


def enlarged(map_: Array, side: int) -> Array:
    """Bilinear; pixel centres at half-integers, clamped at the borders, a + w·(b − a): down first, then across."""

    def along(rows: Array) -> Array:
        out = []
        for pixel in range(side):
            place = min(max((pixel + 0.5) * len(rows) / side - 0.5, 0), len(rows) - 1)
            low = math.floor(place)
            high = min(low + 1, len(rows) - 1)
            out.append(rows[low] + (place - low) * (rows[high] - rows[low]))
        return np.array(out)

    return along(along(map_).T).T


def shown(cam: Array, side: int) -> Array:
    """What the library returns: ReLU, scaled, enlarged, scaled once more."""
    return scaled(enlarged(scaled(np.maximum(cam, 0)), side))


def turned(map_: Array) -> Array:
    """(max A − A) / (1e-7 + max A − min A)."""
    return (map_.max() - map_) / (1e-7 + map_.max() - map_.min())


def empty(map_: Array) -> bool:
    return bool(map_.max() <= 0)


# ---- metrics ---------------------------------------------------------------------------------------------------------


def entropy(map_: Array) -> float | None:
    """−Σ p ln p of the shares of the whole."""
    if empty(map_):
        return None
    shares = [float(value) / float(map_.sum()) for value in map_.ravel()]
    return -sum(p * math.log(p) for p in shares if p > 0)


def gini(map_: Array) -> float | None:
    """Sparseness: Σ (2i − n − 1)·a_i / (n Σ a) over ascending a = A + 1e-7."""
    if empty(map_):
        return None
    values = sorted(float(value) + 1e-7 for value in map_.ravel())
    n = len(values)
    return sum((2 * (i + 1) - n - 1) * value for i, value in enumerate(values)) / (n * sum(values))


def ssim(a: Array, b: Array, window: int = 7) -> float:
    """Mean over all windows inside the maps; data range 1, sample covariance, K1 = .01, K2 = .03."""
    c1, c2 = 0.01**2, 0.03**2
    found = []
    for y in range(a.shape[0] - window + 1):
        for x in range(a.shape[1] - window + 1):
            u, v = (part[y : y + window, x : x + window].ravel() for part in (a, b))
            mu, mv = u.sum() / u.size, v.sum() / v.size
            uu, vv, uv = (
                float(p @ q) / (u.size - 1) for p, q in ((u - mu, u - mu), (v - mv, v - mv), (u - mu, v - mv))
            )
            found.append((2 * mu * mv + c1) * (2 * uv + c2) / ((mu**2 + mv**2 + c1) * (uu + vv + c2)))
    return float(np.mean(found))


def contrast(own: Array, other: Array) -> float | None:
    """SSIM with the map of another class, which may be empty; undefined where the explained class has an empty map."""
    return None if empty(own) else ssim(own, other)


def continuity(clean: Array, noisy: list[Array]) -> float | None:
    """Mean SSIM with the maps of noisy images, which may be empty."""
    return None if empty(clean) else float(np.mean([ssim(clean, map_) for map_ in noisy]))


def noisy_versions(image: Array, noise: Array) -> Array:
    """The normalised image plus noise n×C×H×W, clamped to [0, 1] as if it were pixels."""
    return np.clip(image + 0.02 * noise, 0, 1)


def pointing(map_: Array, mask: Array) -> set[float] | None:
    """What the pointing game may give: one value, or both where tied maxima lie inside and outside of the mask."""
    if empty(map_):
        return None
    return {float(mask[y, x]) for y, x in zip(*np.where(map_ == map_.max()), strict=True)}


def localisation(map_: Array, mask: Array) -> float | None:
    """Attribution localisation: the share of the map that lies inside the mask."""
    if empty(map_):
        return None
    inside = sum(float(map_[y, x]) for y, x in zip(*np.where(mask), strict=True))
    return inside / sum(float(value) for value in map_.ravel())


def flipped(image: Array, map_: Array, step: int, semantics: str) -> Iterator[Array]:
    """The image after each step: the next features set to its minimum, by numpy's own order of −A.

    A feature is a position in all channels (0.5) or one channel of one position (0.6).
    """
    out, black = image.copy().reshape(len(image), -1), image.min()
    relevance = map_.ravel() if semantics == "0.5" else np.concatenate([map_.ravel()] * len(image))
    order = np.argsort(-relevance)
    for start in range(0, len(order), step):
        for feature in order[start : start + step]:
            if semantics == "0.5":
                out[:, feature] = black
            else:
                out[feature // map_.size, feature % map_.size] = black
        yield out.reshape(image.shape).copy()


def pixel_flipping(predict: Predict, image: Array, map_: Array, label: int, semantics: str, step: int = 32) -> float:
    """The area under the softmax of the true class, clean point left out, over the number of points − 1."""
    logits = predict(np.array(list(flipped(image, map_, step, semantics))))
    curve = [float(np.exp(row[label]) / np.exp(row).sum()) for row in logits]
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
