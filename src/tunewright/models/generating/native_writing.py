"""What beam search does at every token, by native code on a CPU.

Beginnings go on from one another at each token. Their keys and values stay where they are; a table
says in which row each beginning's tokens stand, and attention reads through it. The likeliest
continuations are found in one pass over the logits.

Shape letters: B rows, K beams of a row, R = B·K beginnings; T tokens attended to, H heads, E width
of a head, V vocabulary.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.native import native

_LANES = 16  # of the widest vector, as in vectors.h


_NEWEST = (
    "num_texts num_tokens num_heads width beams narrow num_threads",
    "token_step row_step head_step origin_step",
)
_NEWEST_TENSORS = ("query key value origins seen bias output scratch",)
_LIKELIEST = ("num_rows beams vocabulary wanted narrow num_threads",)
_LIKELIEST_TENSORS = ("logits before places scores",)


def _fields(lines: tuple[str, ...], kind: type) -> tuple[tuple[str, type], ...]:
    return tuple((name, kind) for line in lines for name in line.split())


class _Newest(ctypes.Structure):
    """`struct newest` of writing.c."""

    _fields_ = (
        *_fields(_NEWEST, ctypes.c_int64),
        ("scale", ctypes.c_double),
        *_fields(_NEWEST_TENSORS, ctypes.c_void_p),
    )


class _Likeliest(ctypes.Structure):
    """`struct likeliest` of writing.c."""

    _fields_ = (
        *_fields(_LIKELIEST, ctypes.c_int64),
        *_fields(_LIKELIEST_TENSORS, ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Newest:
    """Attention of the newest token of each beginning to a block of keys, native.

    Token t of beginning r stands in row `origins[r, t]` (int32) of the block, or in row r / `beams`
    where there are no origins: there the beginnings of a row share its source. `seen`, (rows, T)
    bool, says which tokens are some.
    """

    origins: Tensor | None = None
    beams: int = 1
    seen: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Takes (R, 1, H, E) and blocks (rows, T, H, E), a bias (H, 1, T); gives (R, 1, H, E)."""
        made = native()
        assert made is not None
        num_texts, _, num_heads, width = query.shape
        num_tokens = value.shape[1]
        query, key = query.to(value.dtype).contiguous(), key.to(value.dtype)
        assert key.stride() == value.stride()
        assert key.stride(-1) == 1
        output = torch.empty_like(query)
        bias = None if bias is None else bias.float().contiguous()
        num_threads = torch.get_num_threads()
        floats = num_heads * (2 * width + num_tokens + _LANES)
        scratch = torch.empty(num_threads * floats)
        origins, seen = self.origins, self.seen
        call = _Newest(
            num_texts=num_texts, num_tokens=num_tokens, num_heads=num_heads, width=width,
            beams=self.beams, narrow=value.dtype == torch.bfloat16, num_threads=num_threads,
            token_step=key.stride(1), row_step=key.stride(0), head_step=key.stride(2),
            origin_step=0 if origins is None else origins.stride(0), scale=width**-0.5,
            query=query.data_ptr(), key=key.data_ptr(), value=value.data_ptr(),
            origins=None if origins is None else origins.data_ptr(),
            seen=None if seen is None else seen.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            output=output.data_ptr(), scratch=scratch.data_ptr(),
        )  # fmt: skip
        made.library.newest(ctypes.byref(call))
        return output


def native_likeliest(logits_RV: Tensor, before_BK: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Returns the likeliest continuations of each row: places in K·V (int64), and the scores
    log_softmax(logits) + before, the highest first; (B, wanted) each.
    """
    made = native()
    assert made is not None
    logits, before = logits_RV.contiguous(), before_BK.float().contiguous()
    num_rows, beams = before.shape
    places = torch.empty(num_rows, wanted, dtype=torch.int64)
    scores = torch.empty(num_rows, wanted)
    call = _Likeliest(
        num_rows=num_rows, beams=beams, vocabulary=logits.shape[1], wanted=wanted,
        narrow=logits.dtype == torch.bfloat16, num_threads=torch.get_num_threads(),
        logits=logits.data_ptr(), before=before.data_ptr(), places=places.data_ptr(),
        scores=scores.data_ptr(),
    )  # fmt: skip
    made.library.likeliest(ctypes.byref(call))
    return places, scores
