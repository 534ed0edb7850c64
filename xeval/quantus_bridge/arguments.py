"""What Quantus's metrics are given and what is made of their results: steps, samples, perturbations, areas.

Every builder takes the arrays of one call and returns keyword arguments; every reducer takes what Quantus found, the
arguments and the arrays, and returns one value an image.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from xeval.quantus_bridge.runtime import Array, Given

Arguments: TypeAlias = dict[str, Any]

EACH: Arguments = {"normalise": True, "normalise_func_kwargs": {"normalise_axes": [1, 2, 3]}}
"""Every map divided by its own largest magnitude; stock Quantus divides by the largest of the batch."""

MEAN_FILL: Arguments = {"perturb_baseline": 0.0}
"""Removed values become 0, the data set's mean colour."""


# ---- numbers of steps and samples ------------------------------------------------------------------------------------


def nothing(_given: Given) -> Arguments:
    """Quantus's own defaults."""
    return {}


def divisor(total: int, most: int) -> int:
    """The largest number up to ``most`` that divides ``total``."""
    return max(step for step in range(1, max(1, most) + 1) if total % step == 0)


def steps(given: Given) -> Arguments:
    """Channel values a step, so that there are 32 steps or few more; Quantus wants a divisor of H·W."""
    return {"features_in_step": divisor(given.pixels, given.pixels * given.channels // 32)}


def patch(given: Given) -> int:
    """Side of square patches that tile the image, an eighth of it or less."""
    return divisor(math.gcd(given.height, given.width), min(given.height, given.width) // 8)


def regions(given: Given) -> Arguments:
    """All patches of the image."""
    return {"patch_size": patch(given), "regions_evaluation": given.pixels // patch(given) ** 2}


def subsets(given: Given) -> Arguments:
    """100 subsets of 7 % of the channel values."""
    return {"nr_runs": 100, "subset_size": int(0.07 * given.pixels * given.channels)}


def shifts(given: Given) -> Arguments:
    """28 shifts, fewer where the image is narrower: Quantus rounds the distance between them down."""
    return {"nr_steps": min(28, 2 * given.height + 1)}


def ten(_given: Given) -> Arguments:
    """Ten random samples."""
    return {"nr_samples": 10}


def narrow(_given: Given) -> Arguments:
    """Ten draws within ±0.02."""
    return {"nr_samples": 10, "lower_bound": 0.02}


# ---- repairs ---------------------------------------------------------------------------------------------------------


def fill(_given: Given) -> Arguments:
    """The mean colour in the place of removed values."""
    return MEAN_FILL


def each(_given: Given) -> Arguments:
    """Maps normalised one by one."""
    return EACH


def separate(_given: Given) -> Arguments:
    """One value an image instead of one for all."""
    return {**MEAN_FILL, "return_aggregate": False}


def symmetric(_given: Given) -> Arguments:
    """Noise on both sides; Quantus's default of the relative stabilities is strictly positive."""
    return {"perturb_func_kwargs": {"lower_bound": 0.02, "upper_bound": None}}


def representation(given: Given) -> Arguments:
    """The output of the backbone, where there is one: all activations of all layers would fill the memory."""
    return {**symmetric(given), "layer_names": [given.layer] if given.layer else None}


def rank_correlation(a: Array, b: Array, **_: Any) -> Array:
    """Spearman's correlation row by row, NaN for a constant row; Quantus's crashes on a batch with one."""
    from scipy.stats import spearmanr

    return np.asarray([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)], dtype=np.float64)


def ranked(_given: Given) -> Arguments:
    """Rank correlations of each image on its own."""
    return {"similarity_func": rank_correlation}


def ranked_change(given: Given) -> Arguments:
    """Without the threshold on the probability: the factor behind it leaves a rank correlation unchanged."""
    return {**ranked(given), "eps": 0.0}


def other_class(given: Given) -> Arguments:
    """The network's own number of classes."""
    return {**EACH, "num_classes": given.classes, "seed": given.seed}


def put_back(given: Given) -> Arguments:
    """Monotonicity as published: from the fill image, values come back in order of increasing attribution."""

    def perturb(arr: Array, indices: Array, **_: Any) -> Array:
        found, rows = arr.copy(), np.arange(len(arr))[:, None]
        found[rows, indices] = given.x.reshape(len(arr), -1)[rows, indices]
        return found

    return {"perturb_func": perturb, **MEAN_FILL, "abs": False}


def shift_all(_given: Given) -> Arguments:
    """Every value shifted: Quantus leaves out the first."""

    def perturb(arr: Array, input_shift: float, **_: Any) -> Array:
        moved: Array = arr + arr.dtype.type(input_shift)
        return moved

    return {"perturb_func": perturb}


def impute(given: Given) -> Arguments:
    """ROAD's imputation at positions: of the C copies of each position in the ranking, the first counts."""

    def perturb(arr: Array, indices: Array, **keywords: Any) -> Array:
        from quantus.functions import perturb_func

        _, first = np.unique(indices % given.pixels, return_index=True)
        positions = (indices % given.pixels)[np.sort(first)][: len(indices) // given.channels]
        linear: Any = perturb_func.noisy_linear_imputation
        imputed: Array = linear(arr, positions, **keywords)
        return imputed

    return {"perturb_func": perturb}


class Segments:
    """IROF's removal of one segment in all channels; counts the segments."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, arr: Array, mask: Array, **_: Any) -> Array:
        """Images with the segment set to the mean colour."""
        self.count += 1
        return np.where(mask, arr.dtype.type(0), arr)


def segments(_given: Given) -> Arguments:
    """A fresh count for each image."""
    return {"perturb_func": Segments(), "return_aggregate": False}


# ---- one value an image ----------------------------------------------------------------------------------------------


def per_image(found: Any, _arguments: Arguments, given: Given) -> Array:
    """The value of each image; of curves the mean."""
    values: Array = np.asarray(found, dtype=np.float64).reshape(len(given.x), -1).mean(1)
    return values


def flipping_area(found: Any, arguments: Arguments, given: Given) -> Array:
    """Quantus sums the curve with steps of 1: make it an area over [0, 1]."""
    points = math.ceil(given.pixels * given.channels / arguments["features_in_step"])
    area: Array = per_image(found, arguments, given) / max(1, points - 1)
    return area


def curve_area(found: Any, _arguments: Arguments, _given: Given) -> Array:
    """Area under each curve over [0, 1]."""
    curve = np.asarray(found, dtype=np.float64)
    area: Array = np.trapezoid(curve, dx=1 / max(1, curve.shape[1] - 1), axis=1)
    return area


def segment_area(found: Any, arguments: Arguments, _given: Given) -> Array:
    """Area over the curve on [0, 1]: Quantus's unit is the number of segments, and a flat curve gives it 1."""
    over: Array = (np.asarray(found, dtype=np.float64) - 1) / max(1, arguments["perturb_func"].count - 1)
    return over


def share(found: Any, _arguments: Arguments, _given: Given) -> Array:
    """Mean over the percentages of one image."""
    return np.asarray([np.mean(list(found.values()))])


def layers(found: Any, _arguments: Arguments, _given: Given) -> Array:
    """Mean over randomised layers; Quantus's own average counts the unrandomised network as one of them."""
    values: Array = np.stack([np.asarray(value) for layer, value in found.items() if layer != "original"]).mean(0)
    return values


def one_number(found: Any, _arguments: Arguments, given: Given) -> Array:
    """The block's number for each of its images."""
    return np.full(len(given.x), float(np.mean(found)))
