"""Complexity: over how many pixels is a map spread?

Entropy: U. Bhatt, A. Weller, J. M. F. Moura, "Evaluating and aggregating feature-based model explanations", IJCAI 2020.
Gini index (sparseness): P. Chalasani et al., "Concise explanations of neural networks using adversarial training".
"""

from __future__ import annotations

import torch
from torch import Tensor

from xeval.metrics.metric import EMPTY_MAP, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained


class ComplexitySettings(Settings):
    """The complexity metric has no parameters."""


def entropy(maps: Tensor) -> Tensor:
    """Return −Σ p ln p of p = |A| / Σ|A| in nats, float64 (N,): from 0 to ln(number of pixels); 0 for an empty map."""
    a = maps.flatten(1).double().abs()
    p = a / a.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return -torch.xlogy(p, p).sum(1)


def gini(maps: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Return the Gini index of |A| + ``epsilon``, float64 (N,): 0 for a uniform map, close to 1 for a single pixel."""
    a = maps.flatten(1).double().abs().sort(1).values + epsilon
    n = a.shape[1]
    weight = 2 * torch.arange(1, n + 1, device=a.device, dtype=torch.float64) - n - 1
    return (a * weight).sum(1) / (n * a.sum(1))


@metric(
    "complexity",
    family="complexity",
    settings=ComplexitySettings,
    columns=lambda _s: (
        Column("complexity.entropy", "entropy of the map", "lower", 0, unit="nats"),
        Column("complexity.area", "effective area exp(entropy)/(H·W)", "lower", 0, 1),
        Column("complexity.gini", "Gini index of the map", "higher", 0, 1),
        Column("complexity.native", "entropy on the explainer's own grid", "lower", 0, unit="nats"),
        Column("complexity.empty", "share of maps without a positive value", None, 0, 1),
    ),
    convention=lambda _s: (
        "complexity: on the ReLU of the upsampled map (entropy in nats, at most ln(H·W)); empty maps are undefined"
    ),
    citation="Bhatt et al., IJCAI 2020; Chalasani et al., ICML 2020",
)
def score(explained: Explained, _settings: ComplexitySettings, _shared: None) -> Scores:
    """Over how many pixels is the map spread? Few pixels are easier to read; whether they are the right ones is another
    question.

        a = ReLU(A)        p = a / Σ a

        complexity.entropy = −Σ p ln p                              in nats, at most ln(H·W)
        complexity.area = exp(complexity.entropy) / (H·W)           1 = all pixels alike
        complexity.gini = Σ_i (2i − n − 1)·a_(i) / (n · Σ a)        a_(1) ≤ … ≤ a_(n), plus 1e-7 each
        complexity.native = the entropy on the explainer's own grid, before upsampling
        complexity.empty = 1 if nothing of the map is positive

    Maps of different grids are upsampled to the image's size first, so a coarse map is smooth and cannot have a low
    entropy: compare ``native`` only between maps of one grid. Empty maps are undefined and counted.
    """
    undefined = {EMPTY_MAP: explained.empty}
    nats = entropy(explained.positive)
    native = explained.native.clamp_min(0)
    return {
        "complexity.entropy": Values(nats, undefined),
        "complexity.area": Values(nats.exp() / explained.scene.pixels, undefined),
        "complexity.gini": Values(gini(explained.positive), undefined),
        "complexity.native": Values(entropy(native), {EMPTY_MAP: native.flatten(1).amax(1) <= 0}),
        "complexity.empty": Values(explained.empty.double()),
    }
