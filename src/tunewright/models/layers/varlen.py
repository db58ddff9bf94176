"""Packed attention on an NVIDIA GPU, through torch's flash kernels for sequences of any length.

They take half-precision numbers, know no additive bias, and read the sequences where they lie:
there are no blocks, no fillers, and nothing of size S² is kept.

Shape letters: N tokens, M tokens of the keys' row, H heads, D width of a head, B sequences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.models.batch import sent

WIDEST_HEAD = 256


@dataclass(frozen=True, eq=False)
class Spans:
    """Where the sequences of a packed row lie, on the device: offsets (B + 1,) int32.

    `longest` is no less than the length of any of them; empty sequences may follow.
    """

    offsets: Tensor
    longest: int

    def __iter__(self) -> Iterator[int]:
        return iter(self.offsets.tolist())


@lru_cache(maxsize=64)
def spans_of(boundaries: tuple[int, ...], device: torch.device) -> Spans:
    """Returns boundaries on the device; all layers of a model ask for the same ones."""
    longest = max(end - start for start, end in pairwise(boundaries))
    return Spans(sent(np.array(boundaries, np.int32), device), longest)


@cache
def _kernel() -> Any:
    """Returns torch's function where it knows windows and scales, which it does from 2.11 on."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size"} <= known.keys() else None


@cache
def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def is_fit(values_NHD: Tensor, bias_HST: Tensor | None) -> bool:
    """Says whether the kernels here can take these numbers."""
    width = values_NHD.shape[-1]
    return (
        values_NHD.device.type == "cuda"
        and values_NHD.dtype in (torch.bfloat16, torch.float16)
        and bias_HST is None
        and width % 8 == 0
        and width <= WIDEST_HEAD
        and _has_flash(values_NHD.device)
        and _kernel() is not None
    )


def attend_flash(
    query_NHD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    queries: Spans,
    keys: Spans,
    *,
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """Returns softmax(Q Kᵀ · scale) V inside each sequence, (N, H, D); differentiable."""
    reach = -1 if window is None else window - 1
    places = queries.offsets, keys.offsets, queries.longest, keys.longest
    seen = (reach, 0 if causal else reach)

    def run(query_NHD: Tensor, key_MHD: Tensor, value_MHD: Tensor) -> Tensor:
        found: Tensor = _kernel()(
            query_NHD, key_MHD, value_MHD, *places, scale=scale, window_size=seen
        )
        return found

    given = [
        values if values.stride(-1) == 1 else values.contiguous()
        for values in (query_NHD, key_MHD, value_MHD)
    ]
    if not (torch.is_grad_enabled() and any(values.requires_grad for values in given)):
        return run(*given)
    found: Tensor = _Repeatable.apply(run, *given)  # type: ignore[no-untyped-call]
    return found


class _Repeatable(torch.autograd.Function):
    """A function whose gradient has the same bits each time.

    The flash kernels' own gradient adds up in whatever order its parts are done, unless torch is
    told to refuse such kernels; to be told so everywhere would refuse some that have no other.
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], *given: Tensor) -> Tensor:
        ctx.given = [values.detach().requires_grad_() for values in given]
        with torch.enable_grad():
            ctx.found = run(*ctx.given)
        found: Tensor = ctx.found.detach()
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with _refusing_others():
            found = torch.autograd.grad(ctx.found, ctx.given, gradients[0].contiguous())
        del ctx.found, ctx.given
        return None, *found


@contextmanager
def _refusing_others() -> Iterator[None]:
    """Lets only kernels run, for the time of a block, that give the same bits each time."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
