"""Attention over packed sequences by native code, on a CPU.

The probabilities are not kept for the backward pass but made anew, from the logarithm of each
query's sum (Dao et al. 2022): memory grows with the number of tokens, not with the square of a
text's length. Products take the tensors' own precision and add up in float32.

Shape letters: N tokens, M tokens of the keys' row, H heads, K key-value heads, D width of a head,
S query and T key tokens of the longest sequence.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tunewright.models.layers.attention_dropout import AttentionDropout
from tunewright.native import native, native_for

UNLIMITED = 1 << 30  # of a window: no text is as long
_COUNTS = (
    "num_sequences num_heads num_shared width num_queries",
    "queries keys order query key value gradient",
    "query_token query_head key_token key_head value_token value_head gradient_token gradient_head",
    "behind ahead narrow num_threads scratch_floats bias_rows bias_step dropped",
)
_POINTERS = "bias log_sums output d_query d_key d_value d_bias scratch"


class _Call(ctypes.Structure):
    """`struct attention` of attention.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for line in _COUNTS for name in line.split()),
        ("seeds", ctypes.c_void_p),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    )


@dataclass(frozen=True, eq=False)
class _Boundaries:
    """Those of both rows as native code reads them, and the longest sequence of each."""

    queries: ctypes.Array[ctypes.c_int64]
    keys: ctypes.Array[ctypes.c_int64]
    order: ctypes.Array[ctypes.c_int64]
    longest: tuple[int, int]


@lru_cache(maxsize=64)
def _boundaries(queries: tuple[int, ...], keys: tuple[int, ...]) -> _Boundaries:
    """Also puts the sequences in order, those with most work first."""
    lengths = [[end - start for start, end in pairwise(side)] for side in (queries, keys)]
    order = sorted(range(len(lengths[0])), key=lambda i: -lengths[0][i] * lengths[1][i])
    starts, ends, turn = (
        (ctypes.c_int64 * len(values))(*values) for values in (queries, keys, order)
    )
    return _Boundaries(starts, ends, turn, (max(lengths[0]), max(lengths[1])))


@dataclass(frozen=True, eq=False)
class _Settings:
    """What holds for a call and for its gradient."""

    ends: _Boundaries
    scale: float
    behind: int
    ahead: int
    dropout: AttentionDropout | None


def can_attend(values: Tensor) -> bool:
    """Says whether native code attends to values of this kind: bf16 or fp32, on the CPU."""
    return native_for(values) is not None


def native_attend(
    query_NHD: Tensor,
    key_MKD: Tensor,
    value_MKD: Tensor,
    bias_HST: Tensor | None,
    queries: tuple[int, ...],
    keys: tuple[int, ...],
    scale: float,
    causal: bool,
    window: int | None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """softmax(Q Kᵀ · scale + bias) V inside each sequence, (N, H, D); H is a multiple of K.

    All is computed in the values' dtype: under autocast rotary positions widen queries and keys.
    """
    dtype = value_MKD.dtype
    behind = UNLIMITED if window is None else window - 1
    settings = _Settings(
        _boundaries(queries, keys), scale, behind, 0 if causal else behind, dropout
    )
    found: Tensor = _NativeAttention.apply(  # type: ignore[no-untyped-call]
        query_NHD.to(dtype), key_MKD.to(dtype), value_MKD, bias_HST, settings
    )
    return found


class _NativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_NHD: Tensor,
        key_MKD: Tensor,
        value_MKD: Tensor,
        bias_HST: Tensor | None,
        settings: _Settings,
    ) -> Tensor:
        tensors = [_rows(x) for x in (query_NHD, key_MKD, value_MKD)]
        output = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
        log_sums = None
        if any(ctx.needs_input_grad):
            log_sums = torch.empty(query_NHD.shape[1], len(query_NHD))
            ctx.save_for_backward(*tensors, bias_HST, log_sums, output)
            ctx.settings = settings
        bias = _turned(bias_HST)
        _call(settings, tensors, bias, 0, output=output, log_sums=log_sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, bias_HST, log_sums, output = ctx.saved_tensors
        found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]
        bias = _turned(bias_HST)
        d_bias = None if bias is None else torch.zeros_like(bias)
        names = dict(zip(("d_query", "d_key", "d_value"), found, strict=True))
        gradient = _rows(gradients[0].to(tensors[0].dtype))
        _call(ctx.settings, tensors, bias, 1, gradient, output=output, log_sums=log_sums,
              d_bias=d_bias, **names)  # fmt: skip
        if d_bias is None:
            return *found, None, None
        _, size, length = bias_HST.shape
        return *found, d_bias[:, :length, :size].transpose(1, 2).to(bias_HST.dtype), None


def _rows(values_NHD: Tensor) -> Tensor:
    """Returns tensors whose heads are each D numbers in a row; views mostly are."""
    return values_NHD if values_NHD.stride(-1) == 1 else values_NHD.contiguous()


def _turned(bias_HST: Tensor | None) -> Tensor | None:
    """Returns a bias as native code reads it: fp32, (H, T, S and room for two vectors)."""
    if bias_HST is None:
        return None
    num_heads, size, length = bias_HST.shape
    turned = torch.zeros(num_heads, length, size + 32)
    turned[:, :, :size] = bias_HST.detach().transpose(1, 2)
    return turned


def _call(
    settings: _Settings,
    tensors: list[Tensor],
    bias: Tensor | None,
    backward: int,
    gradient: Tensor | None = None,
    **outputs: Tensor | None,
) -> None:
    made = native()
    assert made is not None
    ends, dropout = settings.ends, settings.dropout
    query, key, _ = tensors
    num_threads = torch.get_num_threads()
    floats = made.library.attention_scratch(*ends.longest, query.shape[2])
    scratch = torch.empty(num_threads * floats)
    call = _Call(
        num_sequences=len(ends.order), num_heads=query.shape[1], num_shared=key.shape[1],
        width=query.shape[2], num_queries=len(query), queries=ctypes.addressof(ends.queries),
        keys=ctypes.addressof(ends.keys), order=ctypes.addressof(ends.order),
        behind=settings.behind, ahead=settings.ahead, narrow=query.dtype == torch.bfloat16,
        num_threads=num_threads, scale=settings.scale, scratch_floats=floats,
        scratch=scratch.data_ptr(),
    )  # fmt: skip
    if dropout is not None:
        call.seeds, call.dropped = dropout.seeds.ctypes.data, dropout.dropped
    for name, given in zip(
        ("query", "key", "value", "gradient"), (*tensors, gradient), strict=True
    ):
        if given is not None:
            setattr(call, name, given.data_ptr())
            setattr(call, f"{name}_token", given.stride(0))
            setattr(call, f"{name}_head", given.stride(1))
    if bias is not None:
        call.bias, call.bias_rows, call.bias_step = bias.data_ptr(), *bias.shape[1:]
    for name, tensor in outputs.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    made.library.attention(ctypes.byref(call), backward)
