"""Lists every metric of Quantus 0.6.0: what it is asked, what stock Quantus does wrong and what the bridge does.

``cost`` holds the numbers of steps and samples, small enough for a table of many checkpoints. ``repair`` holds the
arguments that correct the metric. An entry with ``refused`` does not run; the text is the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from xeval.metrics.metric import CONSTANT_MAP, NO_CHANGE, PREDICTION_CHANGED, Direction, Family
from xeval.quantus_bridge import arguments as q
from xeval.quantus_bridge.runtime import Array, Given

Build: TypeAlias = Callable[[Given], q.Arguments]
Reduce: TypeAlias = Callable[[Any, q.Arguments, Given], Array]

NO_NUMBER = "no number from Quantus"


@dataclass(frozen=True)
class Entry:
    """One class of Quantus, with what the bridge does about it.

    ``maps`` says which maps are handed over: signed, their ReLU, each divided by its largest magnitude, or one copy per
    channel. ``scope`` says how images are passed: those of a block together (``batch``) or each image alone
    (``image``); ``block`` marks values that only a whole block has. ``fault`` is what stock Quantus does wrong in
    addition to what a run shows, and ``repaired`` what the bridge does about it. ``nan`` is the reason that is given
    where Quantus returns no number. ``again`` marks what explains other images, classes or networks too.
    """

    name: str
    title: str
    direction: Direction | None
    about: str = ""
    cost: Build = q.nothing
    repair: Build = q.nothing
    reduce: Reduce = q.per_image
    maps: Literal["signed", "positive", "scaled", "channels"] = "signed"
    scope: Literal["batch", "image", "block"] = "batch"
    masks: bool = False
    again: bool = False
    smoothed: bool = False
    nan: str = NO_NUMBER
    fault: str = ""
    repaired: str = ""
    refused: str = ""
    group: str = ""
    family: Family = "faithfulness"

    @property
    def full_name(self) -> str:
        """The name on the command line."""
        return f"quantus:{self.name}"

    def arguments(self, given: Given) -> q.Arguments:
        """Return the keyword arguments of the class."""
        return {"normalise": False, **self.cost(given), **self.repair(given)}


_faithfulness = partial(Entry, group="Faithfulness")
_robustness = partial(Entry, group="Robustness", family="continuity", again=True)
_localisation = partial(Entry, group="Localisation", family="localisation", masks=True)
_complexity = partial(Entry, group="Complexity", family="complexity", maps="positive")
_randomisation = partial(Entry, group="Randomisation", family="randomisation", nan=CONSTANT_MAP, again=True)
_axiomatic = partial(Entry, group="Axiomatic")

_VALUES = "channel values set to the mean colour"
_PATCHES = "patches of an eighth of the side, most relevant first, set to the mean colour"
_RELU = "ReLU of the upsampled map"
_NOISE = "10 draws uniform within ±0.02 in normalised units"
_EACH = "maps normalised one by one"
_IN_BATCH = "normalised over the batch"

ENTRIES: tuple[Entry, ...] = (
    _faithfulness(
        "FaithfulnessCorrelation", "faithfulness correlation", "higher",
        f"100 subsets of 7 % of the {_VALUES}, logits, signed map",
        cost=q.subsets, repair=q.separate, nan=NO_CHANGE,
        fault="one mean for all images", repaired="one value an image",
    ),
    _faithfulness(
        "FaithfulnessEstimate", "faithfulness estimate", "higher",
        f"correlation of attribution and drop over 32 or more disjoint steps of {_VALUES}, logits",
        cost=q.steps, repair=q.fill, nan=NO_CHANGE,
    ),
    _faithfulness(
        "PixelFlipping", "pixel-flipping AUC", "lower",
        f"32 or more steps over {_VALUES}, softmax, area without the clean point",
        cost=lambda given: {**q.steps(given), "return_auc_per_sample": True}, repair=q.fill, reduce=q.flipping_area,
        repaired="np.trapz for the call; area over [0, 1]",
    ),
    _faithfulness(
        "RegionPerturbation", "region perturbation, mean drop", "higher",
        f"all {_PATCHES}; mean drop of the softmax",
        cost=q.regions, repair=q.fill,
        fault="calls a smaller drop better", repaired="direction turned: the value is a drop",
    ),
    _faithfulness(
        "Monotonicity", "monotonicity (Arya)", "higher",
        "from the mean colour, channel values come back in 32 or more steps, least relevant first; 1 where the softmax "
        "never falls",
        cost=q.steps, repair=q.put_back,
        fault="overwrites a constant image with the same constant: every map gets 1",
        repaired="puts the image's values back, as published",
    ),
    _faithfulness(
        "MonotonicityCorrelation", "monotonicity correlation (Nguyen)", "higher",
        "rank correlation of |attribution| and the mean squared change of the softmax over 32 or more steps of channel "
        "values set to a uniform random value (10 draws)",
        cost=lambda given: {**q.steps(given), **q.ten(given)}, repair=q.ranked_change, nan=NO_CHANGE,
        fault="crashes on a batch with a probability below 1e-5",
        repaired="eps = 0, which leaves a rank correlation unchanged",
    ),
    _faithfulness(
        "Selectivity", "selectivity AUC", "lower",
        f"all {_PATCHES}; softmax, area over [0, 1] without the clean point",
        cost=lambda given: {"patch_size": q.patch(given)}, repair=q.fill, reduce=q.curve_area,
        fault="its AUC crashes on numpy 2.4", repaired="area over [0, 1]",
    ),
    _faithfulness(
        "SensitivityN", "sensitivity-n", "higher",
        "correlation over the images of a block between attribution and drop, mean over steps; one number a block of "
        "images, so a standard error over images means nothing",
        cost=q.steps, repair=q.fill, reduce=q.one_number, scope="block", nan=NO_CHANGE,
        fault="reads its first batch only", repaired="one batch a block, its number given to each image",
    ),
    _faithfulness(
        "IROF", "IROF, area over the curve", "higher",
        "SLIC segments, most relevant first, set to the mean colour; softmax over p0, area over [0, 1]",
        repair=q.segments, reduce=q.segment_area, scope="image",
        fault="fills with the batch's mean", repaired="segments in all channels, one image at a time; area over [0, 1]",
    ),
    _faithfulness(
        "ROAD", "ROAD, most relevant first", "lower",
        "10, 20, … 90 % of the positions imputed; share of these at which the explained class is still predicted",
        cost=lambda _given: {"percentages": list(range(10, 100, 10))},
        repair=q.impute, reduce=q.share, maps="channels", scope="image",
        fault="reads its first batch only",
        repaired="maps with C channels, each position imputed once; one image at a time",
    ),
    _faithfulness(
        "Infidelity", "infidelity with cumulative patches", None,
        "patches of an eighth of the side, row by row and cumulative, logits; depends on the scale of the map and of "
        "the logits, so never ranked",
        cost=lambda given: {"perturb_patch_sizes": [q.patch(given)], "n_perturb_samples": 1}, repair=q.fill,
        fault="ten identical repeats; crashes where the patch does not divide the side",
        repaired="one repeat; a patch that divides the side",
    ),
    _faithfulness(
        "Sufficiency", "sufficiency", "higher",
        "share of the images with a similar map (distance up to 0.6 of the largest) that get the same class, among a "
        "block of images; 0 without such a neighbour",
        maps="scaled", scope="block",
        fault="looks for neighbours in the same batch only", repaired=f"one batch a block; {_EACH}",
    ),
    _robustness(
        "Continuity", "continuity", "lower",
        "28 horizontal shifts, |map| over its maximum: largest L1 change of the map, which is not shifted back, over "
        "the L2 change of the image",
        cost=q.shifts, repair=q.each,
        fault=f"{_IN_BATCH}; ignores its perturbation arguments", repaired=_EACH,
    ),
    _robustness(
        "LocalLipschitzEstimate", "local Lipschitz estimate", "lower",
        "10 draws of N(0, 0.1) in normalised units, map over its maximum",
        cost=q.ten, repair=q.each,
        fault="normalises maps and their versions over different batches", repaired=_EACH,
    ),
    _robustness("MaxSensitivity", "max-sensitivity", "lower", f"{_NOISE}, signed map", cost=q.narrow),
    _robustness("AvgSensitivity", "average sensitivity", "lower", f"{_NOISE}, signed map", cost=q.narrow),
    _robustness(
        "Consistency", "consistency", "higher",
        fault="calls less agreement better",
        refused="it compares maps by the signs of their first five values, the top left corner of an image",
    ),
    *(
        _robustness(
            f"Relative{kind}Stability", f"relative {kind.lower()} stability", "lower",
            f"{_NOISE}; largest relative change of the map, value by value, over that of the {over}; heavy-tailed",
            cost=q.ten, repair=repair, nan=PREDICTION_CHANGED,
            fault="noise between 0.02 and 0.2, never negative", repaired=f"noise within ±0.02{more}",
        )
        for kind, over, repair, more in (
            ("Input", "image", q.symmetric, ""),
            ("Output", "logits", q.symmetric, ""),
            ("Representation", "backbone's output", q.representation, "; the backbone's output, not every layer"),
        )
    ),
    _localisation(
        "PointingGame", "pointing game", "higher", "1 where the largest value lies inside the mask",
        fault="an empty mask counts as a hit", repaired="empty masks are undefined",
    ),
    _localisation(
        "TopKIntersection", "top-k intersection", "higher", "share of the largest 5 % of the values inside the mask",
        cost=lambda given: {"k": max(1, given.pixels // 20)},
    ),
    _localisation(
        "RelevanceMassAccuracy", "relevance mass accuracy", "higher", f"{_RELU}: share inside the mask",
        maps="positive", fault="divides by a sum that may be 0 or negative", repaired="positive part of the map",
    ),
    _localisation(
        "RelevanceRankAccuracy", "relevance rank accuracy", "higher",
        "share of the largest values, as many as the mask has pixels, inside the mask",
    ),
    _localisation(
        "AttributionLocalisation", "attribution localisation", "higher", f"{_RELU}: share inside the mask",
        maps="positive", fault="weighted values are wrong", repaired="unweighted, positive part of the map",
    ),
    _localisation("AUC", "area under the ROC curve", "higher", "the map as a score for lying inside the mask"),
    _localisation(
        "Focus", "focus", "higher", refused="it needs mosaics of four images, which no data set here has"
    ),
    _complexity(
        "Sparseness", "Gini index", "higher", _RELU,
        fault="writes into the caller's maps", repaired="given copies",
    ),
    _complexity(
        "Complexity", "entropy", "lower", _RELU,
        fault="writes into the caller's maps", repaired="given copies",
    ),
    _complexity(
        "EffectiveComplexity", "effective complexity", "lower", f"{_RELU}: pixels above 1e-5 of its maximum",
        repair=q.each, fault="counts relative to the largest value of the batch", repaired=_EACH,
    ),
    _randomisation(
        "MPRT", "model parameter randomisation", "lower",
        "rank correlation of |map| before and after randomising the layers, output first, mean over layers",
        repair=q.ranked, reduce=q.layers,
        fault="its average counts the unrandomised network as a layer; one constant map stops a batch",
        repaired="mean over randomised layers, on a copy of the network",
    ),
    _randomisation(
        "SmoothMPRT", "smooth model parameter randomisation", "lower",
        "as MPRT, input first, maps averaged over 10 draws of noise (σ = 0.1 of the image's range)",
        cost=q.ten, repair=q.ranked, reduce=q.layers, smoothed=True,
        fault="never calls the given explainer; one constant map stops a batch",
        repaired="explains with the given explainer; mean over randomised layers",
    ),
    _randomisation(
        "EfficientMPRT", "efficient model parameter randomisation", "higher",
        "relative rise of the map's histogram entropy (100 bins) once every layer is randomised",
        fault="keeps its number of bins for the next data set", repaired="a fresh metric for each block",
    ),
    _randomisation(
        "RandomLogit", "random logit", "lower",
        "SSIM, over the flattened maps, of the explained class and of a random other one",
        repair=q.other_class, family="contrastivity",
        repaired="the network's number of classes; classes drawn anew for each block",
    ),
    _axiomatic(
        "Completeness", "completeness", "higher",
        fault="0 for every map",
        refused="it tests two floating-point sums for exact equality, which no map passes",
    ),
    _axiomatic(
        "NonSensitivity", "non-sensitivity", "lower",
        "number of channel values for which exactly one of |map| over its maximum and the change of the softmax, when "
        "the value alone is set to the mean colour, is below 1e-5; C·H·W passes an image",
        repair=lambda _given: {**q.EACH, **q.MEAN_FILL}, fault=_IN_BATCH, repaired=_EACH,
    ),
    _axiomatic(
        "InputInvariance", "input invariance", "higher",
        "1 where the map of the image shifted by −1 is the same under a network that takes the shift back",
        repair=q.shift_all, family="continuity", again=True,
        fault="leaves the first value unshifted",
        repaired="the shift is taken back in front of the first layer, which needs no bias",
    ),
)  # fmt: skip
TABLE = {entry.name: entry for entry in ENTRIES}
