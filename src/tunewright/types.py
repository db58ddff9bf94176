"""The plain values that travel through the house: rows, roles, features, estimates.

Nothing here imports torch, reads a file, or knows a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Role:
    """A column that a task reads.

    `accepted` are other names under which the column is found by itself; the choice is always
    shown. A role that is `only_training` may be absent when a model predicts. Of the roles that are
    `labels`, none of which is required by itself, a row needs one to be learnt or judged; an empty
    list is one where the role `may_hold_none`: nothing is to be found there. One that is read
    `beside` another may be absent, but not where training had it.
    """

    name: str
    help: str
    accepted: tuple[str, ...] = ()
    required: bool = True
    only_training: bool = False
    labels: bool = False
    may_hold_none: bool = False
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One example: the values of its roles, and where it was read.

    `id` counts from 0 within its data set. `line` is the line (text formats) or row (others) of
    `source`, counted from 1; 0 where there is none, such as for a Python list: `index` is its place
    there then, from 0, if it is not the id. `extras` holds the columns that no role claimed;
    slices, groups and time read them.
    """

    id: int
    values: Mapping[str, Any]
    source: str = ""
    line: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)
    index: int | None = None

    @property
    def number(self) -> int:
        """Its line, or else its place in what was read."""
        return self.line or (self.id if self.index is None else self.index)

    @property
    def where(self) -> str:
        """Names the row for a message, such as `train.csv, line 41`."""
        return (
            f"{self.source}, line {self.line}" if self.line else f"{self.source} row {self.number}"
        )


Rows = Sequence[Row]  # a data set: counted, indexed, and walked more than once

# What happens to a text that is longer than a model reads at once; mixed: not to all the same.
ReadsLong = Literal["error", "truncate", "window", "mixed"]


Speaker = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: who speaks, and what is said."""

    role: Speaker
    content: str

    def to_json(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


Integers = Sequence[int] | np.ndarray
Target = float | int | Sequence[float] | Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class TokenStream:
    """The token ids of one sequence, with special tokens.

    `type_ids` are the segment ids (0 first text, 1 second) where the model has them. `num_cut`
    counts the tokens that did not fit `max_length` and were cut: the truncation ledger adds
    them up. `num_repeated` counts those that another window of the row has, too. `offsets` are
    (start, end) in characters of each token's own text, (0, 0) for special tokens; `text_ids` say
    which text that is: 0 the first, 1 the second, -1 none.
    """

    token_ids: Integers
    type_ids: Integers | None = None
    num_cut: int = 0
    num_repeated: int = 0
    offsets: np.ndarray | None = None
    text_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.token_ids)


class PictureStream(Protocol):
    """A picture as one sequence: read when a batch is packed, and not before.

    Its length is its number of patches. `digest` are numbers that differ where its pixels do.
    """

    @property
    def digest(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def pixels(self) -> np.ndarray:
        """Returns what the model reads, float32 (channels, height, width)."""
        ...


@dataclass(frozen=True, slots=True)
class Features:
    """One model input made from a row: named token streams and, in training, its targets.

    `targets` hold numbers or flat sequences of numbers; `window` counts the inputs of one row.
    `pictures` are streams, too, of another kind.
    """

    row_id: int
    streams: Mapping[str, TokenStream]
    targets: Mapping[str, Target] = field(default_factory=dict)
    window: int = 0
    pictures: Mapping[str, PictureStream] = field(default_factory=dict)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens, or patches, of each stream."""
        tokens = (len(stream) for stream in self.streams.values())
        return (*tokens, *(len(picture) for picture in self.pictures.values()))

    @property
    def num_tokens(self) -> int:
        """Asked for often: a loop takes a third of the time that a sum of lengths does."""
        number = 0
        for stream in self.streams.values():
            number += len(stream.token_ids)
        for picture in self.pictures.values():
            number += len(picture)
        return number

    @property
    def num_cut(self) -> int:
        return sum(stream.num_cut for stream in self.streams.values())

    @property
    def num_repeated(self) -> int:
        return sum(stream.num_repeated for stream in self.streams.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number with its 95 % confidence interval.

    `low` and `high` come from a percentile bootstrap over rows (Efron & Tibshirani 1993, chapter
    13); both are NaN where no interval can be given, such as for a single row.
    """

    value: float
    low: float
    high: float
    higher_is_better: bool = True

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
