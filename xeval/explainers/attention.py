"""Compute maps from the weights of attention in networks whose layers all attend between the same tokens.

Rollout: Abnar and Zuidema, "Quantifying attention flow in transformers", 2020. Gradients: Chefer et al., "Generic
attention-model explainability for interpreting bi-modal and encoder-decoder transformers", 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xeval.explainers import chunks
from xeval.explainers.base import explainer
from xeval.explainers.gradients import in_chunks
from xeval.models.attention import attention_of, by_head, reading_of


@explainer("attention-rollout", units="location", citation="Abnar and Zuidema, ACL 2020")
def attention_rollout(model: nn.Module, _layer: str, images: Tensor, _targets: Tensor) -> Tensor:
    """How much of each patch reaches the tokens that the score reads, if every layer passes on what it attends to.

        R = Ā_L ⋯ Ā_2 Ā_1,  Ā = ½ (mean over heads of softmax(QKᵀ/√d)) + ½ I        A_j = mean over i of R_ij

    The half of I stands for the residual connection. i runs over the tokens that the score reads: the class token, the
    class and the distillation token, or all tokens that are averaged; they are found by the gradient of the score on
    an example. The map is N×1×h×w on the grid of patches.

    Raises :class:`~xeval.errors.UsageError` for networks without attention, or with attention within windows, to pooled
    tokens or from one token alone.
    """
    reading = reading_of(model, images)
    same = torch.eye(reading.tokens, device=images.device, dtype=images.dtype)
    found = []
    for part in torch.split(images, chunks.at_once(images, chunks.FORWARD_PIXELS)):
        with torch.no_grad():
            flow = same.expand(len(part), -1, -1)
            for weights in attention_of(model, part, reading.tokens)[1]:
                flow = (by_head(weights).mean(1) + same) / 2 @ flow
            found.append(reading.map(flow))
    return torch.cat(found)


@explainer("gradient-attention", units="location", citation="Chefer et al., ICCV 2021")
def gradient_attention(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Attention that raises the logit, gathered from layer to layer.

        R ← R + Ā R,  Ā = mean over heads of ReLU(∂ logit / ∂ W · W),  W = softmax(QKᵀ/√d)
        A_j = mean over i of R_ij

    R begins as I and is gathered from the first layer to the last, by the rule for self-attention. i runs over the
    tokens that the score reads: the class token, the class and the distillation token, or all tokens that are averaged;
    they are found by the gradient of the score on an example. The map is N×1×h×w on the grid of patches.

    Raises :class:`~xeval.errors.UsageError` for networks without attention, or with attention within windows, to pooled
    tokens or from one token alone.
    """
    reading = reading_of(model, images)

    def attribute(x: Tensor, y: Tensor) -> Tensor:
        logits, weights = attention_of(model, x, reading.tokens)
        slopes = torch.autograd.grad(
            logits.gather(1, y[:, None]).sum(), weights, allow_unused=True, materialize_grads=True
        )
        flow = torch.eye(reading.tokens, device=x.device, dtype=x.dtype).expand(len(x), -1, -1)
        for one, slope in zip(weights, slopes, strict=True):
            flow = flow + by_head((slope * one).clamp_min(0)).mean(1) @ flow
        return reading.map(flow)

    return in_chunks(images, targets, attribute)
