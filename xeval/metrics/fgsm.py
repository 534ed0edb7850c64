"""Robust accuracy: is the image still classified correctly after one adversarial step? The map plays no part in it.

Source: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from xeval.metrics.metric import Column, Scores, Settings, Values, metric
from xeval.metrics.scene import Explained, Scene


class AttackSettings(Settings):
    """The parameters that set the size of the attack."""

    step: float = Field(default=4 / 255, gt=0, le=1, description="ε in pixel units [0, 1]; the default is 4/255")


def loss_sign(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the sign of ∂ cross-entropy / ∂ x of the true class c, N×C×H×W.

    With m = log Σ_{j≠c} exp z_j − z_c the cross-entropy is log(1 + exp m), so ∂m/∂x has the same sign. It is computed
    from m because the gradient of the cross-entropy itself vanishes where the network is very confident.
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = model(x)
        true = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
        margin = logits.masked_fill(true, -torch.inf).logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(margin.sum(), x)
    return gradient.sign()


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return x + step · sign(∂ loss / ∂ x), clamped to [low, high]; step and bounds are C×1×1 in normalised units."""
    moved = images + step * loss_sign(model, images, labels)
    return torch.maximum(torch.minimum(moved, high), low)


def _attack(scene: Scene, settings: AttackSettings) -> Tensor:
    """Attack the images and return 1 where the result is still classified correctly: float64 (N,)."""
    engine, low, high = scene.engine, -scene.mean * scene.pixel, (1 - scene.mean) * scene.pixel
    engine.count(len(scene.images))
    parts = zip(*(torch.split(part, engine.batch_size) for part in (scene.images, scene.labels)), strict=True)
    attacked = torch.cat([fgsm(engine.model, x, y, settings.step * scene.pixel, low, high) for x, y in parts])
    return (engine.logits(attacked).argmax(1) == scene.labels).double()


@metric(
    "fgsm",
    family="model",
    settings=AttackSettings,
    columns=lambda _s: (Column("fgsm.accuracy", "accuracy under an FGSM attack", "higher", 0, 1),),
    prepare=_attack,
    convention=lambda s: (
        f"FGSM: one step of {s.step * 255:.3g}/255 in pixel units along the sign of the gradient of the "
        "cross-entropy with the true class, clamped to [0, 1]; the same for every explainer"
    ),
    citation="Goodfellow et al., ICLR 2015",
    needs=frozenset({"one label"}),
    default=False,
)
def score(_explained: Explained, _settings: AttackSettings, shared: Tensor) -> Scores:
    """Is the image still classified correctly after one adversarial step? The map plays no part in it: the value is the
    same for every explainer.

        x' = clamp(x + ε · sign(∂ loss / ∂ x))        loss = cross-entropy of the true class
        fgsm.accuracy = 1 if x' is classified correctly

    The sign is taken from the margin log Σ_{j≠c} exp z_j − z_c, which has the same sign as the cross-entropy's gradient
    and does not vanish in networks that are sure of themselves.
    """
    return {"fgsm.accuracy": Values(shared)}
