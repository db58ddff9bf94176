"""What tasks share that turn one text into another: the base of translation and summarization.

A row has two streams, the source and the target.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from tunewright.models.batch import Batch, PackedStream
from tunewright.models.files.architecture import SEQ2SEQ, Kind
from tunewright.models.generating.targets import BY_LANGUAGE
from tunewright.models.heads import probe_stream
from tunewright.tasks.shared.texts import fitting_length, text_of
from tunewright.tasks.shared.writer import Writer, framed
from tunewright.types import Features, Row


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SequenceToSequence(Writer):
    """The base of tasks whose answer is a text made from another text."""

    kind: ClassVar[Kind] = SEQ2SEQ
    streams: ClassVar[tuple[str, ...]] = ("source", "target")
    source_role: ClassVar[str] = "source"
    default_length: ClassVar[int] = 256

    max_length: PositiveInt | None = field(
        default=None,
        metadata={"help": "tokens of a source, special tokens included; longer ones are cut and "
                          "counted. Off: 256, in summarization 512, or the model's limit if less"},
    )  # fmt: skip
    prefix: str = field(
        default="",
        metadata={"help": "text put before every source, such as T5's "
                          '"translate English to German: "'},
    )  # fmt: skip

    def source_of(self, row: Row) -> str:
        """Returns the text that is read."""
        return text_of(row, self.source_role)

    def texts(self, row: Row) -> list[str]:
        """Returns what a new tokenizer learns from."""
        return [self.source_of(row), *self.targets_of(row)]

    def shown(self, row: Row) -> str:
        return self.source_of(row)

    def within(self, limit: int) -> Self:
        length = fitting_length(self.max_length, limit, self.default_length)
        return replace(super().within(limit), max_length=length)

    def encode(self, row: Row, processor: Any) -> list[Features]:
        around = self.frame(processor).source
        source = framed(processor, self.prefix + self.source_of(row), around, self.max_length)
        targets = self.encode_targets(row, processor)
        if not targets:
            return [Features(row.id, {"source": source})]
        ((stream, label),) = targets
        return [Features(row.id, {"source": source, "target": stream}, {"label": label})]

    def stock_lines(self) -> str:
        """Returns the lines with the prefix before their text, as the model learned to read it."""
        lines, prefix = super().stock_lines(), json.dumps(self.prefix, ensure_ascii=False)
        return lines.replace('tokenizer("', f"tokenizer({prefix[:-1]}") if self.prefix else lines

    def limits(self) -> Sequence[str]:
        found = []
        if self.prefix:
            found.append(
                f'"{self.prefix}" is put before each source. Stock `transformers` is given it with '
                "the text."
            )
        source, target = self.languages()
        if self.model_type in BY_LANGUAGE:
            found.append(
                f"Sources are marked as {source} and targets as {target}, by the model's tokens "
                "for them. Stock `transformers` has to be given both: the one beside the source, "
                "the other as forced_bos_token_id."
            )
        elif self.model_type == "marian" and target is not None:
            found.append(
                f"Where the model writes several languages, a source begins with the token that "
                f"asks for {target}. Stock `transformers` is given it with the text."
            )
        return tuple(found)

    def source_in(self, batch: Batch) -> PackedStream:
        return batch.streams["source"]

    def probe(self, config: Any) -> Batch:
        source, target = probe_stream(config, seed=0), probe_stream(config, seed=1)
        return Batch({"source": source, "target": target}, {}, (0, 1, 2, 3))
