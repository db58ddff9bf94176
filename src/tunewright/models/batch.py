"""Batches: sequences one after another, never padded.

Shape letters: N tokens, B sequences, R values a sequence carries as its target; C channels, H rows
and W columns of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tunewright.types import Features, Integers, PictureStream, Target, TokenStream

# On a CPU a new shape costs about 3 ms for each matrix product, a filler token about 0.1 ms.
TOKEN_QUANTUM = 64

# On a GPU every shape is recorded anew, so sizes come in coarser steps: of a sixteenth at most.
STEPS_A_DOUBLING = 16


@dataclass(frozen=True)
class PackedStream:
    """B sequences in one row of N tokens.

    `token_ids_N` and `position_ids_N` are int64; every sequence's positions count from 0.
    `boundaries` are B + 1 offsets as plain integers. `type_ids_N` is None where the model has no
    segments.
    """

    token_ids_N: Tensor
    position_ids_N: Tensor
    boundaries: tuple[int, ...]
    type_ids_N: Tensor | None = None

    @property
    def num_sequences(self) -> int:
        return len(self.boundaries) - 1

    @property
    def num_tokens(self) -> int:
        return self.boundaries[-1]

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in pairwise(self.boundaries)]

    @property
    def owner_N(self) -> Tensor:
        """Returns the sequence that each token belongs to."""
        owner_N = np.repeat(np.arange(self.num_sequences), self.lengths)
        return sent(owner_N, self.token_ids_N.device)

    @property
    def first_B(self) -> Tensor:
        """Returns the offset of the first token of each sequence."""
        return sent(np.array(self.boundaries[:-1], np.int64), self.token_ids_N.device)

    def each(self) -> Iterator[PackedStream]:
        """Yields every sequence as a stream of its own."""
        for start, end in pairwise(self.boundaries):
            yield PackedStream(
                self.token_ids_N[start:end],
                self.position_ids_N[start:end],
                (0, end - start),
                None if self.type_ids_N is None else self.type_ids_N[start:end],
            )

    @property
    def last_B(self) -> Tensor:
        """Returns the offset of the last token of each sequence."""
        return sent(np.array(self.boundaries[1:], np.int64) - 1, self.token_ids_N.device)


@dataclass(frozen=True)
class PackedPictures:
    """B pictures of one size, float32 (B, C, H, W); each counts as so many tokens as patches."""

    pixels_BCHW: Tensor
    num_patches: int

    @property
    def num_sequences(self) -> int:
        return len(self.pixels_BCHW)

    @property
    def num_tokens(self) -> int:
        return self.num_sequences * self.num_patches

    @property
    def boundaries(self) -> tuple[int, ...]:
        return tuple(range(0, self.num_tokens + 1, self.num_patches))

    @property
    def lengths(self) -> list[int]:
        return [self.num_patches] * self.num_sequences

    def taken(self, places: Sequence[int]) -> PackedPictures:
        """Returns the pictures at these places; one may be taken several times."""
        return PackedPictures(self.pixels_BCHW[list(places)], self.num_patches)


@dataclass(frozen=True)
class Batch:
    """Named packed streams and their targets; all streams hold the same rows in the same order.

    `windows` count the inputs of one row, as `Features.window` does. `values` are the targets
    before they went to the device. `pictures` are streams, too.
    """

    streams: Mapping[str, PackedStream]
    targets: Mapping[str, Tensor]
    row_ids: tuple[int, ...]
    windows: tuple[int, ...] = ()
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, PackedPictures] = field(default_factory=dict)

    @property
    def lengths(self) -> dict[str, list[int]]:
        """How long each sequence of each stream is."""
        pictures = {name: each.lengths for name, each in self.pictures.items()}
        return pictures | {name: stream.lengths for name, stream in self.streams.items()}

    @property
    def num_tokens(self) -> int:
        return sum(map(sum, self.lengths.values()))

    @property
    def num_sequences(self) -> int:
        return len(self.row_ids)

    def on_host(self, name: str) -> np.ndarray:
        """Returns targets where a question about them costs a GPU no wait."""
        values = self.values.get(name)
        return self.targets[name].cpu().numpy() if values is None else values


def pack(features: Sequence[Features], device: torch.device | str = "cpu") -> Batch:
    """Lays the sequences of `features` one after another on `device`.

    Targets that are one number a sequence become (B,); flat sequences of numbers are joined and
    become (sum of their lengths,). Integers become int64 and others float32.
    """
    names, pictures = features[0].streams, features[0].pictures
    for item in features:
        if not _alike(item, features[0]) or item.targets.keys() != features[0].targets.keys():
            raise ValueError(f"row {item.row_id} has other streams or targets than its batch")
    values = {name: _flat([f.targets[name] for f in features]) for name in features[0].targets}
    return Batch(
        {name: _pack_stream([f.streams[name] for f in features], device) for name in names},
        {name: sent(flat, device) for name, flat in values.items()},
        tuple(f.row_id for f in features),
        tuple(f.window for f in features),
        values,
        {name: _pack_pictures([f.pictures[name] for f in features], device) for name in pictures},
    )


def _alike(one: Features, other: Features) -> bool:
    """Says whether both have the same streams, as all of a batch have."""
    return (
        one.streams.keys() == other.streams.keys() and one.pictures.keys() == other.pictures.keys()
    )


def _pack_stream(streams: Sequence[TokenStream], device: torch.device | str) -> PackedStream:
    lengths = [len(stream) for stream in streams]
    segments = [stream.type_ids for stream in streams if stream.type_ids is not None]
    return PackedStream(
        _joined([stream.token_ids for stream in streams], device),
        _joined([np.arange(length) for length in lengths], device),
        tuple(accumulate(lengths, initial=0)),
        _joined(segments, device) if segments else None,
    )


def _pack_pictures(pictures: Sequence[PictureStream], device: torch.device | str) -> PackedPictures:
    """Reads the pictures, which until now were files."""
    pixels_BCHW = np.stack([picture.pixels() for picture in pictures])
    return PackedPictures(sent(pixels_BCHW, device), len(pictures[0]))


def _joined(parts: Sequence[Integers], device: torch.device | str) -> Tensor:
    return sent(np.concatenate(parts).astype(np.int64), device)


def sent(values: np.ndarray, device: torch.device | str) -> Tensor:
    """Returns numbers on a device. Nobody waits for a GPU: what reads them there comes after."""
    found = torch.from_numpy(values)
    if torch.device(device).type != "cuda":
        return found.to(device)
    return found.pin_memory().to(device, non_blocking=True)


def _flat(values: Sequence[Target]) -> np.ndarray:
    flat = np.concatenate([np.atleast_1d(np.asarray(value)) for value in values])
    return flat.astype(np.int64 if flat.dtype.kind in "iub" else np.float32)


def fill(
    features: Iterable[Features],
    *,
    max_tokens: int,
    max_sequences: int | None = None,
    padded: bool = False,
    together: bool = False,
) -> Iterator[list[Features]]:
    """Groups features, in their order, into lists of at most `max_tokens` tokens.

    With `padded`, for models that pad, each sequence counts as long as the longest of its list.
    With `together`, neighbours of one row stay in one list; those with unlike streams never do. A
    single sequence (or row) longer than `max_tokens` is a list of its own: nothing is dropped.
    """
    batch: list[Features] = []
    num_tokens = longest = 0
    groups = _rows(features) if together else ([item] for item in features)
    for group in groups:
        longest = max(longest, *(item.num_tokens for item in group))
        in_group = sum(item.num_tokens for item in group)
        size = len(batch) + len(group)
        wanted = longest * size if padded else num_tokens + in_group
        unlike = bool(batch) and not _alike(batch[0], group[0])
        if batch and (unlike or wanted > max_tokens or size > (max_sequences or size)):
            yield batch
            batch, num_tokens, longest = [], 0, max(item.num_tokens for item in group)
        batch += group
        num_tokens += in_group
    if batch:
        yield batch


def _rows(features: Iterable[Features]) -> Iterator[list[Features]]:
    """Yields the neighbours that are of one row."""
    for _, group in groupby(features, key=lambda item: item.row_id):
        yield list(group)


def filled(stream: PackedStream) -> PackedStream:
    """Returns the stream with one more sequence of zeros that makes N one of few sizes.

    The stream itself is returned where N is one of them already.
    """
    missing = -stream.num_tokens % _quantum(stream)
    if missing == 0:
        return stream
    zeros = stream.token_ids_N.new_zeros(missing)
    types_N = stream.type_ids_N
    return PackedStream(
        torch.cat([stream.token_ids_N, zeros]),
        torch.cat([stream.position_ids_N, zeros]),
        (*stream.boundaries, stream.num_tokens + missing),
        None if types_N is None else torch.cat([types_N, zeros]),
    )


def _quantum(stream: PackedStream) -> int:
    if stream.token_ids_N.device.type != "cuda":
        return TOKEN_QUANTUM
    doubling = 1 << (stream.num_tokens.bit_length() - 1)
    return max(TOKEN_QUANTUM, doubling // STEPS_A_DOUBLING)


def filled_together(*streams: PackedStream) -> tuple[PackedStream, ...]:
    """Returns streams of the same texts, each `filled`, with as many sequences as before or one
    more in every one of them.

    One in 64 times there is a stream that needs no filler, and then none gets one.
    """
    if any(stream.num_tokens % _quantum(stream) == 0 for stream in streams):
        return streams
    return tuple(filled(stream) for stream in streams)


def lengthened(stream: PackedStream) -> PackedStream:
    """Returns the stream with zeros after its last sequence, as part of it, up to a number of
    tokens that comes again.

    Where a sequence sees its past only, they change nothing before them.
    """
    missing = -stream.num_tokens % _quantum(stream)
    zeros = stream.token_ids_N.new_zeros(missing)
    return PackedStream(
        torch.cat([stream.token_ids_N, zeros]),
        torch.cat([stream.position_ids_N, zeros]),
        (*stream.boundaries[:-1], stream.num_tokens + missing),
    )


def padded(
    stream: PackedStream, pad_id: int, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """Returns token ids, attention mask and segment ids, if any, padded on one side, (B, longest).

    They have the names of the library's forward, for models that cannot run packed.
    """
    lengths = stream.lengths

    def pad(values_N: Tensor, filler: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            values_N.split(lengths), batch_first=True, padding_value=filler, padding_side=side
        )

    found = {
        "input_ids": pad(stream.token_ids_N, pad_id),
        "attention_mask": pad(torch.ones_like(stream.token_ids_N), 0),
    }
    if stream.type_ids_N is not None:
        found["token_type_ids"] = pad(stream.type_ids_N, 0)
    return found
