"""What tasks share whose answer is a text that a decoder writes about what an encoder has read.

A row has a source, text or picture, and a target, whose stream stands one token behind its labels:
each token is to be predicted from the source and the target's tokens before it.

Shape letters: M target tokens, V vocabulary, B rows, K texts of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from tunewright.answers import Generated
from tunewright.data import is_blank
from tunewright.errors import DataError, SettingsError
from tunewright.models.batch import Batch, PackedStream, padded
from tunewright.models.files.architecture import load_config
from tunewright.models.files.loading import load_library_model
from tunewright.models.generating.generation import Generation
from tunewright.models.generating.targets import (
    Frame,
    Source,
    frame_of,
    log_probabilities,
    packed_targets,
    source_inputs,
    taken,
    write_targets,
)
from tunewright.models.generating.writing import cut_at_stop
from tunewright.models.heads import TOLERANCE, is_packed
from tunewright.models.layers.attention import PACKED
from tunewright.models.smoothing import smoothed_cross_entropy
from tunewright.models.text.tokenizers import target_side
from tunewright.models.text.tokens import encode_text
from tunewright.models.transformer import Captioner, EncoderDecoder, Transformer
from tunewright.tasks.base import Loss, Outputs, Task
from tunewright.tasks.shared.texts import text_of, texts_of
from tunewright.types import Features, Integers, Row, TokenStream

DEFAULT_TARGET_LENGTH = 128
OWN = {each.config_class.model_type for each in (Transformer, Captioner)}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Writer(Task):
    """The base of tasks that write about a source, which inheriting tasks say how to read.

    The loss is the cross-entropy of the target's tokens, with label smoothing; its count is their
    number. Our own Transformers run packed on both sides, all others padded.
    """

    training_streams: ClassVar[tuple[str, ...]] = ("target",)
    tokenizer_style: ClassVar[Literal["sequence-to-sequence"]] = "sequence-to-sequence"
    generates: ClassVar[bool] = True
    answer_key: ClassVar[str] = "generated_text"
    target_role: ClassVar[str] = "target"

    max_target_length: PositiveInt = field(
        default=DEFAULT_TARGET_LENGTH,
        metadata={"help": "tokens of a target in training; longer ones are cut and counted"},
    )
    label_smoothing: float = field(
        default=0.1,
        metadata={"help": "share of each label that is given to all tokens alike, in [0, 1)"},
    )
    model_type: str = field(
        default="", metadata={"help": "the model's architecture", "fitted": True}
    )
    start_id: int | None = field(
        default=None, metadata={"help": "the token a target starts from", "fitted": True}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError(
                "[task]",
                f"task.label_smoothing is {self.label_smoothing}",
                "It must be at least 0 and less than 1.",
            )

    def targets_of(self, row: Row) -> tuple[str, ...]:
        """Returns the true texts: one, several where the column holds a list, or none."""
        value = row.values.get(self.target_role)
        if isinstance(value, list | tuple):
            return tuple(texts_of(row, self.target_role))
        return () if is_blank(value) else (text_of(row, self.target_role),)

    def languages(self) -> tuple[str | None, str | None]:
        """Returns the languages of source and target, for models that want to be told."""
        return None, None

    def learn(self, rows: Iterable[Row]) -> Self:
        empty = [
            row.where for row in rows if not any(text.strip() for text in self.targets_of(row))
        ]
        if empty:
            others = f", and that of {len(empty) - 1:,} more rows" if len(empty) > 1 else ""
            raise DataError(
                empty[0],
                f"its {self.target_role} is empty{others}",
                "Every row needs one to train.",
                "Remove these rows, or pass data.drop_unlabelled=true.",
            )
        return self

    def started_from(self, source: Path) -> Self:
        config = load_config(source)
        start = getattr(config, "decoder_start_token_id", None)
        return replace(self, model_type=config.model_type, start_id=start)

    def within(self, limit: int) -> Self:
        return replace(self, max_target_length=min(self.max_target_length, limit))

    def frame(self, processor: Any) -> Frame:
        return _frame(processor, self.model_type, self.start_id, *self.languages())

    def encode_targets(
        self, row: Row, processor: Any, most: int | None = 1
    ) -> list[tuple[TokenStream, Integers]]:
        """Returns the stream and the labels of a row's targets, the first `most`, or all."""
        frame = self.frame(processor)
        found: list[tuple[TokenStream, Integers]] = []
        for text in self.targets_of(row)[:most]:
            label = framed(target_side(processor), text, frame.target, self.max_target_length)
            stream = TokenStream(moved(frame.start, label.token_ids), num_cut=label.num_cut)
            found.append((stream, label.token_ids))
        return found

    # The model -------------------------------------------------------------------------------

    @abstractmethod
    def source_in(self, batch: Batch) -> Source:
        """Returns the stream of a batch that the encoder reads."""

    @abstractmethod
    def probe(self, config: Any) -> Batch:
        """Returns a few random sources and targets of mixed lengths."""

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source, self.kind, dropout=dropout, seed=seed, pad_token_id=processor.pad_token_id
        )
        self.frame(processor)  # raises where a language is missing
        return loaded.model, loaded.notices

    def route(self, model: Any) -> str:
        """Our own Transformers run packed, if a probe says so; others cannot."""
        if not isinstance(model, EncoderDecoder):
            kind = model.config.model_type
            return f"padded: {kind} has one boundary, if any, for its three kinds of attention"
        was_training = model.training
        model.eval()
        batch = self.probe(model.config)
        with torch.no_grad():
            expected = self.forward(model, batch)["logits"]
            model.config._attn_implementation = PACKED
            found = self.forward(model, batch)["logits"]
        model.train(was_training)
        difference = float((found - expected).abs().max())
        if difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            return "packed"
        model.config._attn_implementation = "sdpa"
        return f"padded: packed logits differ by {difference:.2g}"

    def forward(self, model: Any, batch: Batch) -> Outputs:
        """Returns the logits of the token after each one of the target, (M, V)."""
        return {"logits": _logits(model, self.source_in(batch), batch.streams["target"])}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        label_M = batch.targets["label"]
        total = smoothed_cross_entropy(outputs["logits"], label_M, self.label_smoothing)
        return Loss(total, len(label_M))

    def stock_lines(self) -> str:
        own = self.model_type in OWN
        first = "import tunewright.models.transformer  # makes the architecture known\n"
        return (first if own else "") + self.stock_usage

    # Writing ---------------------------------------------------------------------------------

    def generate(self, model: Any, batch: Batch, processor: Any, settings: Generation) -> Outputs:
        """Returns of K texts for each row their tokens, joined, and the figures of each, (B·K,)."""
        frame = self.frame(processor)
        source = self.source_in(batch)
        before = frame.target[0]
        written = write_targets(
            model, source, batch.row_ids, [frame.start, *before], processor, settings
        )
        texts = settings.num_return_sequences
        if written.scores:
            score = torch.tensor(written.scores)
        else:
            score = _scores(model, source, written.token_ids, frame, texts).cpu()
        kept = [
            len(cut_at_stop(_text(processor, ids), settings.stop)[0]) for ids in written.token_ids
        ]
        order = _best_first(score, texts) if settings.do_sample else list(range(len(score)))
        token_ids = [written.token_ids[place] for place in order]
        return {
            "token_ids": torch.tensor([token for ids in token_ids for token in ids] or [0]),
            "length": torch.tensor([len(ids) for ids in token_ids]),
            "characters": torch.tensor(kept)[order],
            "score": score[order],
            "ended": torch.tensor(written.ended)[order],
        }

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[Generated]:
        lengths = outputs["length"].tolist()
        texts = len(lengths) // len(features)
        figures = zip(
            outputs["token_ids"].split(lengths) if sum(lengths) else [outputs["token_ids"]],
            lengths,
            outputs["characters"].tolist(),
            outputs["score"].tolist(),
            outputs["ended"].tolist(),
            strict=True,
        )
        answers = [
            Generated(
                _text(processor, ids.tolist())[:kept].strip(),
                score,
                "stop" if ended else "length",
                length,
                key=self.answer_key,
            )
            for ids, length, kept, score, ended in figures
        ]
        return [
            _with_alternatives(answers[start : start + texts])
            for start in range(0, len(answers), texts)
        ]

    def compared(self, answer: Generated, row: Row) -> tuple[str, str]:
        return (self.targets_of(row) or ("",))[0], answer.text


@lru_cache(maxsize=8)
def _frame(
    processor: Any, model_type: str, start: int | None, source: str | None, target: str | None
) -> Frame:
    return frame_of(processor, model_type, start, source, target)


def moved(start: int, label: Integers) -> np.ndarray:
    """Returns what the decoder reads to predict a label: each token comes one place later."""
    return np.concatenate([[start], label[:-1]])


def framed(
    processor: Any, text: str, around: tuple[tuple[int, ...], tuple[int, ...]], limit: int | None
) -> TokenStream:
    """Returns a text's tokens between those of its frame, cut to `limit` in all."""
    before, after = around
    room = None if limit is None else max(limit - len(before) - len(after), 1)
    bare = encode_text(processor, text, max_length=room, special=False)
    ids = np.concatenate([before, bare.token_ids, after]).astype(np.int32)
    if not len(ids):  # a blank text without special tokens, and no model reads nothing
        ids = np.array([processor.pad_token_id], np.int32)
    return TokenStream(ids, num_cut=bare.num_cut)


def _logits(model: Any, source: Source, target: PackedStream) -> Tensor:
    if is_packed(model):
        return model.packed(source, target)
    given = padded(target, model.config.pad_token_id or 0)
    inputs = source_inputs(source, model.config.pad_token_id)
    found = model(**inputs, decoder_input_ids=given["input_ids"], use_cache=False)
    return found.logits[given["attention_mask"].bool()]


def _scores(
    model: Any, source: Source, token_ids: Sequence[Sequence[int]], frame: Frame, texts: int
) -> Tensor:
    """Returns the geometric mean of the probabilities of each text's tokens, (B·K,)."""
    before = frame.target[0]
    sources = taken(source, [number // texts for number in range(len(token_ids))])
    read = [[frame.start, *before, *ids[:-1]] for ids in token_ids]
    target = packed_targets(read, model.device)
    label_M = torch.tensor([id_ for ids in token_ids for id_ in (*before, *ids)])
    logits_MV = _logits(model, sources, target)
    parts = log_probabilities(logits_MV, label_M.to(model.device)).split(target.lengths)
    return torch.stack([part[len(before) :].mean().exp() for part in parts])


def _text(processor: Any, token_ids: Sequence[int]) -> str:
    return str(processor.decode(token_ids, skip_special_tokens=True))


def _best_first(score: Tensor, texts: int) -> list[int]:
    """Returns the order that puts the likeliest of each row's texts first."""
    order = score.view(-1, texts).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(0, len(score), texts, device=score.device)
    return (order + first[:, None]).flatten().tolist()


def _with_alternatives(texts: Sequence[Generated]) -> Generated:
    """Returns the first text with the others."""
    first, *others = texts
    return replace(first, alternatives=tuple(others)) if others else first
