"""A model that answers: rows in, answers out, in the same order, with flat memory."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch

from tunewright.devices import Device
from tunewright.models.batch import fill, pack
from tunewright.models.generating.generation import Generation
from tunewright.models.heads import is_packed
from tunewright.models.layers.native_products import has_native_products
from tunewright.models.layers.sublayers import kept_weights
from tunewright.prediction.ahead import made_ahead, spread
from tunewright.tasks.base import Task
from tunewright.types import Features, Row

# Rows are sorted by length within a window; it ends at so many rows or characters, whichever
# comes first, so that memory does not grow with the input or with one huge text. The first window
# is small and each one twice the one before, so that the first answers come soon.
FIRST_WINDOW_ROWS, WINDOW_ROWS, WINDOW_CHARACTERS = 16, 2048, 16_000_000

# Tokens of one forward pass. On a CPU what lies between two layers should stay in the cache: 1,000
# texts took 3.9 s by 2,048 tokens and 4.6 s by 16,384 (MiniLM-L6, two cores). Where products are
# native there is less of that, and the calls weigh more: 1,500 texts took 2.4 s by 2,048 tokens,
# 2.3 s by 4,096 and 2.2 s by 8,192 with matrix tiles, and 4.6, 4.5 and 4.4 s without. Where texts
# are written, many at once share each step.
CACHED_TOKENS, NATIVE_TOKENS, MANY_TOKENS = 2048, 8192, 16_384


@dataclass(frozen=True)
class Predictor:
    """A task, a model and a tokenizer, ready to answer.

    `max_tokens` bounds the tokens of one forward pass (None: what suits the device and the task),
    `generation` is for tasks that write texts; when `examining`, they need not. Answers do not
    depend on the neighbours in a batch beyond the rounding of matrix kernels (see
    `docs/how-it-works.md`); when `exact`, each input is answered by itself, and they do not depend
    on them at all. With a device of its own to wait for, the CPU reads the next rows meanwhile,
    `ahead` of it.
    """

    task: Task
    model: Any
    tokenizer: Any
    device: Device
    max_tokens: int | None = None
    generation: Generation = field(default_factory=Generation)
    examining: bool = False
    exact: bool = False

    @property
    def pass_tokens(self) -> int:
        if self.max_tokens or self.device.kind != "cpu" or self.task.generates:
            return self.max_tokens or MANY_TOKENS
        return NATIVE_TOKENS if self._multiplies_natively else CACHED_TOKENS

    @cached_property
    def _multiplies_natively(self) -> bool:
        return self.device.precision == "bf16" and has_native_products(self.model)

    @property
    def ahead(self) -> bool:
        return self.device.kind != "cpu"

    def answers(
        self, rows: Iterable[Row], cut: Callable[[int], None] = lambda _: None
    ) -> Iterator[Any]:
        """Yields one answer for each row, in order, reading rows as they are needed.

        `cut` hears of every row that is longer than the model reads how many tokens it misses.
        """
        for window, encoded in self.encoded(_windows(rows)):
            self.tell_cuts(encoded, cut)
            yield from self.answer_encoded(window, encoded)

    def tell_cuts(self, encoded: Iterable[Sequence[Features]], cut: Callable[[int], None]) -> None:
        """Tells `cut` how many tokens an answer misses of each row, where it does."""
        for features in encoded:
            if num_cut := sum(self._asked(item).num_cut for item in features):
                cut(num_cut)

    def encoded(
        self, windows: Iterator[list[Row]]
    ) -> Iterator[tuple[list[Row], list[list[Features]]]]:
        """Yields rows by windows with their features, which threads make, `ahead` of who asks."""
        # The first is often the only one, and is not worth a thread.
        yield from ((first, self._features(first, self.tokenizer)) for first in islice(windows, 1))
        rest = self._encoded(windows)
        yield from made_ahead(rest) if self.ahead else rest

    def _encoded(
        self, windows: Iterator[list[Row]]
    ) -> Iterator[tuple[list[Row], list[list[Features]]]]:
        tokenizer = None
        for window in windows:
            if tokenizer is None:  # whoever has the other may change its settings meanwhile
                tokenizer = copy.deepcopy(self.tokenizer) if self.ahead else self.tokenizer
            yield window, self._features(window, tokenizer)

    def _features(self, rows: Sequence[Row], tokenizer: Any) -> list[list[Features]]:
        return spread(lambda row: self.task.encode(row, tokenizer), rows)

    def answer_encoded(
        self, rows: Sequence[Row], encoded: Sequence[Sequence[Features]]
    ) -> Iterator[Any]:
        """Yields the answers of rows that `task.encode` has already been through."""
        parts: dict[int, dict[int, Any]] = defaultdict(dict)
        places = [(place, item) for place, items in enumerate(encoded) for item in items]
        places.sort(key=lambda entry: _size(self._asked(entry[1])))
        answered = self._parts([item for _, item in places])
        for (place, item), part in zip(places, answered, strict=True):
            if item.window in parts[place]:
                raise ValueError(f"two windows of a row have the number {item.window}")
            parts[place][item.window] = part
        for place, row in enumerate(rows):
            yield self.task.join([part for _, part in sorted(parts.pop(place).items())], row)

    @torch.no_grad()
    def _parts(self, features: Sequence[Features]) -> Iterator[Any]:
        with _evaluating(self.model), kept_weights(self.model):
            padded = not is_packed(self.model)
            run = self.task.examine if self.examining else self.task.generate
            asked, done = [self._asked(item) for item in features], 0
            most = 1 if self.exact else None
            for piece in fill(
                asked, max_tokens=self.pass_tokens, max_sequences=most, padded=padded
            ):
                batch = pack(piece, self.device.name)
                with self.device.autocast():
                    outputs = run(self.model, batch, self.tokenizer, self.generation)
                whole = features[done : done + len(piece)]
                yield from self.task.decode(outputs, whole, self.tokenizer)
                done += len(piece)

    def _asked(self, item: Features) -> Features:
        """Returns what an answer may look at: no targets, and no stream of training alone."""
        streams = {k: v for k, v in item.streams.items() if k not in self.task.training_streams}
        return Features(item.row_id, streams, {}, item.window, item.pictures)


def replace_generation(predictor: Predictor, **values: Any) -> Predictor:
    """Returns the predictor with other settings of writing."""
    return replace(predictor, generation=predictor.generation.model_copy(update=values))


def _size(item: Features) -> tuple[tuple[str, ...], int]:
    """Returns what features are sorted by, so that those of a batch are alike."""
    return (*item.pictures, *item.streams), item.num_tokens


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Holds the model in evaluation mode for the time of a block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _length(value: Any) -> int:
    """Returns the characters or bytes of a value; a picture may come as an object with bytes."""
    if isinstance(value, dict):
        return sum(map(_length, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str | bytes) else 0


def _windows(rows: Iterable[Row]) -> Iterator[list[Row]]:
    window: list[Row] = []
    characters, limit = 0, FIRST_WINDOW_ROWS
    for row in rows:
        window.append(row)
        characters += sum(map(_length, row.values.values()))
        if len(window) == limit or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters, limit = [], 0, min(2 * limit, WINDOW_ROWS)
    if window:
        yield window
