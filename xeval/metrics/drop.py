"""Drop and increase of the class probability when only the most relevant pixels are kept.

Source: Z. Zhang et al., "ExCon: Explanation-driven supervised contrastive learning for image classification", 2022.
Average drop and increase in confidence go back to A. Chattopadhay et al., "Grad-CAM++", WACV 2018.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from xeval.metrics.metric import NOT_POSITIVE, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained
from xeval.perturb.masks import cut_ties, cutoff_mask, kept, minmax
from xeval.perturb.thresholds import Mask, require_thresholds

TIE = 1e-6


class DropSettings(Settings):
    """The parameters that say which part of the image is kept, and what counts as a change."""

    thresholds: Annotated[tuple[float, ...], AfterValidator(require_thresholds)] = Field(
        default=(0.15, 0.3, 0.45), description="the q of the columns, each from 0 to 1"
    )
    mask: Mask = Field(
        default="topk",
        description="topk keeps the fraction q of the pixels, cutoff those whose min-max map value exceeds q; soft "
        "weighs image and fill with the min-max map and has no q",
    )
    tie: float = Field(default=TIE, ge=0, description="a change of the probability up to this size is a tie")

    @property
    def names(self) -> dict[str, str]:
        """The name of each parameter in the columns, mapped to its description in words."""
        words = {"topk": "{:.4g} of the pixels kept", "cutoff": "pixels above {:.4g} kept"}
        if self.mask == "soft":
            return {"soft": "pixels weighed with the map"}
        return {f"{q:g}": words[self.mask].format(q) for q in self.thresholds}


def drop_increase(p0: Tensor, p1: Tensor, tie: float = TIE) -> dict[str, Tensor]:
    """Compare the probability p1 with p0 elementwise, in float64.

        drop.rate = 1[p1 < p0]        drop.mag = max(0, p0 − p1) / p0
        increase.rate = 1[p1 > p0]    increase.mag = max(0, p1 − p0) / p0
        drop.tie = 1[|p1 − p0| ≤ tie]

    A tie counts as neither drop nor increase: all four are 0 there.
    """
    change = p1 - p0
    tied = change.abs() <= tie
    down, up = (change < 0) & ~tied, (change > 0) & ~tied
    share = change.abs() / p0
    zero = torch.zeros_like(share)
    return {
        "drop.rate": down.double(),
        "drop.mag": torch.where(down, share, zero),
        "increase.rate": up.double(),
        "increase.mag": torch.where(up, share, zero),
        "drop.tie": tied.double(),
    }


def _columns(settings: DropSettings) -> tuple[Column, ...]:
    """Return the columns under these settings, six for each parameter."""
    found: list[Column] = []
    for name, text in settings.names.items():
        found += [
            Column(f"drop.rate@{name}", f"share of images whose probability drops, {text}", "lower", 0, 1),
            Column(f"drop.mag@{name}", f"relative drop, {text}", "lower", 0, 1),
            Column(f"increase.rate@{name}", f"share of images whose probability rises, {text}", "higher", 0, 1),
            Column(f"increase.mag@{name}", f"relative rise, {text}", "higher", 0),
            Column(f"drop.tie@{name}", f"share of images without a change, {text}", None, 0, 1),
            Column(f"drop.cut@{name}", f"share of pixels tied at the cut, {text}", None, 0, 1)
            if settings.mask == "topk"
            else Column(f"drop.kept@{name}", f"share of the image kept, {text}", None, 0, 1),
        ]
    return tuple(found)


def _masked(explained: Explained, settings: DropSettings) -> tuple[Tensor, str, Tensor]:
    """Return the target probability under each mask (N, J), and the name and values (N, J) of the mask's diagnostic."""
    if settings.mask == "topk":
        counts = [kept(q, explained.scene.pixels) for q in settings.thresholds]
        return explained.keeping(counts), "drop.cut", torch.stack([cut_ties(explained.maps, k) for k in counts], 1)
    masks = [minmax(explained.maps)]
    if settings.mask == "cutoff":
        masks = [cutoff_mask(explained.maps, q) for q in settings.thresholds]
    keep = torch.cat(masks, 1)
    return explained.under(keep), "drop.kept", keep.double().mean((-2, -1))


def _convention(settings: DropSettings) -> str:
    rule = {
        "topk": "the ⌊q·H·W⌋ pixels with the largest signed map value are kept, all channels, the rest set to the fill",
        "cutoff": "the pixels whose min-max map value exceeds q are kept, all channels, the rest set to the fill",
        "soft": "image × min-max map + fill × (1 − map)",
    }[settings.mask]
    return (
        f"drop/increase: {rule}; relative to the clean softmax p0; averaged over all images; "
        f"|p1 − p0| ≤ {settings.tie:g} is a tie"
    )


@metric(
    "drop",
    family="faithfulness",
    settings=DropSettings,
    columns=_columns,
    convention=_convention,
    citation="Zhang et al., ExCon, 2022",
)
def score(explained: Explained, settings: DropSettings, _shared: None) -> Scores:
    """How far does the probability of the explained class fall when only the most relevant pixels are kept, and how
    often does it rise instead?

        p1 = f(x with the ⌊q·H·W⌋ pixels with the largest A kept, the rest filled)

        drop.rate@q = 1[p1 < p0]        drop.mag@q = max(0, p0 − p1) / p0
        increase.rate@q = 1[p1 > p0]    increase.mag@q = max(0, p1 − p0) / p0

    All four are averaged over all images, right or wrong; a tie counts as neither drop nor increase. The magnitudes are
    relative to p0, so an increase has no upper bound, and there is none where p0 is a cosine and not positive.
    ``drop.cut`` is the share of pixels that have the value of the last one kept, where the cut runs through equal
    values: there the seeded tie-break decides what is kept. With ``mask`` = cutoff or soft, ``drop.kept`` takes its
    place and says how much of the image the mask leaves; under soft the columns end in ``@soft``.

    A network that was trained on images masked in this very way (ExCon) has an advantage here that is not about the
    maps: score it with another fill as well.
    """
    probabilities, diagnostic, values = _masked(explained, settings)
    tie = max(settings.tie, explained.scene.engine.jitter)
    scores: Scores = {}
    relative = {NOT_POSITIVE: explained.scene.p0 <= 0}
    for j, param in enumerate(settings.names):
        for name, value in drop_increase(explained.scene.p0, probabilities[:, j], tie).items():
            scores[f"{name}@{param}"] = Values(value, relative if name.endswith(".mag") else {})
        scores[f"{diagnostic}@{param}"] = Values(values[:, j])
    return scores
