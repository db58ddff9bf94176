"""Attention over packed sequences, as an attention function of transformers.

A packed row holds N tokens of B sequences, one after another; `boundaries` are their B + 1 offsets
(the first is 0, the last N). A token attends to its own sequence only, so nothing is padded and
no mask is built. Registered under the name `packed`; a `boundaries=` argument given to the
model's forward reaches `packed_attention` in every family that follows transformers' attention
interface.

Shape letters: N tokens, H heads, K key-value heads, D width of a head, S tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

PACKED = "packed"


class _PackedAttention(torch.autograd.Function):
    """softmax(Q Kᵀ · scale) V inside each sequence, with the gradient written out.

    The fused CPU attention's bf16 backward is several times slower than these four explicit
    products at the head widths of small encoders (`docs/decisions/`).
    Gradient: with P the probabilities and O the output, dV = Pᵀ dO, dP = dO Vᵀ,
    dS = P ∘ (dP - rowsum(dO ∘ O)), dQ = scale · dS K, dK = scale · dSᵀ Q (Dao et al. 2022,
    appendix B.2).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_HND: Tensor,
        key_HND: Tensor,
        value_HND: Tensor,
        boundaries: Sequence[int],
        scale: float,
        causal: bool,
        window: int | None,
    ) -> Tensor:
        output_HND = torch.empty_like(query_HND)
        probabilities = []
        for start, end in pairwise(boundaries):
            query, key, value = (x[:, start:end] for x in (query_HND, key_HND, value_HND))
            scores_HSS = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
            hidden_SS = _hidden(end - start, causal, window, query.device)
            if hidden_SS is not None:
                scores_HSS.masked_fill_(hidden_SS, float("-inf"))
            probabilities_HSS = torch.softmax(scores_HSS, dim=-1)
            output_HND[:, start:end] = torch.bmm(probabilities_HSS, value)
            probabilities.append(probabilities_HSS)
        ctx.save_for_backward(query_HND, key_HND, value_HND, output_HND, *probabilities)
        ctx.boundaries, ctx.scale = boundaries, scale
        return output_HND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_HND, key_HND, value_HND, output_HND, *probabilities = ctx.saved_tensors
        gradient_HND = gradients[0].contiguous()
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query_HND, key_HND, value_HND))
        row_sum_HN1 = (gradient_HND * output_HND).sum(-1, keepdim=True)
        spans = pairwise(ctx.boundaries)
        for (start, end), probabilities_HSS in zip(spans, probabilities, strict=True):
            gradient = gradient_HND[:, start:end]
            d_value[:, start:end] = torch.bmm(probabilities_HSS.transpose(1, 2), gradient)
            d_scores = torch.bmm(gradient, value_HND[:, start:end].transpose(1, 2))
            d_scores = d_scores.sub_(row_sum_HN1[:, start:end]).mul_(probabilities_HSS)
            d_scores = d_scores.mul_(ctx.scale)
            d_query[:, start:end] = torch.bmm(d_scores, key_HND[:, start:end])
            d_key[:, start:end] = torch.bmm(d_scores.transpose(1, 2), query_HND[:, start:end])
        return d_query, d_key, d_value, None, None, None, None


def _hidden(size: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Returns a boolean (S, S) of the keys a query must not see, or None when it sees all."""
    if not causal and (window is None or size <= window):
        return None
    position_S = torch.arange(size, device=device)
    distance_SS = position_S[:, None] - position_S[None, :]
    hidden_SS = distance_SS < 0 if causal else torch.zeros_like(distance_SS, dtype=torch.bool)
    return hidden_SS if window is None else hidden_SS | (distance_SS.abs() >= window)


def _fused(
    query_HND: Tensor,
    key_HND: Tensor,
    value_HND: Tensor,
    boundaries: Sequence[int],
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """The same without gradients, through torch's fused kernel."""
    pieces = []
    for start, end in pairwise(boundaries):
        query, key, value = (x[None, :, start:end] for x in (query_HND, key_HND, value_HND))
        hidden_SS = _hidden(end - start, causal, window, query.device) if window else None
        mask_SS = None if hidden_SS is None else ~hidden_SS
        pieces.append(
            functional.scaled_dot_product_attention(
                query, key, value, mask_SS, scale=scale, is_causal=causal and mask_SS is None
            )[0]
        )
    return torch.cat(pieces, dim=1)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    boundaries: Sequence[int] | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention inside each packed sequence; the signature is transformers' own.

    Takes `query` (1, H, N, D) and `key`, `value` (1, K, N, D); returns (1, N, H, D) and no
    probabilities. `sliding_window` w lets a token see the keys at a distance under w. Attention
    dropout is not applied (`dropout` is ignored): it would take CPU attention off its fast path.
    The run's log says so.

    Raises TypeError when `boundaries` is missing, which means that a model did not hand its
    keyword arguments on and must take the padded route.
    """
    if boundaries is None:
        raise TypeError("packed attention needs boundaries=, and this model did not pass it on")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast rotary positions widen queries and keys, and CUDA's softmax its probabilities;
    # the gradient is written out by hand and wants one dtype throughout.
    query, key = query.to(value.dtype), key.to(value.dtype)
    needs_gradient = torch.is_grad_enabled() and query.requires_grad
    attend = _PackedAttention.apply if needs_gradient else _fused
    with torch.autocast(query.device.type, enabled=False):
        output_HND = attend(query[0], key[0], value[0], boundaries, scale, causal, sliding_window)
    return output_HND.transpose(0, 1)[None], None


def _no_mask(*_: object, **__: object) -> None:
    """The boundaries take the place of every mask."""


def register() -> None:
    """Makes `packed` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)
