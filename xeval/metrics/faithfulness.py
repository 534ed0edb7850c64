"""Faithfulness correlation: do attributions of random subsets of pixels add up to the drop that removing them causes?

Source: U. Bhatt, A. Weller, J. M. F. Moura, "Evaluating and aggregating feature-based model explanations", IJCAI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from xeval.metrics.correlation import flat, pearson, unmoved
from xeval.metrics.metric import CONSTANT_MAP, NO_CHANGE, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained, Scene
from xeval.perturb.draws import splitmix64, states
from xeval.perturb.masks import kept


class SubsetSettings(Settings):
    """The parameters that set the number and the size of the random subsets of positions."""

    n: int = Field(default=100, ge=3, description="subsets an image")
    share: float = Field(default=0.07, gt=0, lt=1, description="size of a subset over H·W, rounded down")


@dataclass(frozen=True)
class Subsets:
    """The draws of one scene: masks N×n×H·W, the change p0 − p (N, n) and the perturbed probability p (N, n)."""

    mask: Tensor
    change: Tensor
    p: Tensor


def random_subsets(seed: int, keys: Tensor, n: int, size: int, positions: int) -> Tensor:
    """Draw ``n`` uniformly random subsets of ``size`` positions for each key: bool (N, n, positions)."""
    mask = torch.zeros(len(keys), n, positions, dtype=torch.bool, device=keys.device)
    for draw in range(n):
        state = states(seed, "faithfulness-correlation", keys, torch.full_like(keys, draw))
        chosen = splitmix64(state, positions).topk(size, dim=1).indices
        mask[:, draw].scatter_(1, chosen, True)
    return mask


def _prepare(scene: Scene, settings: SubsetSettings) -> Subsets:
    """Draw the subsets, fill each of them and measure how much the probability changes."""
    size = max(1, kept(settings.share, scene.pixels))
    mask = random_subsets(scene.seed, scene.keys, settings.n, size, scene.pixels)

    def compose(image: Tensor, draw: Tensor) -> Tensor:
        return scene.masked(image, ~mask[image, draw].reshape(-1, 1, *scene.size))

    p = scene.engine.class_probability(compose, settings.n, scene.targets)
    return Subsets(mask, scene.p0[:, None] - p, p)


@metric(
    "faithcorr",
    family="faithfulness",
    settings=SubsetSettings,
    columns=lambda _s: (
        Column("faithcorr.value", "faithfulness correlation", "higher", -1, 1),
        Column("faithcorr.se", "standard error of the correlation over subsets", None, 0),
    ),
    prepare=_prepare,
    convention=lambda s: (
        f"faithfulness correlation: Pearson over {s.n} random subsets of {s.share:.3g} of all positions "
        "set to the fill, summed attribution against drop of the explained class's softmax"
    ),
    citation="Bhatt et al., IJCAI 2020",
)
def score(explained: Explained, settings: SubsetSettings, shared: Subsets) -> Scores:
    """Do the values of the map, summed over random sets of pixels, go with the drop that removing these pixels causes?

        s_j = Σ A over subset j        D_j = p0 − f(x with subset j filled)

        faithcorr.value = Pearson correlation of s and D over the subsets
        faithcorr.se = √((1 − r²) / (n − 2))

    A subset holds positions, removed in all channels. The value is undefined where the sums do not vary (a constant
    map) or the probability does not.
    """
    maps = explained.maps.flatten(1).double()
    predicted = torch.stack([(maps * shared.mask[:, draw]).sum(1) for draw in range(settings.n)], 1)
    r = pearson(predicted, shared.change)
    undefined = {CONSTANT_MAP: flat(predicted), NO_CHANGE: unmoved(shared.p)}
    error = ((1 - r**2) / (settings.n - 2)).sqrt()
    return {"faithcorr.value": Values(r, undefined), "faithcorr.se": Values(error, undefined)}
