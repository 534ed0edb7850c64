"""Infidelity: does the map predict how much a perturbation of the image changes the score?

Source: C.-K. Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019. INFD = E[(I·A − D)²] with
D = f(x) − f(x perturbed). Here a perturbation replaces one square by the fill. For maps whose units are locations, I is
1 where pixels were replaced and 0 elsewhere, in every channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from xeval.metrics.correlation import flat, pearson, unmoved
from xeval.metrics.metric import NO_CHANGE, Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained, Scene
from xeval.perturb.draws import gaussian, splitmix64, states, uniform


class InfidelitySettings(Settings):
    """The parameters that say how images are perturbed, and how often."""

    perturbation: Literal["square", "noisy_baseline"] = Field(
        default="square",
        description="square: one square at a uniform position becomes the fill; noisy_baseline: the whole image "
        "becomes noise around 0 in normalised space",
    )
    n: int = Field(default=64, ge=2, description="perturbations an image")
    side: float = Field(
        default=0.125, gt=0, lt=1, description="side of the square over the image's shorter one, then rounded"
    )
    sigma: float = Field(default=0.2, gt=0, description="standard deviation of noisy_baseline, in normalised units")


@dataclass(frozen=True)
class Squares:
    """The squares drawn in one scene: corners (N, n) each, the side, D = p0 − p (N, n) and the perturbed p (N, n)."""

    top: Tensor
    left: Tensor
    side: int
    change: Tensor
    p: Tensor

    def predict(self, explained: Explained) -> Tensor:
        """Return s = Σ I·A (N, n) over each square and all channels; I is 1 for locations, x − fill for gradients."""
        scene = explained.scene
        step = (scene.images - scene.fill).sum(1, keepdim=True)
        weight = step if explained.units == "gradient" else torch.full_like(step, scene.images.shape[1])
        return square_sums(explained.maps * weight, self.top, self.left, self.side)


@dataclass(frozen=True)
class Baselines:
    """The draws that replace the whole image by noise around 0.

    Only D = p0 − p and the perturbed p, both (N, n), are kept; I = x − noise is drawn again wherever it is needed.
    """

    settings: InfidelitySettings
    change: Tensor
    p: Tensor

    def predict(self, explained: Explained) -> Tensor:
        """Return s = Σ (x − noise)·A over all channels (N, n)."""
        scene = explained.scene
        maps, total = explained.maps.flatten(1), scene.images.sum(1).flatten(1)
        sums = [
            (
                maps
                * (
                    total
                    - _noise(scene, scene.keys, torch.full_like(scene.keys, draw), self.settings).sum(1).flatten(1)
                )
            )
            .double()
            .sum(1)
            for draw in range(self.settings.n)
        ]
        return torch.stack(sums, 1)


def square_sums(maps: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Return sums (N, n) of maps N×1×H×W over squares at corners (N, n), by summed-area tables in float64."""
    width = maps.shape[-1] + 1
    table = F.pad(maps[:, 0].double().cumsum(1).cumsum(2), (1, 0, 1, 0)).flatten(1)

    def at(y: Tensor, x: Tensor) -> Tensor:
        return table.gather(1, y * width + x)

    bottom, right = top + side, left + side
    return at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)


def raw_infidelity(predicted: Tensor, change: Tensor) -> Tensor:
    """Return E[(s − D)²] over draws; s is ``predicted``, D is ``change``, both (N, n)."""
    return ((predicted - change) ** 2).mean(-1)


def scaled_infidelity(predicted: Tensor, change: Tensor) -> Tensor:
    """Return E[(βs − D)²] with β = E[Ds] / E[s²], and β = 0 where s is 0 everywhere. It is the same for A and −A."""
    power = (predicted**2).mean(-1)
    beta = (predicted * change).mean(-1) / torch.where(power > 0, power, torch.ones_like(power))
    return raw_infidelity(beta[..., None] * predicted, change)


def skill(predicted: Tensor, change: Tensor) -> Tensor:
    """Return r·|r|, where r is the Pearson correlation of s and D over draws.

    The value lies in [−1, 1], changes its sign with the map and does not depend on any scale. It is 0 where s does not
    vary, because a constant map predicts nothing.
    """
    r = torch.where(flat(predicted), torch.zeros_like(change[..., 0]), pearson(predicted, change))
    return r * r.abs()


def _noise(scene: Scene, keys: Tensor, draws: Tensor, settings: InfidelitySettings) -> Tensor:
    """Return the noise images n×C×H×W of the pairs (key, draw)."""
    state = states(scene.seed, "noisy baseline", keys, draws)
    shape = scene.images.shape[1:]
    return settings.sigma * gaussian(splitmix64(state, shape.numel())).reshape(-1, *shape)


def _prepare(scene: Scene, settings: InfidelitySettings) -> Squares | Baselines:
    return _squares(scene, settings) if settings.perturbation == "square" else _baselines(scene, settings)


def _baselines(scene: Scene, settings: InfidelitySettings) -> Baselines:
    """Replace every image by noise and measure how much the probability changes."""
    p = scene.engine.class_probability(
        lambda image, draw: _noise(scene, scene.keys[image], draw, settings), settings.n, scene.targets
    )
    return Baselines(settings, scene.p0[:, None] - p, p)


def _squares(scene: Scene, settings: InfidelitySettings) -> Squares:
    """Draw the squares, fill each of them and measure how much the probability changes."""
    height, width = scene.size
    side = max(1, round(min(height, width) * settings.side))
    u = uniform(scene.seed, "infidelity", scene.keys, settings.n, 2)
    top = (u[..., 0] * (height - side + 1)).long()
    left = (u[..., 1] * (width - side + 1)).long()
    rows = torch.arange(height, device=u.device)[:, None]
    columns = torch.arange(width, device=u.device)[None, :]

    def compose(image: Tensor, draw: Tensor) -> Tensor:
        y, x = top[image, draw][:, None, None], left[image, draw][:, None, None]
        inside = (rows >= y) & (rows < y + side) & (columns >= x) & (columns < x + side)
        return scene.masked(image, ~inside.unsqueeze(1))

    p = scene.engine.class_probability(compose, settings.n, scene.targets)
    return Squares(top, left, side, scene.p0[:, None] - p, p)


COLUMNS = (
    Column("infidelity.skill", "infidelity skill r·|r|", "higher", -1, 1),
    Column("infidelity.beta", "infidelity, β-scaled (the same for A and −A: never ranked)", None, 0),
    Column("infidelity.raw", "infidelity, raw (depends on the map's scale: never ranked)", None, 0),
    Column("infidelity.se", "Monte-Carlo standard error of the raw infidelity", None, 0),
)


def _convention(settings: InfidelitySettings) -> str:
    if settings.perturbation == "noisy_baseline":
        return (
            f"infidelity: {settings.n} images of noise N(0, {settings.sigma:g}) in normalised space, D = change in the "
            "explained class's softmax, I = x − noise; β-scaled only (in kind what the ExCon paper computed: its code "
            "for this number was never published)"
        )
    return (
        f"infidelity: {settings.n} squares of side round({settings.side:g}·min(H, W)) at uniform positions set to the "
        "fill, D = change in the explained class's softmax, I = 1 on the square in every channel (x − fill for "
        "gradients); skill = r·|r|, r = the correlation of I·A and D"
    )


@metric(
    "infidelity",
    family="faithfulness",
    settings=InfidelitySettings,
    columns=lambda s: COLUMNS if s.perturbation == "square" else COLUMNS[1:2],
    prepare=_prepare,
    convention=_convention,
    citation="Yeh et al., NeurIPS 2019",
)
def score(explained: Explained, settings: InfidelitySettings, shared: Squares | Baselines) -> Scores:
    """Does the map predict how much a perturbation of the image changes the probability of the explained class?

        s = Σ I·A        D = p0 − f(x perturbed)        r = Pearson correlation of s and D over the draws

        infidelity.skill = r·|r|
        infidelity.raw = E[(s − D)²]
        infidelity.beta = E[(β·s − D)²],  β = E[D·s] / E[s²]
        infidelity.se = standard error of the raw infidelity over the draws

    One perturbation replaces a square by the fill. I is 1 on the square and 0 elsewhere, in every channel, for maps
    whose unit is ``location``; for maps whose unit is ``gradient`` it is x − fill. With ``noisy_baseline`` the whole
    image is replaced, I is x − noise, and only the β-scaled value is given.

    Only the skill is ranked: the raw
    infidelity depends on the scale of the map and of the logits, and the β-scaled one is the same for A and −A, so it
    cannot tell a map from its opposite. Both are printed for comparison with papers. The skill is undefined where the
    probability does not move, and 0 for a constant map.
    """
    predicted = shared.predict(explained)
    if isinstance(shared, Baselines):
        return {"infidelity.beta": Values(scaled_infidelity(predicted, shared.change))}
    error = (predicted - shared.change) ** 2
    return {
        "infidelity.raw": Values(raw_infidelity(predicted, shared.change)),
        "infidelity.se": Values(error.std(-1) / settings.n**0.5),
        "infidelity.beta": Values(scaled_infidelity(predicted, shared.change)),
        "infidelity.skill": Values(skill(predicted, shared.change), {NO_CHANGE: unmoved(shared.p)}),
    }
