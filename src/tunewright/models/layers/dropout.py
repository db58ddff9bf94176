"""Dropout that costs almost nothing on a CPU, and is a row's own.

`aten::bernoulli_` is serial on the CPU and took a third of a training step; here the mask is made
from raw random bytes of NumPy's SFC64, one byte an element. Each sequence of a batch has bytes of
its own, made from (seed, update, row): so a mask depends neither on threads, nor on which rows
share a forward pass, nor on how many processes share an update.

Shape letters: N tokens, B sequences, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.models.batch import TOKEN_QUANTUM, Batch
from tunewright.native import native, native_for

# Masks of one shape that are drawn together: a model has many, and each draw has its cost.
MASKS_AT_ONCE = 4

# Odd numbers whose multiples lie far apart: a head's, and a call's.
GOLDEN, OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


class _Masked(torch.autograd.Function):
    """Zeroes elements and scales the others up, keeping one byte an element for the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, raw: Tensor, drop_bytes: int) -> Tensor:
        ctx.save_for_backward(raw)
        ctx.drop_bytes = drop_bytes
        return _masked(values, raw, drop_bytes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (raw,) = ctx.saved_tensors
        return _masked(gradients[0], raw, ctx.drop_bytes), None, None


def _masked(values: Tensor, raw: Tensor, drop_bytes: int) -> Tensor:
    scale = scale_of(drop_bytes)
    made = native_for(values)
    if made is None:
        return (values * (raw >= drop_bytes)).mul_(scale)
    values = values.contiguous()
    kept = torch.empty_like(values)
    made.library.drop(
        values.data_ptr(), raw.data_ptr(), kept.data_ptr(), values.numel(), drop_bytes, scale,
        values.dtype == torch.bfloat16, torch.get_num_threads(),
    )  # fmt: skip
    return kept


def scale_of(drop_bytes: int) -> float:
    """Returns what elements that are kept are multiplied with."""
    return 256 / (256 - drop_bytes)


class DropoutSource:
    """The random bytes behind every dropout of one model.

    `begin` is called before each forward pass of training. A mask over all tokens (N, D), over one
    vector a sequence (B, D), or over padded rows (B, longest, D) is put together from the bytes of
    its sequences; one of any other shape, such as that of chosen tokens, or of the attention
    probabilities of a model that pads, is the whole pass's own.
    """

    def __init__(self) -> None:
        self._counters: tuple[int, ...] = (0,)
        self._lengths: dict[str, list[int]] = {}
        self._read: str | None = None
        self._keys: list[tuple[int, ...]] = [()]
        self._forget()

    def begin(self, counters: tuple[int, ...], batch: Batch) -> None:
        """Starts anew for a forward pass over `batch`; `counters` are the seed and the update."""
        windows = batch.windows or (0,) * batch.num_sequences
        self._counters, self._keys = counters, list(zip(batch.row_ids, windows, strict=True))
        self._lengths = batch.lengths
        self._read = None
        self._forget()

    def read(self, stream: str) -> None:
        """Says which stream the next masks are of; until then it is the first that fits."""
        self._read = stream

    def seeds(self, number: int) -> np.ndarray:
        """Returns uint64 (number,): one for each sequence of a pass, others at every call.

        A sequence of filler may follow the batch's own.
        """
        if number not in (size := len(self._keys), size + 1):
            raise ValueError(f"a pass of {size} sequences asks for the seeds of {number}")
        self._num_calls += 1
        found = np.zeros(number, np.uint64)
        found[:size] = self._begun_streams().first
        return found + np.uint64(self._num_calls * int(OTHER) % 2**64)

    def _forget(self) -> None:
        self._num_calls = 0
        self._streams: _Streams | None = None
        self._shared: np.random.SFC64 | None = None
        self._drawn: dict[tuple[str | None, torch.Size], list[np.ndarray]] = {}

    def keep_mask(self, shape: torch.Size, drop_bytes: int) -> Tensor:
        """Returns booleans, true with probability 1 - drop_bytes / 256."""
        return self.raw_bytes(shape) >= drop_bytes

    def raw_bytes(self, shape: torch.Size) -> Tensor:
        """Returns a random byte for each element; those under `drop_bytes` are to be dropped."""
        drawn = self._drawn.setdefault((self._read, shape), [])
        if not drawn:
            drawn.extend(self._masks(shape))
        return torch.from_numpy(drawn.pop()).view(shape)

    def _masks(self, shape: torch.Size) -> np.ndarray:
        """Draws the bytes of the next masks of a shape at once, (masks, elements)."""
        places, count, width = self._places(shape), shape.numel(), shape[-1]
        if places is None:
            key = (n for key in self._keys for n in key)
            self._shared = self._shared or np.random.SFC64(self._seeds(*key))
            return _random_bytes(self._shared, count)[None]
        streams = self._begun_streams()
        raw = np.empty((MASKS_AT_ONCE, count), np.uint8)
        if sum(number for _, number in places) * width < count:
            raw.fill(255)  # what no sequence has is kept
        streams.draw(np.array(places, np.int64) * width, raw)
        return raw

    def _begun_streams(self) -> _Streams:
        self._streams = self._streams or _Streams([self._seeds(*key) for key in self._keys])
        return self._streams

    def _places(self, shape: torch.Size) -> Sequence[tuple[int, int]] | None:
        """Returns where each sequence lies in a tensor, as (first, number) of its vectors."""
        num_vectors, size = shape[:-1].numel(), len(self._keys)
        if num_vectors == size and self._lengths:
            return [(place, 1) for place in range(size)]
        read = self._lengths.get(self._read or "")
        for lengths in [read] if read is not None else self._lengths.values():
            longest = max(lengths)
            if len(shape) == 3 and shape[:2] == (size, longest):
                return [(place * longest, length) for place, length in enumerate(lengths)]
            total = sum(lengths)
            if total <= num_vectors < total + TOKEN_QUANTUM:  # a filler may follow
                return list(zip(accumulate(lengths, initial=0), lengths, strict=False))
        return None

    def _seeds(self, *key: int) -> np.random.SeedSequence:
        return np.random.SeedSequence((*self._counters, *key))


class _Streams:
    """Random bytes for each sequence: NumPy's SFC64, drawn in native code where there is some."""

    def __init__(self, seeds: Sequence[np.random.SeedSequence]) -> None:
        self._states = np.array([np.random.SFC64(seed).state["state"]["state"] for seed in seeds])
        self.first = self._states[:, 0].copy()

    def draw(self, places: np.ndarray, raw: np.ndarray) -> None:
        """Draws bytes for each mask of `raw`, (masks, elements).

        `places` are int64 (sequences, 2): where a sequence's elements begin, and how many it has.
        """
        if len(places) != len(self._states) or places.sum(1).max() > raw.shape[1]:
            raise ValueError(f"masks of {raw.shape} have no room for sequences at {places}")
        if (made := native()) is not None:
            made.library.random_bytes(
                self._states.ctypes.data, places.ctypes.data, len(places), raw.ctypes.data,
                *raw.shape, torch.get_num_threads(),
            )  # fmt: skip
            return
        bits = np.random.SFC64(0)
        for state, (start, size) in zip(self._states, places.tolist(), strict=True):
            bits.state = {**bits.state, "state": {"state": state}}
            drawn = _random_bytes(bits, len(raw) * size)
            raw[:, start : start + size] = drawn.reshape(len(raw), size)
            state[:] = bits.state["state"]["state"]


def _random_bytes(bits: np.random.SFC64, count: int) -> np.ndarray:
    return bits.random_raw((count + 7) // 8).view(np.uint8)[:count]


class Dropout(nn.Module):
    """Zeroes elements with probability `p`, rounded to 1/256, and scales the others up.

    The scale is that of the rounded probability, so the expectation is exact. Off in evaluation.
    """

    def __init__(self, p: float, source: DropoutSource) -> None:
        super().__init__()
        self.p = p
        self.drop_bytes = round(p * 256)
        self.source = source

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.drop_bytes == 0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.p)
        raw = self.source.raw_bytes(values.shape)
        scaled: Tensor = _Masked.apply(values, raw, self.drop_bytes)  # type: ignore[no-untyped-call]
        return scaled


def read_stream(module: nn.Module, stream: str) -> None:
    """Tells the source behind a dropout of ours which stream of the batch comes next."""
    if isinstance(module, Dropout):
        module.source.read(stream)


def replace_dropout(model: nn.Module) -> DropoutSource:
    """Swaps every `nn.Dropout` of the model for ours; returns the source that seeds them all.

    Dropout has no weights, so what is saved does not change. Packed attention, a function, finds
    the source at the module that calls it.
    """
    source = DropoutSource()
    for module in list(model.modules()):
        module.dropout_source = source  # type: ignore[assignment]
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(min(child.p, 255 / 256), source))
    return source
