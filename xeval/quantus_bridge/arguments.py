"""What the metrics of Quantus are given, and how their results become one value per image.

Every builder takes the arrays of one call and returns keyword arguments. Every reducer takes what Quantus found, the
arguments and the arrays, and returns one value per image.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from scipy.integrate import trapezoid

from xeval.quantus_bridge.runtime import Array, Given

Arguments: TypeAlias = dict[str, Any]

EACH: Arguments = {"normalise": True, "normalise_func_kwargs": {"normalise_axes": [1, 2, 3]}}
"""Divides every map by its own largest magnitude; stock Quantus divides by the largest of the batch."""

MEAN_FILL: Arguments = {"perturb_baseline": 0.0}
"""Sets removed values to 0, which is the data set's mean colour."""


# ---- numbers of steps and samples ------------------------------------------------------------------------------------


def nothing(_given: Given) -> Arguments:
    """Return no arguments, so that Quantus's own defaults apply."""
    return {}


def divisor(total: int, most: int) -> int:
    """Return the largest number up to ``most`` that divides ``total``."""
    return max(step for step in range(1, max(1, most) + 1) if total % step == 0)


def steps(given: Given) -> Arguments:
    """Choose the channel values per step for 32 steps or a few more; Quantus requires a divisor of H·W."""
    return {"features_in_step": divisor(given.pixels, given.pixels * given.channels // 32)}


def patch(given: Given) -> int:
    """Return the side of square patches that tile the image: an eighth of the image's side or less."""
    return divisor(math.gcd(given.height, given.width), min(given.height, given.width) // 8)


def regions(given: Given) -> Arguments:
    """Evaluate all patches of the image."""
    return {"patch_size": patch(given), "regions_evaluation": given.pixels // patch(given) ** 2}


def subsets(given: Given) -> Arguments:
    """Draw 100 subsets of 7 % of the channel values."""
    return {"nr_runs": 100, "subset_size": int(0.07 * given.pixels * given.channels)}


def shifts(given: Given) -> Arguments:
    """Make 28 shifts, or fewer where the image is narrower, because Quantus rounds the distance between them down."""
    return {"nr_steps": min(28, 2 * given.height + 1)}


def ten(_given: Given) -> Arguments:
    """Draw ten random samples."""
    return {"nr_samples": 10}


def narrow(_given: Given) -> Arguments:
    """Draw ten samples within ±0.02."""
    return {"nr_samples": 10, "lower_bound": 0.02}


# ---- repairs ---------------------------------------------------------------------------------------------------------


def fill(_given: Given) -> Arguments:
    """Fill removed values with the mean colour."""
    return MEAN_FILL


def each(_given: Given) -> Arguments:
    """Normalise every map by itself."""
    return EACH


def separate(_given: Given) -> Arguments:
    """Return one value per image instead of one for all."""
    return {**MEAN_FILL, "return_aggregate": False}


def symmetric(_given: Given) -> Arguments:
    """Draw noise of both signs; Quantus's default for the relative stabilities is strictly positive."""
    return {"perturb_func_kwargs": {"lower_bound": 0.02, "upper_bound": None}}


def representation(given: Given) -> Arguments:
    """Read only the output of the backbone, where there is one: all activations of all layers would fill the memory."""
    return {**symmetric(given), "layer_names": [given.layer] if given.layer else None}


def rank_correlation(a: Array, b: Array, **_: Any) -> Array:
    """Return Spearman's correlation row by row; NaN for a constant row, on which Quantus's version crashes."""
    from scipy.stats import spearmanr

    return np.asarray([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)], dtype=np.float64)


def ranked(_given: Given) -> Arguments:
    """Correlate the ranks of each image by itself."""
    return {"similarity_func": rank_correlation}


def ranked_change(given: Given) -> Arguments:
    """Leave out the threshold on the probability: the factor that it guards does not change a rank correlation."""
    return {**ranked(given), "eps": 0.0}


def other_class(given: Given) -> Arguments:
    """Pass the network's own number of classes."""
    return {**EACH, "num_classes": given.classes, "seed": given.seed}


def put_back(given: Given) -> Arguments:
    """Compute monotonicity as published: from the fill image, values come back in order of increasing attribution."""

    def perturb(arr: Array, indices: Array, **_: Any) -> Array:
        found, rows = arr.copy(), np.arange(len(arr))[:, None]
        found[rows, indices] = given.x.reshape(len(arr), -1)[rows, indices]
        return found

    return {"perturb_func": perturb, **MEAN_FILL, "abs": False}


def shift_all(_given: Given) -> Arguments:
    """Shift every value; Quantus leaves out the first."""

    def perturb(arr: Array, input_shift: float, **_: Any) -> Array:
        moved: Array = arr + arr.dtype.type(input_shift)
        return moved

    return {"perturb_func": perturb}


def impute(given: Given) -> Arguments:
    """Impute whole positions, as ROAD does: of the C copies of each position in the ranking, the first counts."""

    def perturb(arr: Array, indices: Array, **keywords: Any) -> Array:
        from quantus.functions import perturb_func

        _, first = np.unique(indices % given.pixels, return_index=True)
        positions = (indices % given.pixels)[np.sort(first)][: len(indices) // given.channels]
        linear: Any = perturb_func.noisy_linear_imputation
        imputed: Array = linear(arr, positions, **keywords)
        return imputed

    return {"perturb_func": perturb}


class Segments:
    """A perturbation for IROF that removes one segment in all channels and counts the segments."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, arr: Array, mask: Array, **_: Any) -> Array:
        """Return the images with the segment set to the mean colour."""
        self.count += 1
        return np.where(mask, arr.dtype.type(0), arr)


def segments(_given: Given) -> Arguments:
    """Give each image a fresh counter of its segments."""
    return {"perturb_func": Segments(), "return_aggregate": False}


# ---- one value an image ----------------------------------------------------------------------------------------------


def per_image(found: Any, _arguments: Arguments, given: Given) -> Array:
    """Return the value of each image; for curves, their mean."""
    values: Array = np.asarray(found, dtype=np.float64).reshape(len(given.x), -1).mean(1)
    return values


def flipping_area(found: Any, arguments: Arguments, given: Given) -> Array:
    """Return the area over [0, 1]; Quantus integrates the curve with steps of 1."""
    points = math.ceil(given.pixels * given.channels / arguments["features_in_step"])
    area: Array = per_image(found, arguments, given) / max(1, points - 1)
    return area


def curve_area(found: Any, _arguments: Arguments, _given: Given) -> Array:
    """Return the area under each curve over [0, 1]."""
    curve = np.asarray(found, dtype=np.float64)
    area: Array = trapezoid(curve, dx=1 / max(1, curve.shape[1] - 1), axis=1)
    return area


def segment_area(found: Any, arguments: Arguments, _given: Given) -> Array:
    """Return the area over the curve on [0, 1]; Quantus counts in segments and gives 1 for a flat curve."""
    over: Array = (np.asarray(found, dtype=np.float64) - 1) / max(1, arguments["perturb_func"].count - 1)
    return over


def share(found: Any, _arguments: Arguments, _given: Given) -> Array:
    """Return the mean over the percentages of one image."""
    return np.asarray([np.mean(list(found.values()))])


def layers(found: Any, _arguments: Arguments, _given: Given) -> Array:
    """Return the mean over randomised layers; Quantus's own average includes the unrandomised network."""
    values: Array = np.stack([np.asarray(value) for layer, value in found.items() if layer != "original"]).mean(0)
    return values


def one_number(found: Any, _arguments: Arguments, given: Given) -> Array:
    """Return the number of the whole block for each of its images."""
    return np.full(len(given.x), float(np.mean(found)))
