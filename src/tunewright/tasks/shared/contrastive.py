"""Losses over the vectors of texts: which texts belong together, and how much.

    loss = ranking_loss(anchors_PD, candidates_KD, anchor_text_P, candidate_text_K, scale=20)

Each takes vectors of any length, compares them by their cosine, and returns a sum. They look at
the joined vectors of a whole update, so that the loop can cache gradients (Gao et al. 2021).

Shape letters: P pairs, K candidates (the P positives first, then every negative), T triplets, D
numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Anchors whose similarities to all candidates are held at a time: 16 MB for 8,192 candidates.
ANCHORS_AT_ONCE = 512


def ranking_loss(
    anchors_PD: Tensor,
    candidates_KD: Tensor,
    anchor_text_P: Tensor,
    candidate_text_K: Tensor,
    *,
    scale: float,
    symmetric: bool = False,
) -> Tensor:
    """Returns the summed cross-entropy of finding each anchor's positive among all candidates.

    Multiple-negatives ranking, also InfoNCE (van den Oord et al. 2018; Henderson et al. 2017):
    candidate p is the positive of anchor p, all others are its negatives. `scale` multiplies the
    cosines; its inverse is the temperature. `symmetric` adds the loss of finding each positive's
    anchor among the anchors and halves the sum (Radford et al. 2021). The texts' int64 numbers tell
    false negatives: a candidate that is the same text as the positive or the anchor, or the
    positive of an anchor with the same text, is left out.
    """
    num_pairs = len(anchors_PD)
    there = _found(anchors_PD, candidates_KD, anchor_text_P, candidate_text_K, scale)
    if not symmetric:
        return there
    positives_PD, positive_text_P = candidates_KD[:num_pairs], candidate_text_K[:num_pairs]
    back = _found(positives_PD, anchors_PD, positive_text_P, anchor_text_P, scale)
    return (there + back) / 2


def _found(
    left_PD: Tensor, right_KD: Tensor, left_text_P: Tensor, right_text_K: Tensor, scale: float
) -> Tensor:
    """Returns the summed cross-entropy of right p for left p, a few rows in memory at a time."""
    left_PD, right_KD = functional.normalize(left_PD), functional.normalize(right_KD)

    def part(start: int) -> Tensor:
        rows = slice(start, min(start + ANCHORS_AT_ONCE, len(left_PD)))
        logits_QK = scale * left_PD[rows] @ right_KD.T
        hidden_QK = _false_negatives(left_text_P, right_text_K, rows)
        right_Q = torch.arange(rows.start, rows.stop, device=logits_QK.device)
        return functional.cross_entropy(
            logits_QK.masked_fill(hidden_QK, float("-inf")), right_Q, reduction="sum"
        )

    return _in_parts(part, len(left_PD)).sum()


def _false_negatives(left_text_P: Tensor, right_text_K: Tensor, rows: slice) -> Tensor:
    """Returns which candidates a few anchors must not be compared with, (Q, K)."""
    num_pairs = len(left_text_P)
    own_left_Q1, own_right_Q1 = left_text_P[rows, None], right_text_K[:num_pairs][rows, None]
    hidden_QK = (right_text_K == own_right_Q1) | (right_text_K == own_left_Q1)
    hidden_QK[:, :num_pairs] |= left_text_P == own_left_Q1
    hidden_QK[:, rows].fill_diagonal_(False)
    return hidden_QK


def _in_parts(part: Callable[[int], Tensor], total: int) -> Tensor:
    """Returns the parts' numbers, stacked; the backward pass makes each part anew, one by one."""
    starts = range(0, total, ANCHORS_AT_ONCE)
    if len(starts) == 1:
        return part(0)[None]
    return torch.stack([checkpoint(part, start, use_reentrant=False) for start in starts])


def triplet_loss(
    anchors_TD: Tensor, positives_TD: Tensor, negatives_TD: Tensor, margin: float
) -> Tensor:
    """Returns the sum of max(0, cos(anchor, negative) - cos(anchor, positive) + margin).

    Weinberger & Saul 2009, with the distance 1 - cosine.
    """
    near_T = functional.cosine_similarity(anchors_TD, positives_TD)
    far_T = functional.cosine_similarity(anchors_TD, negatives_TD)
    return functional.relu(far_T - near_T + margin).sum()


def cosine_loss(left_PD: Tensor, right_PD: Tensor, score_P: Tensor) -> Tensor:
    """Returns the summed squared distance of each pair's cosine from its score, -1 to 1."""
    cosine_P = functional.cosine_similarity(left_PD, right_PD)
    return functional.mse_loss(cosine_P, score_P, reduction="sum")


def contrastive_loss(left_PD: Tensor, right_PD: Tensor, score_P: Tensor, margin: float) -> Tensor:
    """Returns half the sum of s d² + (1 - s) max(0, margin - d)², with the distance d = 1 - cosine.

    Hadsell et al. 2006. The score s is 1 for texts that belong together and 0 for others.
    """
    distance_P = 1 - functional.cosine_similarity(left_PD, right_PD)
    apart_P = functional.relu(margin - distance_P)
    return 0.5 * (score_P * distance_P**2 + (1 - score_P) * apart_P**2).sum()


def cosent_loss(left_PD: Tensor, right_PD: Tensor, score_P: Tensor, scale: float) -> Tensor:
    """Returns log(1 + the sum of exp(scale · (cosine i - cosine j)) over all scores i < j).

    CoSENT (Huang et al. 2024): only the order of the scores counts. It is one number for all pairs.
    Sorted by score, the sum over j is a cumulative one, so that no P x P matrix is needed.
    """
    order_P = score_P.argsort(descending=True)
    score_P = score_P[order_P]
    logits_P = scale * functional.cosine_similarity(left_PD, right_PD)[order_P]
    first_equal_P = torch.searchsorted(-score_P, -score_P)  # how many scores are higher
    above_P = torch.logcumsumexp(-logits_P, 0)
    has_above_P = first_equal_P > 0
    terms = logits_P[has_above_P] + above_P[first_equal_P[has_above_P] - 1]
    return torch.logsumexp(torch.cat([terms.new_zeros(1), terms]), 0)
