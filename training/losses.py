"""Losses on embeddings and features, as pure functions of tensors, each with its source.

All take M rows; the contrastive ones expect rows of unit length.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def supcon(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    base_temperature: float | None = None,
    background: Tensor | None = None,
    background_weight: float = 1.0,
) -> Tensor:
    """Return the supervised contrastive loss L_out, averaged over the anchors that have a positive.

    For anchor i with positives P(i) (same label, other index):

        −1/|P(i)| Σ_p log( exp(e_i·e_p/τ) / Σ_{a≠i} exp(e_i·e_a/τ) ), times τ / base_temperature (default 1)

    ``embeddings`` are M×d and ``labels`` (M,). ``background`` b×d joins the denominators only, each row counted
    ``background_weight`` times: it is never an anchor and never a positive (ExConB).

    Sources: P. Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equation 2; Z. Zhang et al., "ExCon:
    Explanation-driven supervised contrastive learning for image classification", 2021.
    """
    similarity = embeddings @ embeddings.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & ~itself
    # The anchor itself is masked before logsumexp subtracts the row maximum, which would always be e_i·e_i.
    others = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)
    if background is not None:
        extra = embeddings @ background.T / temperature + math.log(background_weight)
        others = torch.cat([others, extra], dim=1)
    denominator = others.logsumexp(dim=1)
    count = positive.sum(1)
    attraction = similarity.masked_fill(~positive, 0).sum(1) / count.clamp_min(1)
    per_anchor = torch.where(count > 0, denominator - attraction, 0)
    scale = temperature / (base_temperature or temperature)
    return scale * per_anchor.sum() / (count > 0).sum().clamp_min(1)


def nt_xent(embeddings: Tensor, *, temperature: float = 0.5, base_temperature: float | None = None) -> Tensor:
    """Return SimCLR's loss: SupCon where the only positive is the other view of the same image.

    ``embeddings`` are 2n×d, the n first views before the n second ones. Source: T. Chen et al., "A simple framework for
    contrastive learning of visual representations", ICML 2020.
    """
    images = torch.arange(len(embeddings) // 2, device=embeddings.device).repeat(2)
    return supcon(embeddings, images, temperature=temperature, base_temperature=base_temperature)


def collapsed_value(rows: int, scale: float = 1.0, background: float = 0.0) -> float:
    """Return the contrastive loss of an encoder that maps all to one point: ln(rows − 1 + background) · scale."""
    return math.log(max(rows - 1 + background, 1)) * scale


def semi_hard_negatives(distances: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the distance of the negative for every (anchor, positive) pair, M×M; ``distances`` M×M has the positive's.

    The semi-hard negative is the closest one that is farther than the positive and inside the margin. Where there is
    none, the anchor's closest negative is taken (batch-hard). The distance is infinite for an anchor without negatives.
    """
    ordered = distances.masked_fill(~negative, math.inf).sort(dim=1).values
    place = torch.searchsorted(ordered.detach(), distances.detach(), right=True).clamp_max(ordered.shape[1] - 1)
    farther = ordered.gather(1, place)
    semi_hard = (farther > distances) & (farther < distances + margin)
    return torch.where(semi_hard, farther, ordered[:, :1])


def triplet(
    features: Tensor, labels: Tensor, *, margin: float = 0.3, miner: Literal["closest", "all"] = "closest"
) -> Tensor:
    """Return the semi-hard triplet loss max(0, d_ap − d_an + margin), Euclidean, on un-normalised features M×K.

    ``miner = "closest"``: one triplet for every ordered (anchor, positive) pair whose anchor has a negative, see
    :func:`semi_hard_negatives`. ``miner = "all"``: see :func:`all_semi_hard`. The loss is the average over these
    triplets (those with loss 0 included), or 0 where the batch has none.

    Source: F. Schroff et al., "FaceNet: A unified embedding for face recognition and clustering", CVPR 2015.
    """
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if miner == "all":
        return all_semi_hard(distances, positive, ~same, margin)
    valid = positive & (~same).any(1, keepdim=True)
    return _mean(distances - semi_hard_negatives(distances, ~same, margin) + margin, valid)


def all_semi_hard(distances: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the mean loss of all triplets of the batch with 0 < d_an − d_ap ≤ margin; ``distances`` etc. are M×M.

    Where the whole batch has none, it is the mean over anchors of the batch-hard triplets (farthest positive, closest
    negative), those with loss 0 included. Memory grows with M³.

    Sources: the semi-hard miner of pytorch-metric-learning; A. Hermans et al., "In defense of the triplet loss for
    person re-identification", 2017 (batch-hard).
    """
    gap = distances[:, None, :] - distances[:, :, None]
    mined = positive[:, :, None] & negative[:, None, :] & (gap > 0) & (gap <= margin)
    farthest = distances.masked_fill(~positive, -math.inf).amax(1)
    closest = distances.masked_fill(~negative, math.inf).amin(1)
    batch_hard = _mean(farthest - closest + margin, positive.any(1) & negative.any(1))
    return torch.where(mined.any(), _mean(margin - gap, mined), batch_hard)


def _mean(violation: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of max(0, violation) over the chosen triplets; 0 without any."""
    return violation.clamp_min(0).masked_fill(~chosen, 0).sum() / chosen.sum().clamp_min(1)
