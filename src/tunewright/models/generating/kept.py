"""Keys and values that are kept while texts are written, so that a new token costs one query.

To our attention they are what transformers' EncoderDecoderCache is. `Kept` runs anywhere: it copies
what a beginning goes on from. On a CPU with native code `KeptInPlace` copies nothing: a table says
in which row the tokens of each beginning stand.

Shape letters: B rows, K beams of a row, R = B·K beginnings; T tokens so far; H heads, E width of a
head, S tokens of the longest source.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from tunewright.models.generating.native_writing import Newest
from tunewright.models.transformer import Layout


@dataclass(frozen=True)
class _Shared:
    """Attention of K beginnings to the keys that they share: a source's, or their own past.

    `seen` is (B, 1, 1, S), or None where all is seen. Plain products: with so few queries they take
    less than half the time of the fused kernel.
    """

    beams: int
    seen: Tensor | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        heads, width = query.shape[-2:]
        query_BHKE = query.view(-1, self.beams, heads, width).transpose(1, 2).to(value.dtype)
        key_BHES = key.permute(0, 2, 3, 1).to(value.dtype)
        with torch.autocast(query.device.type, enabled=False):
            scores_BHKS = torch.matmul(query_BHKE * width**-0.5, key_BHES)
            if bias is not None:
                scores_BHKS += bias.to(value.dtype)
            if self.seen is not None:
                scores_BHKS.masked_fill_(~self.seen, float("-inf"))
            found_BHKE = torch.matmul(scores_BHKS.softmax(-1), value.transpose(1, 2))
        return found_BHKE.transpose(1, 2).reshape(len(query), 1, heads, width)


class Kept:
    """Keys and values of all layers: those of the sources, and of what was written so far."""

    def __init__(self, room: int) -> None:
        self.room, self.start, self.length = room, 0, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.sources: list[SimpleNamespace] = []
        self.self_attention_cache = self
        self.cross_attention_cache = SimpleNamespace(layers=self.sources, update=self._keep_source)
        self.is_updated: dict[int, bool] = {}

    def layouts(self, beams: int, seen: Tensor | None) -> tuple[Layout, Layout]:
        """Returns how the newest tokens attend to their past, and to their sources, whose tokens
        `seen` (B, 1, 1, S) tells from padding.
        """
        return _Shared(1, None), _Shared(beams, seen)

    def begin(self, num_beginnings: int, num_new: int) -> None:
        """Makes room for so many new tokens of each beginning, which all layers then add."""
        self.start, self.length = self.length, self.length + num_new

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Adds the keys and values (R, H, T, E) of new tokens; returns those of all."""
        if layer == len(self.keys):
            shape = (*key.shape[:2], self.room, key.shape[3])
            self.keys.append(value.new_empty(shape))
            self.values.append(value.new_empty(shape))
        self.keys[layer][:, :, self.start : self.length] = key
        self.values[layer][:, :, self.start : self.length] = value
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]

    def _keep_source(self, key: Tensor, value: Tensor, layer: int) -> None:
        self.sources.append(SimpleNamespace(keys=key.contiguous(), values=value.contiguous()))

    def take(self, beginnings_R: Tensor) -> None:
        """Lets each beginning go on from another one."""
        for blocks in (self.keys, self.values):
            for layer, block in enumerate(blocks):
                taken = block.new_empty((len(beginnings_R), *block.shape[1:]))
                taken[:, :, : self.length] = block[:, :, : self.length].index_select(
                    0, beginnings_R
                )
                blocks[layer] = taken

    def take_sources(self, rows_B: Tensor) -> None:
        for source in self.sources:
            source.keys = source.keys.index_select(0, rows_B)
            source.values = source.values.index_select(0, rows_B)


class KeptInPlace(Kept):
    """The same without copies: blocks are (room, rows, H, E), and `origins` (R, room) the rows."""

    def __init__(self, room: int, num_rows: int) -> None:
        super().__init__(room)
        self.num_rows, self.num_used = num_rows, 0
        self.origins = torch.empty(0, room, dtype=torch.int32)

    def layouts(self, beams: int, seen: Tensor | None) -> tuple[Layout, Layout]:
        seen_BS = None if seen is None else seen[:, 0, 0].contiguous()
        return Newest(self.origins), Newest(beams=beams, seen=seen_BS)

    def begin(self, num_beginnings: int, num_new: int) -> None:
        super().begin(num_beginnings, num_new)
        self.num_used = max(self.num_used, num_beginnings)
        if not len(self.origins):
            self.origins = torch.zeros(num_beginnings, self.room, dtype=torch.int32)
        rows_R = torch.arange(num_beginnings, dtype=torch.int32)
        self.origins[:, self.start : self.length] = rows_R[:, None]

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer == len(self.keys):
            shape = (self.room, self.num_rows, key.shape[1], key.shape[3])
            self.keys.append(value.new_empty(shape))
            self.values.append(value.new_empty(shape))
        blocks = self.keys[layer], self.values[layer]
        for block, new in zip(blocks, (key, value), strict=True):
            block[self.start : self.length, : len(new)] = new.permute(2, 0, 1, 3)
        kept = (block[: self.length, : self.num_used].permute(1, 2, 0, 3) for block in blocks)
        return next(kept), next(kept)

    def _keep_source(self, key: Tensor, value: Tensor, layer: int) -> None:
        self.sources.append(SimpleNamespace(keys=key.to(value.dtype), values=value))

    def take(self, beginnings_R: Tensor) -> None:
        self.origins = self.origins.index_select(0, beginnings_R)
