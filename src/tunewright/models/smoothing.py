"""Cross-entropy with label smoothing, in pieces that fit a core's cache.

    smoothed_cross_entropy(logits_NV, labels_N, 0.1)     # the sum over the labelled tokens

Shape letters: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NOT_LABELLED = -100
# Elements of logits that are widened to fp32 at a time: 4 MB.
PIECE_ELEMENTS = 1_000_000


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Σ log Σ exp z - (1 - ε) z[y] - ε mean z; its gradient is softmax(z) - (1 - ε) [y] - ε / V."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor, smoothing: float) -> Tensor:
        total = logits_NV.new_zeros((), dtype=torch.float32)
        log_sum_N = logits_NV.new_empty(len(labels_N), dtype=torch.float32)
        for rows in _pieces(logits_NV):
            wide, label = logits_NV[rows].float(), labels_N[rows]
            log_sum_N[rows] = wide.logsumexp(-1)
            right = wide.gather(1, label.clamp(min=0)[:, None])[:, 0]
            loss = log_sum_N[rows] - (1 - smoothing) * right
            if smoothing:
                loss = loss - smoothing * wide.mean(-1)
            total += loss[label != NOT_LABELLED].sum()
        ctx.save_for_backward(logits_NV, labels_N, log_sum_N)
        ctx.smoothing = smoothing
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, labels_N, log_sum_N = ctx.saved_tensors
        found_NV = torch.empty_like(logits_NV)
        for rows in _pieces(logits_NV):
            label = labels_N[rows]
            d_logits = logits_NV[rows].float().sub_(log_sum_N[rows, None]).exp_()
            if ctx.smoothing:
                d_logits -= ctx.smoothing / d_logits.shape[1]
            places = torch.arange(len(label), device=label.device)
            d_logits[places, label.clamp(min=0)] -= 1 - ctx.smoothing
            d_logits *= ((label != NOT_LABELLED) * gradients[0])[:, None]
            found_NV[rows] = d_logits
        return found_NV, None, None


def _pieces(logits_NV: Tensor) -> list[slice]:
    step = max(1, PIECE_ELEMENTS // logits_NV.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits_NV), step)]


def smoothed_cross_entropy(logits_NV: Tensor, labels_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """Returns the summed cross-entropy, float32, of tokens whose label is not -100.

    With a `smoothing` of ε a label is the true token by 1 - ε, and by ε any token of the
    vocabulary alike (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
    """
    return _SmoothedCrossEntropy.apply(logits_NV, labels_N, smoothing)  # type: ignore[no-untyped-call]
