"""A language model that goes on: it answers in a conversation, follows instructions, or writes.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
->  Reply("Hello!", score=0.93)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from tunewright.answers import Generated, Reply
from tunewright.data.checks import is_blank
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.metrics.perplexity import language_metrics
from tunewright.metrics.spec import MetricSpec
from tunewright.metrics.summaries import ROUGE_METRICS, rouge_metrics, rouge_scores
from tunewright.metrics.translation import TRANSLATION_METRICS, chrf_counts, chrf_of
from tunewright.models.batch import Batch, PackedStream
from tunewright.models.chosen_tokens import next_token_logits, next_token_losses
from tunewright.models.files.architecture import CAUSAL_LM, Kind, is_decoder
from tunewright.models.files.loading import load_library_model
from tunewright.models.files.weights import read_json_object
from tunewright.models.generating.generation import GENERATION_CONFIG, MAX_CONFIG_BYTES, Generation
from tunewright.models.generating.writing import Writing, cut_at_stop, write
from tunewright.models.heads import choose_route
from tunewright.models.text.chat_template import PLAIN_TEMPLATE
from tunewright.models.text.chat_tokens import (
    GIVEN,
    TEXT,
    Marked,
    chat_sequences,
    end_ids,
    fitted_prompt,
    prompt_length,
)
from tunewright.models.text.tokens import bare_ids, too_long_error
from tunewright.tasks import CHAT_ROLES
from tunewright.tasks.base import Loss, Outputs, Statistics, Task, each_window
from tunewright.tasks.shared.conversations import check_prompt_template, is_plain_text, messages_of
from tunewright.tasks.shared.texts import fitting_length, text_of
from tunewright.types import Features, ReadsLong, Role, Row, TokenStream

DEFAULT_LENGTH = 1024
# Decoders name their positions in many ways; a text is never written past them.
NO_LIMIT = 1_000_000
CUT = '"truncate"'  # what may be chosen for a conversation that is too long
SHOWN_LINES = 5

CHRF = next(spec for spec in TRANSLATION_METRICS if spec.name == "chrf")
METRICS = (
    MetricSpec("perplexity", False, "exp of the mean loss of a token that is learnt"),
    MetricSpec("token_accuracy", True, "share of those tokens that are the likeliest"),
    *ROUGE_METRICS,
    CHRF,
)


@plain_dataclass(frozen=True)
class _Part:
    """What came of one sequence: the texts written after it, and the loss of what is known."""

    texts: tuple[Generated, ...]
    loss: float
    num_known: int
    num_right: int


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextGeneration(Task):
    """Tuning of decoders with cross-entropy, on answers only (Ouyang et al. 2022, step 1).

    Conversations go through the model's own chat template, in training as in use. The loss looks at
    the answers and the token that ends them; its count is the number of such tokens. Rows that are
    plain text are learnt whole, in windows (continued pretraining). What stands before an answer is
    cut to the same length in training as in use, and every token that is cut is counted.
    """

    name: ClassVar[str] = "text-generation"
    roles: ClassVar[tuple[Role, ...]] = CHAT_ROLES
    metrics: ClassVar[tuple[MetricSpec, ...]] = METRICS
    kind: ClassVar[Kind] = CAUSAL_LM
    pipeline_tag: ClassVar[str] = "text-generation"
    text_roles: ClassVar[tuple[str, ...]] = ("prompt", "input", "messages", "text")
    bare_roles: ClassVar[tuple[str, ...]] = ("prompt", "input")
    optional_texts: ClassVar[tuple[str, ...]] = ("input",)
    generates: ClassVar[bool] = True
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        'model = tw.load("path/to/this/folder")\n'
        'model.predict(["What is a headline?"])'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'write = pipeline("text-generation", model="path/to/this/folder")\n'
        'write([{"role": "user", "content": "What is a headline?"}])'
    )

    max_length: PositiveInt | None = field(
        default=None,
        metadata={"help": "tokens of a conversation or of a window of plain text. Off: 1024, or "
                          "the model's limit if that is less"},
    )  # fmt: skip
    answer_length: PositiveInt | None = field(
        default=None,
        metadata={"help": "tokens of max_length that are kept free for the last answer. Off: a "
                          "quarter"},
    )  # fmt: skip
    long: Literal["truncate", "error"] = field(
        default="truncate",
        metadata={"help": 'what to do with a conversation that is too long: "truncate" drops its '
                          'oldest exchanges, then the end of its longest turn; "error" stops'},
    )  # fmt: skip
    learn_from: Literal["answers", "last answer"] = field(
        default="answers",
        metadata={"help": 'what is learnt of a conversation: all "answers", or the "last answer"'},
    )
    prompt_template: str | None = field(
        default=None,
        metadata={"help": "the user's turn, with {prompt} and {input} for the row's own. Off: the "
                          "prompt, then the input"},
    )  # fmt: skip
    system: str | None = field(
        default=None,
        metadata={"help": "what the model is told before each conversation that does not say so "
                          "itself; off: what its template says"},
    )  # fmt: skip
    write_answers: bool = field(
        default=False,
        metadata={"help": "write the answers in evaluations, too, for ROUGE and chrF; false "
                          "measures perplexity alone, which is faster"},
    )  # fmt: skip
    position_limit: PositiveInt | None = field(default=None, metadata={"fitted": True})

    def __post_init__(self) -> None:
        check_prompt_template(self.prompt_template)

    @property
    def reads_long(self) -> ReadsLong:
        """Conversations are cut or refused, plain texts are read in windows."""
        return "mixed"

    def learn(self, rows: Iterable[Row]) -> Self:
        count, empty = 0, list[Row]()
        for row in rows:
            count += 1
            if not self._teaches(row):
                empty.append(row)
        if empty:
            numbers = ", ".join(str(row.number) for row in empty[:SHOWN_LINES])
            kind = "lines" if empty[0].line else "rows"
            more = " and more" if len(empty) > SHOWN_LINES else ""
            raise DataError(
                empty[0].source,
                f"{len(empty):,} of {count:,} rows hold nothing to learn ({kind} {numbers}{more})",
                "An answer that is not empty, or a text, is needed in each.",
                "Remove these rows, or name the column with data.columns.completion=COLUMN.",
            )
        return self

    def _teaches(self, row: Row) -> bool:
        """Says whether a row has something to learn; raises where it cannot be read."""
        if is_plain_text(row):
            if self.write_answers:
                raise SettingsError(
                    "[task]",
                    "task.write_answers is true, and the data is plain text",
                    "Only conversations have answers.",
                )
            return not is_blank(text_of(row, "text"))
        turns = messages_of(row, self.prompt_template, self.system)
        answers = [turn.content for place, turn in enumerate(turns)
                   if place and turn.role == "assistant"]  # fmt: skip
        return bool(answers) and not any(map(is_blank, answers))

    def within(self, limit: int) -> Self:
        length = fitting_length(self.max_length, limit, DEFAULT_LENGTH)
        if self.answer_length is not None and self.answer_length >= length:
            raise SettingsError(
                "[task]",
                f"task.answer_length is {self.answer_length}, and task.max_length {length}",
                "Something must be left for what stands before the answer.",
            )
        return replace(self, max_length=length, position_limit=limit)

    def encode(self, row: Row, processor: Any) -> list[Features]:
        """Returns the sequences of a row; their marks stand in the place of segment ids."""
        if is_plain_text(row):
            sequences, num_cut = self._windows(row, processor), 0
        else:
            sequences, num_cut = self._conversation(row, processor)
        return [
            Features(
                row.id,
                {
                    "text": TokenStream(
                        sequence.ids_N,
                        sequence.marks_N,
                        num_cut=0 if number else num_cut,
                        num_repeated=1 if number and sequence.marks_N[-1] == TEXT else 0,
                    )
                },
                {},
                number,
            )
            for number, sequence in enumerate(sequences)
        ]

    @property
    def prompt_room(self) -> int:
        """The tokens that may stand before an answer: the rest is kept free for it."""
        length = self.max_length or DEFAULT_LENGTH
        return length - (self.answer_length or max(length // 4, 1))

    def _conversation(self, row: Row, processor: Any) -> tuple[list[Marked], int]:
        length, room = self.max_length or DEFAULT_LENGTH, self.prompt_room
        turns = messages_of(row, self.prompt_template, self.system)
        answer = turns[-1:] if turns[-1].role == "assistant" and len(turns) > 1 else ()
        asked = turns[: len(turns) - len(answer)]
        kept, num_cut = fitted_prompt(processor, asked, room, row.where)
        if num_cut and self.long == "error":
            raise too_long_error(row.where, room + num_cut, room, CUT)
        only_last = self.learn_from == "last answer"
        found = chat_sequences(processor, kept + answer, row.where, only_last)
        longest = max(map(len, found))
        if longest > length and self.long == "error":
            raise too_long_error(row.where, longest, length, CUT)
        num_cut += sum(max(len(sequence) - length, 0) for sequence in found)
        return [sequence.first(length) for sequence in found], num_cut

    def _windows(self, row: Row, processor: Any) -> list[Marked]:
        """Returns a text in windows; each begins with the last token of the one before it."""
        length = self.max_length or DEFAULT_LENGTH
        ids_N = bare_ids(processor, text_of(row, "text"))
        before = processor.backend_tokenizer.encode("").ids[:1]
        begin = before if before and before[0] == processor.bos_token_id else []
        end = [] if processor.eos_token_id is None else [processor.eos_token_id]
        ids_N = np.concatenate([begin, ids_N, end]).astype(np.int32)
        if not len(ids_N):
            ids_N = np.zeros(1, np.int32)
        step = max(length - 1, 1)
        windows = [
            ids_N[start : start + length] for start in range(0, max(len(ids_N) - 1, 1), step)
        ]
        return [Marked(window, np.full(len(window), TEXT, np.int32)) for window in windows]

    def units(self, rows: Sequence[Sequence[Features]]) -> list[list[Features]]:
        """Returns each sequence as a row of its own: `batch_size` counts windows of a text."""
        return each_window(rows)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source, self.kind, dropout=dropout, seed=seed, pad_token_id=processor.pad_token_id
        )
        model = loaded.model
        model_type = model.config.model_type
        if not is_decoder(model_type):
            raise ModelError(
                str(source),
                f"{model_type} reads a text from both sides",
                "Writing needs a decoder such as llama, qwen3 or gpt2.",
                "Name another model, such as smollm2.",
            )
        notices = list(loaded.notices)
        if processor.chat_template is None:
            processor.chat_template = PLAIN_TEMPLATE
            notices.append(
                f"{source}: it has no chat template and gets a plain one, User: and Assistant:."
            )
        model.config.use_cache = True
        model.generation_config.pad_token_id = processor.pad_token_id
        model.generation_config.eos_token_id = list(
            dict.fromkeys([*own_ends(source), *end_ids(processor)])
        )
        return model, tuple(notices)

    def route(self, model: Any) -> str:
        return choose_route(model, next_token_logits)

    def forward(self, model: Any, batch: Batch) -> Outputs:
        stream, places_M = _plain(batch)
        return {"losses": next_token_losses(model, stream, places_M)[0]}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        return Loss(outputs["losses"].sum(), len(outputs["losses"]))

    def limits(self) -> Sequence[str]:
        told = []
        if self.max_length is not None:
            cut = "loses its oldest exchanges, then the end of its longest turn"
            what = cut if self.long == "truncate" else "is refused"
            told.append(
                f"A conversation with more than {self.prompt_room:,} tokens before its last answer "
                f"{what}. Stock libraries read all that the model can."
            )
        if self.prompt_template is not None:
            told.append(
                f"A prompt stands in the user's turn as {self.prompt_template!r}; stock libraries "
                "are given the whole turn."
            )
        if self.system is not None:
            told.append(
                f"Each conversation begins with the system's turn {self.system!r}; stock libraries "
                "are given it, too."
            )
        return told

    def examine(self, model: Any, batch: Batch, processor: Any, settings: Generation) -> Outputs:
        if self.write_answers:
            return self.generate(model, batch, processor, settings)
        stream, places_M = _plain(batch)
        losses_M, right_M = next_token_losses(model, stream, places_M)
        return {"losses": losses_M, "right": right_M}

    def generate(self, model: Any, batch: Batch, processor: Any, settings: Generation) -> Outputs:
        """Writes after each sequence that is a conversation, and measures the known answers.

        `texts` holds for each sequence what was written, None after plain text.
        """
        stream, places_M = _plain(batch)
        losses_M, right_M = next_token_losses(model, stream, places_M)
        ids, marks = (values.cpu().numpy() for values in _ids_and_marks(batch))
        prompts: dict[int, list[int]] = {}
        for place, (start, end) in enumerate(pairwise(stream.boundaries)):
            if marks[start] != TEXT:
                length = prompt_length(marks[start:end])
                prompts[place] = ids[start : start + length].tolist()
        rows = [batch.row_ids[place] for place in prompts]
        limit = self.position_limit or NO_LIMIT
        found = write(model, list(prompts.values()), rows, settings, processor, limit)
        texts: list[Any] = [None] * stream.num_sequences
        for place, writings in zip(prompts, found, strict=True):
            texts[place] = tuple(_written(each, processor, settings) for each in writings)
        return cast(Outputs, {"losses": losses_M, "right": right_M, "texts": texts})

    def decode(self, outputs: Outputs, features: Sequence[Features], processor: Any) -> list[_Part]:
        counts = [_num_learnt(item) for item in features]
        losses = outputs["losses"].float().cpu().double().split(counts)
        right = outputs["right"].cpu().split(counts)
        texts = cast(Sequence[Any], outputs.get("texts", [None] * len(features)))
        return [
            _Part(text or (), float(loss.sum()), count, int(hits.sum()))
            for text, loss, count, hits in zip(texts, losses, counts, right, strict=True)
        ]

    def join(self, parts: Sequence[_Part], row: Row) -> Reply:
        loss = math.fsum(part.loss for part in parts)
        known = sum(part.num_known for part in parts)
        figures = {"loss": loss, "num_known": known, "num_right": sum(p.num_right for p in parts)}
        if not parts[-1].texts:  # measured only
            return Reply("", math.exp(-loss / known) if known else 0.0, **figures)  # type: ignore[arg-type]
        best, *others = parts[-1].texts
        return Reply(
            best.text,
            best.score,
            best.finish_reason,
            best.num_tokens,
            tuple(others),
            **figures,  # type: ignore[arg-type]
        )

    def statistics(self, answer: Reply, row: Row) -> Mapping[str, Any]:
        figures = {
            "loss": answer.loss,
            "hidden": answer.num_known,
            "right": answer.num_right,
        }
        if not self.write_answers:
            return figures
        true = self._known_answer(row)
        written = {"has_answer": bool(true), "chrf": chrf_counts(answer.text, [true])}
        return figures | written | rouge_scores(answer.text, [true])

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        found = language_metrics(statistics, counts)
        if self.write_answers:
            counts_R = _has_answer(statistics).astype(np.float64)
            counts_R = counts_R if counts is None else counts_R * counts
            found |= rouge_metrics(statistics, counts_R)
            found["chrf"] = chrf_of(counts_R @ np.asarray(statistics["chrf"], np.float64))
        return found

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        unread = int((np.asarray(statistics["hidden"]) == 0).sum())
        unknown = int((~_has_answer(statistics)).sum()) if self.write_answers else 0
        num_rows = len(statistics["hidden"])
        told = {
            "no answer among the tokens that are read; perplexity and token accuracy": unread,
            "no answer to be written; ROUGE and chrF": unknown,
        }
        return [f"{number:,} of {num_rows:,} rows: {what} leave them out."
                for what, number in told.items() if number]  # fmt: skip

    def _known_answer(self, row: Row) -> str:
        if is_plain_text(row):
            return ""
        last = messages_of(row, self.prompt_template, self.system)[-1]
        return last.content if last.role == "assistant" else ""

    def compared(self, answer: Reply, row: Row) -> tuple[str, str]:
        return self._known_answer(row), answer.text

    def shown(self, row: Row) -> str:
        if is_plain_text(row):
            return text_of(row, "text")
        turns = messages_of(row, self.prompt_template, self.system)
        asked = turns[:-1] if turns[-1].role == "assistant" else turns
        return "\n".join(f"{turn.role}: {turn.content}" for turn in asked)

    def severity(self, answer: Reply, row: Row) -> float | None:
        """Returns the mean loss of a row: high where the model finds the known text odd."""
        if answer.num_right == answer.num_known:
            return None
        return answer.loss / answer.num_known


def _has_answer(statistics: Statistics) -> np.ndarray:
    """Returns which rows have an answer that can be compared, bool (R,)."""
    found = statistics.get("has_answer")  # not in figures that were stored by older versions
    return np.ones(len(statistics["loss"]), bool) if found is None else np.asarray(found, bool)


def own_ends(folder: Path) -> list[int]:
    """Returns the tokens at which the generation_config.json of a folder ends texts."""
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return []
    ends = read_json_object(path, MAX_CONFIG_BYTES).get("eos_token_id")
    return [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]


def _ids_and_marks(batch: Batch) -> tuple[Tensor, Tensor]:
    stream = batch.streams["text"]
    assert stream.type_ids_N is not None
    return stream.token_ids_N, stream.type_ids_N


def _plain(batch: Batch) -> tuple[PackedStream, Tensor]:
    """Returns the stream as models read it, without its marks, and the places that are learnt."""
    stream = batch.streams["text"]
    _, marks_N = _ids_and_marks(batch)
    learnt_N = marks_N != GIVEN
    learnt_N[stream.first_B] = False  # nothing stands before the first token
    return replace(stream, type_ids_N=None), learnt_N.nonzero()[:, 0]


def _num_learnt(item: Features) -> int:
    return int((np.asarray(item.streams["text"].type_ids)[1:] != GIVEN).sum())


def _written(writing: Writing, processor: Any, settings: Generation) -> Generated:
    """Returns the text of what was written, up to the first stop sequence."""
    text = str(processor.decode(writing.ids, skip_special_tokens=True))
    text, at_stop = cut_at_stop(text, settings.stop)
    return Generated(
        text.strip(),
        writing.score,
        "stop" if writing.stopped or at_stop else "length",
        len(writing.ids) + writing.stopped,
    )
