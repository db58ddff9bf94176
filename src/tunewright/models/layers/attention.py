"""Attention over packed sequences, as an attention function of transformers.

A packed row holds N tokens of B sequences, one after another; `boundaries` are their B + 1 offsets
(the first is 0, the last N). A token attends to its own sequence only, or, in cross-attention, to
the sequence of the same number in another packed row. Registered under the name
`packed`; a `boundaries=` argument given to the model's forward reaches `packed_attention` in every
family that follows transformers' attention interface.

Shape letters: N tokens, M tokens of the keys' row, H heads, K key-value heads, D width of a head;
in a block (see `blocks.py`) G sequences of S query and T key tokens, and X = G·H matrices.
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

from tunewright.models.layers.attention_dropout import AttentionDropout, Lots, dropout_of
from tunewright.models.layers.blocks import Block, blocks_of, paired_blocks_of
from tunewright.models.layers.native_attention import can_attend, native_attend
from tunewright.models.layers.varlen import Spans, attend_flash, is_fit, spans_of

PACKED = "packed"


class PaddedOnly(LookupError):
    """Why a model cannot run packed."""


Blocks = Sequence[tuple[Block, Block]]


class _PackedAttention(torch.autograd.Function):
    """softmax(Q Kᵀ · scale + bias) V inside each sequence, with the gradient written out.

    The fused CPU attention's bf16 backward is several times slower than these four explicit
    products at the head widths of small encoders (`docs/decisions/`).
    Gradient: with P the probabilities, dV = Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP - rowsum(dP ∘ P)),
    dQ = scale · dS K, dK = scale · dSᵀ Q (Dao et al. 2022, appendix B.2), and that of the bias is
    the sum of dS over the sequences. The scale is applied inside the products and dS is made in one
    pass, so that bf16 rounds once. Fillers of a block hand on no gradient: their rows of dO are
    zero, and with them those of dS. With dropout O and dV are of the probabilities that are kept,
    dP is of theirs alone, and all three are scaled.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_NHD: Tensor,
        key_MHD: Tensor,
        value_MHD: Tensor,
        bias_HST: Tensor | None,
        blocks: Blocks,
        scale: float,
        causal: bool,
        window: int | None,
        lots: Lots | None,
    ) -> Tensor:
        output_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
        kept: list[Tensor | None] = []
        for of_queries, of_keys in blocks:
            query = _heads(of_queries, query_NHD)
            key, value = (_heads(of_keys, x) for x in (key_MHD, value_MHD))
            scores_XST = _scaled_product(query, key.transpose(1, 2), scale)
            if bias_HST is not None:
                _every_sequence(scores_XST, of_queries).add_(_corner(bias_HST, scores_XST))
            _hide(scores_XST, of_keys, causal, window)
            probabilities_XST = torch.softmax(scores_XST, dim=-1)
            left_XST = None if lots is None else lots.kept(of_queries, probabilities_XST)
            seen_XST = _dropped(probabilities_XST, left_XST, lots)
            _put(of_queries, torch.bmm(seen_XST, value), output_NHD)
            kept += query, key, value, probabilities_XST, left_XST
        ctx.save_for_backward(bias_HST, *kept)
        ctx.blocks, ctx.scale, ctx.shapes = blocks, scale, (query_NHD.shape, key_MHD.shape)
        ctx.lots = lots
        return output_NHD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        bias_HST, *kept = ctx.saved_tensors
        of_query, of_key = ctx.shapes
        d_query, d_key, d_value = (
            gradients[0].new_empty(shape, dtype=kept[0].dtype)
            for shape in (of_query, of_key, of_key)
        )
        d_bias = None if bias_HST is None else torch.zeros_like(bias_HST)
        for number, (of_queries, of_keys) in enumerate(ctx.blocks):
            query, key, value, probabilities_XST, left_XST = kept[5 * number : 5 * number + 5]
            gradient = _heads(of_queries, gradients[0])
            if of_queries.filler is not None:
                filler_XS1 = _each_head(of_queries, of_queries.filler.transpose(1, 2), gradient)
                gradient = gradient.masked_fill(filler_XS1, 0)
            d_probabilities = torch.bmm(gradient, value.transpose(1, 2))
            d_probabilities = _dropped(d_probabilities, left_XST, ctx.lots)
            seen_XST = _dropped(probabilities_XST, left_XST, ctx.lots)
            d_scores = torch._softmax_backward_data(
                d_probabilities, probabilities_XST, -1, probabilities_XST.dtype
            )
            if d_bias is not None:
                corner = _corner(d_bias, d_scores)
                corner += _every_sequence(d_scores, of_queries).sum(0, dtype=d_bias.dtype)
            _put(of_queries, _scaled_product(d_scores, key, ctx.scale), d_query)
            _put(of_keys, _scaled_product(d_scores.transpose(1, 2), query, ctx.scale), d_key)
            _put(of_keys, torch.bmm(seen_XST.transpose(1, 2), gradient), d_value)
        return d_query, d_key, d_value, d_bias, None, None, None, None, None


def _dropped(values_XST: Tensor, left_XST: Tensor | None, lots: Lots | None) -> Tensor:
    """Returns the values of keys that are left, scaled, and zero for the others."""
    if left_XST is None or lots is None:
        return values_XST
    return (values_XST * left_XST).mul_(lots.dropout.scale)


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


def _every_sequence(values_XST: Tensor, block: Block) -> Tensor:
    """Returns a view (G, H, S, T) of (X, S, T)."""
    return values_XST.view(block.num_sequences, -1, *values_XST.shape[1:])


def _corner(bias_HST: Tensor, scores_XST: Tensor) -> Tensor:
    """Returns the part of a bias for sequences as short as those of a block."""
    return bias_HST[:, : scores_XST.shape[1], : scores_XST.shape[2]]


def _hide(scores_XST: Tensor, of_keys: Block, causal: bool, window: int | None) -> None:
    """Puts the scores of keys that a query must not see to minus infinity, in place.

    Causality and windows are of self-attention, where S is T.
    """
    hidden_SS = _hidden(of_keys.length, causal, window, scores_XST.device)
    if hidden_SS is not None:
        scores_XST.masked_fill_(hidden_SS, float("-inf"))
    if of_keys.filler is not None:
        scores_XST.masked_fill_(_each_head(of_keys, of_keys.filler, scores_XST), float("-inf"))
        if window is not None:  # a filler's own window may hold fillers only: let it see itself
            scores_XST.diagonal(dim1=1, dim2=2).clamp_(min=torch.finfo(scores_XST.dtype).min)


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
    key_MHD: Tensor,
    value_MHD: Tensor,
    bias_HST: Tensor | None,
    blocks: Blocks,
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """The same without gradients, through torch's fused kernel."""
    output_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    for of_queries, of_keys in blocks:
        query = of_queries.take(query_NHD)
        key, value = (of_keys.take(x) for x in (key_MHD, value_MHD))
        mask = _seen(of_keys, causal, window, query.device)
        if bias_HST is not None:
            mask = _with_bias(bias_HST[:, : query.shape[2], : key.shape[2]], mask, causal)
        found_GHSD = functional.scaled_dot_product_attention(
            query, key, value, mask, scale=scale, is_causal=causal and mask is None
        )
        of_queries.put(found_GHSD, output_NHD)
    return output_NHD


def _with_bias(bias_HST: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
    """Returns a bias that is minus infinity where a key is not seen, (G or 1, H, S, T)."""
    if seen is None and causal:
        seen = ~_hidden(bias_HST.shape[1], True, None, bias_HST.device)  # type: ignore[operator]
    return bias_HST[None] if seen is None else bias_HST.where(seen, float("-inf"))


def _seen(block: Block, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Returns the mask that the fused kernel needs, (G or 1, 1, S or 1, T), or None.

    Plain causal attention needs none. In self-attention a query always sees itself, fillers too.
    """
    if block.filler is None and window is None:
        return None
    if not causal and window is None and block.filler is not None:
        return ~block.filler[:, None]
    hidden_SS = _hidden(block.length, causal, window, device)
    own_SS = torch.eye(block.length, dtype=torch.bool, device=device)
    seen = own_SS | ~hidden_SS if hidden_SS is not None else torch.ones_like(own_SS)
    if block.filler is None:
        return None if hidden_SS is None else seen[None, None]
    return (seen & ~block.filler | own_SS)[:, None]


def attend(
    query_NHD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    queries: tuple[int, ...] | Spans,
    keys: tuple[int, ...] | Spans | None = None,
    *,
    scale: float,
    causal: bool = False,
    window: int | None = None,
    bias_HST: Tensor | None = None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """Attention of packed sequences to themselves, or to those of another packed row; (N, H, D).

    `queries` and `keys` are the boundaries of both rows, sequence by sequence; without `keys` each
    sequence attends to itself, `causal` to its own past only. `bias_HST` is added to the scores of
    every sequence, from its first token on. Keys and values may have fewer heads, each shared by
    as many of the queries, where native code attends. `dropout`, on a CPU, hides some keys of each
    query.
    """
    if is_fit(value_MHD, bias_HST):
        return attend_flash(
            query_NHD.to(value_MHD.dtype),
            key_MHD.to(value_MHD.dtype),
            value_MHD,
            _spans(queries, query_NHD.device),
            _spans(keys or queries, query_NHD.device),
            scale=scale,
            causal=causal,
            window=window,
        )
    queries, keys = tuple(queries), None if keys is None else tuple(keys)
    if can_attend(value_MHD):
        return native_attend(
            query_NHD, key_MHD, value_MHD, bias_HST, queries, keys or queries, scale, causal,
            window, dropout,
        )  # fmt: skip
    if keys is None:
        blocks: Blocks = [(block, block) for block in blocks_of(queries, query_NHD.device)]
    else:
        blocks = paired_blocks_of(queries, keys, query_NHD.device)
    # Under autocast rotary positions widen queries and keys, and CUDA's softmax its probabilities;
    # the gradient is written out by hand and wants one dtype throughout.
    dtype = value_MHD.dtype
    query_NHD, key_MHD = query_NHD.to(dtype), key_MHD.to(dtype)
    bias_HST = None if bias_HST is None else bias_HST.to(dtype)
    given = (query_NHD, key_MHD, value_MHD, bias_HST, blocks, scale, causal, window)
    needs_gradient = torch.is_grad_enabled() and query_NHD.requires_grad
    with torch.autocast(query_NHD.device.type, enabled=False):
        if not needs_gradient and dropout is None:
            return _fused(*given)
        lots = None if dropout is None else dropout.lots(queries)
        found: Tensor = _PackedAttention.apply(*given, lots)  # type: ignore[no-untyped-call]
    return found


def _spans(boundaries: tuple[int, ...] | Spans, device: torch.device) -> Spans:
    return boundaries if isinstance(boundaries, Spans) else spans_of(boundaries, device)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float | None = 0.0,
    scaling: float | None = None,
    boundaries: Sequence[int] | Spans | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention inside each packed sequence; the signature is transformers' own.

    Takes `query` (1, H, N, D) and `key`, `value` (1, K, N, D); returns (1, N, H, D) and no
    probabilities. `sliding_window` w lets a token see the keys at a distance under w. `dropout`,
    the share of the keys that a query loses, is applied on a CPU; elsewhere the run's log says that
    it is not.

    Raises TypeError when `boundaries` is missing, which means that a model did not hand its
    keyword arguments on and must take the padded route.
    """
    if boundaries is None:
        raise TypeError("packed attention needs boundaries=, and this model did not pass it on")
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not can_attend(value):
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    places = boundaries if isinstance(boundaries, Spans) else tuple(boundaries)
    hides = None
    if dropout and isinstance(places, tuple):
        hides = dropout_of(module, dropout, value, len(places) - 1)
    output_NHD = attend(
        query.squeeze(0).transpose(0, 1),
        key.squeeze(0).transpose(0, 1),
        value.squeeze(0).transpose(0, 1),
        places,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=causal,
        window=sliding_window,
        dropout=hides,
    )
    return output_NHD[None], None


def _no_mask(*_: object, **__: object) -> None:
    """The boundaries take the place of every mask."""


def register() -> None:
    """Makes `packed` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)
