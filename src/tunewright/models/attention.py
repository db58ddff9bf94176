"""Attention over packed sequences, as an attention function of transformers.

A packed row holds N tokens of B sequences, one after another; `boundaries` are their B + 1 offsets
(the first is 0, the last N). A token attends to its own sequence only. Registered under the name
`packed`; a `boundaries=` argument given to the model's forward reaches `packed_attention` in every
family that follows transformers' attention interface.

Shape letters: N tokens, H heads, K key-value heads, D width of a head; in a block (see
`blocks.py`) G sequences of S tokens, and X = G·H matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tunewright.models.blocks import Block, blocks_of

PACKED = "packed"


class PaddedOnly(LookupError):
    """Why a model cannot run packed."""


class _PackedAttention(torch.autograd.Function):
    """softmax(Q Kᵀ · scale) V inside each sequence, with the gradient written out.

    The fused CPU attention's bf16 backward is several times slower than these four explicit
    products at the head widths of small encoders (`docs/decisions/`).
    Gradient: with P the probabilities, dV = Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP - rowsum(dP ∘ P)),
    dQ = scale · dS K, dK = scale · dSᵀ Q (Dao et al. 2022, appendix B.2). The scale is applied
    inside the products and dS is made in one pass, so that bf16 rounds once. Fillers of a block
    hand on no gradient: their rows of dO are zero, and with them those of dS.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_NHD: Tensor,
        key_NHD: Tensor,
        value_NHD: Tensor,
        blocks: Sequence[Block],
        scale: float,
        causal: bool,
        window: int | None,
    ) -> Tensor:
        output_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
        probabilities = []
        for block in blocks:
            query, key, value = (_heads(block, x) for x in (query_NHD, key_NHD, value_NHD))
            scores_XSS = _scaled_product(query, key.transpose(1, 2), scale)
            _hide(scores_XSS, block, causal, window)
            probabilities_XSS = torch.softmax(scores_XSS, dim=-1)
            _put(block, torch.bmm(probabilities_XSS, value), output_NHD)
            probabilities.append(probabilities_XSS)
        ctx.save_for_backward(query_NHD, key_NHD, value_NHD, *probabilities)
        ctx.blocks, ctx.scale = blocks, scale
        return output_NHD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_NHD, key_NHD, value_NHD, *probabilities = ctx.saved_tensors
        targets = [torch.empty(query_NHD.shape, dtype=query_NHD.dtype, device=query_NHD.device)
                   for _ in range(3)]  # fmt: skip
        for block, probabilities_XSS in zip(ctx.blocks, probabilities, strict=True):
            gradient = _heads(block, gradients[0])
            if block.filler is not None:
                filler_XS1 = _each_head(block, block.filler.transpose(1, 2), gradient)
                gradient = gradient.masked_fill(filler_XS1, 0)
            d_probabilities = torch.bmm(gradient, _heads(block, value_NHD).transpose(1, 2))
            d_scores = torch._softmax_backward_data(
                d_probabilities, probabilities_XSS, -1, probabilities_XSS.dtype
            )
            found = (
                _scaled_product(d_scores, _heads(block, key_NHD), ctx.scale),
                _scaled_product(d_scores.transpose(1, 2), _heads(block, query_NHD), ctx.scale),
                torch.bmm(probabilities_XSS.transpose(1, 2), gradient),
            )
            for target_NHD, values_XSD in zip(targets, found, strict=True):
                _put(block, values_XSD, target_NHD)
        return *targets, None, None, None, None


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Returns scale · left right, rounded once."""
    empty = left.new_empty(len(left), left.shape[1], right.shape[2])
    return torch.baddbmm(empty, left, right, beta=0, alpha=scale)


def _heads(block: Block, values_NHD: Tensor) -> Tensor:
    """Returns a block as (X, S, D), X = G·H: one matrix for each head of each sequence."""
    return block.take(values_NHD).reshape(-1, block.length, values_NHD.shape[-1])


def _put(block: Block, values_XSD: Tensor, target_NHD: Tensor) -> None:
    block.put(values_XSD.view(block.num_sequences, -1, *values_XSD.shape[1:]), target_NHD)


def _each_head(block: Block, values_Gxx: Tensor, like_Xxx: Tensor) -> Tensor:
    """Repeats what holds for a sequence for each of its heads."""
    return values_Gxx.repeat_interleave(len(like_Xxx) // block.num_sequences, 0)


def _hide(scores_XSS: Tensor, block: Block, causal: bool, window: int | None) -> None:
    """Puts the scores of keys that a query must not see to minus infinity, in place."""
    hidden_SS = _hidden(block.length, causal, window, scores_XSS.device)
    if hidden_SS is not None:
        scores_XSS.masked_fill_(hidden_SS, float("-inf"))
    if block.filler is not None:
        scores_XSS.masked_fill_(_each_head(block, block.filler, scores_XSS), float("-inf"))
        if window is not None:  # a filler's own window may hold fillers only: let it see itself
            scores_XSS.diagonal(dim1=1, dim2=2).clamp_(min=torch.finfo(scores_XSS.dtype).min)


@lru_cache(maxsize=32)
def _hidden(size: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Returns a boolean (S, S) of the keys a query must not see, or None when it sees all."""
    if not causal and (window is None or size <= window):
        return None
    position_S = torch.arange(size, device=device)
    distance_SS = position_S[:, None] - position_S[None, :]
    hidden_SS = distance_SS < 0 if causal else torch.zeros_like(distance_SS, dtype=torch.bool)
    return hidden_SS if window is None else hidden_SS | (distance_SS.abs() >= window)


def _fused(
    query_NHD: Tensor,
    key_NHD: Tensor,
    value_NHD: Tensor,
    blocks: Sequence[Block],
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """The same without gradients, through torch's fused kernel."""
    output_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    for block in blocks:
        query, key, value = (block.take(x) for x in (query_NHD, key_NHD, value_NHD))
        seen = _seen(block, causal, window, query.device)
        found_GHSD = functional.scaled_dot_product_attention(
            query, key, value, seen, scale=scale, is_causal=causal and seen is None
        )
        block.put(found_GHSD, output_NHD)
    return output_NHD


def _seen(block: Block, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Returns the mask that the fused kernel needs, (G or 1, 1, S, S), or None.

    Plain causal attention needs none. A query always sees itself, fillers too.
    """
    if block.filler is None and window is None:
        return None
    hidden_SS = _hidden(block.length, causal, window, device)
    own_SS = torch.eye(block.length, dtype=torch.bool, device=device)
    seen = own_SS | ~hidden_SS if hidden_SS is not None else torch.ones_like(own_SS)
    if block.filler is None:
        return None if hidden_SS is None else seen[None, None]
    return (seen & ~block.filler | own_SS)[:, None]


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
        output_NHD = attend(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            blocks_of(tuple(boundaries), query.device),
            scale,
            causal,
            sliding_window,
        )
    return output_NHD[None], None


def _no_mask(*_: object, **__: object) -> None:
    """The boundaries take the place of every mask."""


def register() -> None:
    """Makes `packed` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)
