"""Local Lipschitz estimate: how much faster than the image does the map move?

Source: D. Alvarez-Melis, T. S. Jaakkola, "On the robustness of interpretability methods", 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xeval.metrics.continuity import BallSettings, ball
from xeval.metrics.metric import EMPTY_MAP, EXPLAINER, Column, Scores, Values, metric
from xeval.metrics.scene import Explained


def lipschitz(clean: Tensor, perturbed: Tensor, step: Tensor) -> Tensor:
    """Return the maximum over draws of ‖A(x) − A(x + d)‖₂ / ‖d‖₂, float64 (N,).

    ``clean`` is N×1×H×W, ``perturbed`` N×n×H×W and ``step`` d N×n×C×H×W, in the units in which the network sees the
    image.
    """
    moved = (perturbed.double() - clean.double()).flatten(2).norm(dim=2)
    length = step.double().flatten(2).norm(dim=2)
    ratio: Tensor = moved / length.clamp_min(torch.finfo(torch.float64).tiny)
    return ratio.amax(1)


@metric(
    "lipschitz",
    family="continuity",
    settings=BallSettings,
    columns=lambda _s: (Column("lipschitz.value", "local Lipschitz estimate of the map", "lower", 0),),
    prepare=ball,
    convention=lambda s: (
        f"local Lipschitz: max over {s.n} draws d uniform in an L∞ ball of {s.radius:g} (pixel units; the draws of "
        "the sensitivity) of ‖A(x) − A(x+d)‖₂/‖d‖₂, signed maps over max |A(x)|, d in normalised units"
    ),
    citation="Alvarez-Melis and Jaakkola, 2018",
    needs=EXPLAINER,
)
def score(explained: Explained, settings: BallSettings, shared: Tensor) -> Scores:
    """How much faster than the image does the map move, at worst, in a small neighbourhood?

        lipschitz.value = max over draws d of ‖a(x) − a(x + d)‖₂ / ‖d‖₂,  a = A / max |A(x)|

    The draws are those of ``sensitivity``; d is measured in normalised units, as the network sees it, and both maps are
    divided by the largest magnitude of the clean one. Undefined where the map is 0 everywhere.
    """
    size = explained.maps.flatten(1).abs().amax(1)
    unit = torch.where(size > 0, size, torch.ones_like(size))[:, None, None, None]
    perturbed = explained.again(settings.key, shared)
    step = shared - explained.scene.images.unsqueeze(1)
    value = lipschitz(explained.maps / unit, perturbed / unit, step)
    return {"lipschitz.value": Values(value, {EMPTY_MAP: size <= 0})}
