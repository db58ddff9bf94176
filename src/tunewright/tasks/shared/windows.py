"""What tasks share that answer for a whole text: one that is too long is cut, refused, or read in
windows whose outputs are pooled.

Shape letters: W windows, T texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from tunewright.models.batch import Batch
from tunewright.models.text.tokens import Long, encode_long
from tunewright.tasks.base import Task
from tunewright.tasks.shared.texts import DEFAULT_MAX_LENGTH
from tunewright.types import Features, Target, TokenStream

Pooling = Literal["mean", "max"]
PLACE = "place"  # the target that says which text of its row a window is of


def length_field(
    what: str = "tokens that are read at once", usual: int = DEFAULT_MAX_LENGTH
) -> Any:
    return field(
        default=None,
        metadata={"help": f"{what}, special tokens included. Off: {usual}, or the model's limit if "
                          "that is less"},
    )  # fmt: skip


def long_field(default: Long = "truncate", what: str = "texts") -> Any:
    return field(
        default=default,
        metadata={"help": f"what happens to longer {what}: cut and counted, read in windows, or "
                          "refused"},
    )  # fmt: skip


def stride_field(default: int = 64) -> Any:
    return field(
        default=default, metadata={"help": "tokens that a window shares with the one before"}
    )


@dataclass(frozen=True)
class Reading:
    """How a task reads texts: at most `max_length` tokens at once, and longer ones as `long` says.

    A window shares `stride` tokens with the one before.
    """

    max_length: int | None
    long: Long
    stride: int

    @property
    def in_windows(self) -> bool:
        return self.long == "window"

    def streams(
        self,
        processor: Any,
        text: str,
        pair: str | None = None,
        *,
        prompt: str = "",
        where: str,
    ) -> list[TokenStream]:
        """Returns the windows of a text or pair; one that fits is a single stream."""
        return encode_long(
            processor,
            text,
            pair,
            max_length=self.max_length or DEFAULT_MAX_LENGTH,
            stride=self.stride,
            long=self.long,
            prompt=prompt,
            where=where,
        )

    def limits(self, pooled: str, library: str, what: str) -> tuple[str, ...]:
        """Returns the sentence of a model card on what only we do with long texts."""
        if not self.in_windows:
            return ()
        return (
            f"Texts of more than {self.max_length} tokens are read in windows of so many, each of "
            f"which shares at most {self.stride} with the one before; a text is answered by the "
            f"{pooled} of its windows' {what}. Stock `{library}` gives the same {what} for a "
            "window, and does not pool them.",
        )


class WindowedTask(Task):
    """A task that answers for a whole text, with the settings that say how it is read."""

    max_length: int | None
    long: Long
    stride: int

    @property
    def _reading(self) -> Reading:
        return Reading(self.max_length, self.long, self.stride)


def as_features(
    row_id: int, texts: Sequence[tuple[Sequence[TokenStream], Mapping[str, Target]]], placed: bool
) -> list[Features]:
    """Returns the inputs of a row, which holds texts in windows, each text with its targets.

    Where they are `placed`, a target says which text of the row a window is of.
    """
    found: list[Features] = []
    for place, (streams, targets) in enumerate(texts):
        own = {**targets, PLACE: place} if placed else targets
        for stream in streams:
            found.append(Features(row_id, {"text": stream}, own, len(found)))
    return found


@dataclass(frozen=True)
class Window:
    """What a task has found in one window of a row's text."""

    place: int
    found: Any


def in_windows(found: Sequence[Any], features: Sequence[Features]) -> list[Window]:
    """Says of what was found in each window which text of its row that is.

    Where no window is placed, each is a text of its own.
    """
    places = (item.targets.get(PLACE, item.window) for item in features)
    return [Window(int(place), each) for place, each in zip(places, found, strict=True)]  # type: ignore[arg-type]


def by_text(parts: Sequence[Window]) -> list[list[Any]]:
    """Returns what was found in the windows of each text of a row."""
    return [[part.found for part in own] for _, own in groupby(parts, key=lambda part: part.place)]


def texts_of(batch: Batch) -> list[list[int]]:
    """Returns the places of each text's windows in a batch, in which they may stand anywhere."""
    places = batch.on_host(PLACE).tolist() if PLACE in batch.targets else [0] * len(batch.row_ids)
    found: dict[tuple[int, int], list[int]] = {}
    for window, text in enumerate(zip(batch.row_ids, places, strict=True)):
        found.setdefault(text, []).append(window)
    return list(found.values())


def pooled(values_W: Tensor, texts: Sequence[Sequence[int]], pooling: Pooling = "mean") -> Tensor:
    """Returns the mean or the largest of each text's windows, (T, ...), from (W, ...)."""
    if len(texts) == len(values_W):
        return values_W
    by_text = values_W[[window for own in texts for window in own]].split([*map(len, texts)])
    return torch.stack([own.amax(0) if pooling == "max" else own.mean(0) for own in by_text])


def first_windows(batch: Batch, texts: Sequence[Sequence[int]]) -> Batch:
    """Returns a batch's rows and targets with those of the first window of each text alone."""
    if len(texts) == len(batch.row_ids):
        return batch
    first = [own[0] for own in texts]
    targets = {name: values_B[first] for name, values_B in batch.targets.items()}
    return Batch({}, targets, tuple(batch.row_ids[window] for window in first))
