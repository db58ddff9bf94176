"""A tag for each word of a text: names of people and places, terms, parts of speech.

{"tokens": ["Ada", "met", "Bo", "."], "tags": ["B-person", "O", "B-person", "O"]}
{"text": "Ada met Bo.", "entities": [[0, 3, "person"], [8, 10, "person"]]}
->  Entities((Entity(0, 3, "person", 0.99, "Ada"), Entity(8, 10, "person", 0.98, "Bo")), tags)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from tunewright.answers import Entities, Entity, LabelValue
from tunewright.data.cells.tags import (
    OUTSIDE,
    Scheme,
    check_prefixes,
    check_writing,
    continued,
    is_allowed,
    may_follow,
    parts_of,
    rewritten,
    scheme_of,
    spans_of,
    strict_spans_of,
    tag_names,
    tags_of,
    without_prefix,
)
from tunewright.errors import DataError, SettingsError, listed
from tunewright.figures import Figure
from tunewright.metrics import MetricSpec
from tunewright.metrics.entities import (
    ENTITY_METRICS,
    EntityReducer,
    entity_statistics,
)
from tunewright.models.batch import Batch
from tunewright.models.crf import CRF, Steps, log_likelihood, most_likely
from tunewright.models.files.architecture import TOKEN_CLASSIFIER, Kind
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import token_outputs
from tunewright.models.text.tokens import Long, encode_windows
from tunewright.tasks import ENTITIES, PLAIN_TEXT, TAGS, TOKENS
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics, Task, each_window
from tunewright.tasks.shared.labels import Weights, weights_of
from tunewright.tasks.shared.tagging import Odd, limits, sentences, tables
from tunewright.tasks.shared.texts import each_read, fitting_length
from tunewright.tasks.shared.windows import length_field, long_field, stride_field
from tunewright.tasks.shared.words import (
    IGNORED,
    UNKNOWN,
    Mark,
    TaggedText,
    learnt_text,
    read_places,
    read_tagged,
    word_of,
)
from tunewright.types import Features, Role, Row, TokenStream

CRF_FILE = "crf.safetensors"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TokenClassification(Task):
    """Token classification with the library's own heads, and a CRF on top where it is wanted.

    The loss is cross-entropy over the first token of each word, or the negative log likelihood of
    a CRF over the words of a text; its count is that of words (of tokens with `label_all_tokens`),
    or the sum of their class weights.
    """

    name: ClassVar[str] = "token-classification"
    roles: ClassVar[tuple[Role, ...]] = (TOKENS, TAGS, PLAIN_TEXT, ENTITIES)
    kind: ClassVar[Kind] = TOKEN_CLASSIFIER
    bare_roles: ClassVar[tuple[str, ...]] = ("text",)
    pipeline_tag: ClassVar[str] = "token-classification"
    own_usage: ClassVar[str] = (
        'import tunewright as tw\n\ntw.load("path/to/this/folder").predict(["Ada met Bo."])'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'model = pipeline("token-classification", model="path/to/this/folder",\n'
        '                 aggregation_strategy="first")\nmodel("Ada met Bo.")'
    )

    max_length: PositiveInt | None = length_field("tokens of a window")
    long: Long = long_field("window")
    stride: NonNegativeInt = stride_field(32)
    label_all_tokens: bool = field(
        default=False,
        metadata={"help": "learn the tag of every token of a word, not of its first alone"},
    )
    crf: bool = field(
        default=False,
        metadata={"help": "put a conditional random field on top: the tags of a text are chosen "
                          "together, and forbidden ones never follow one another"},
    )  # fmt: skip
    class_weights: Weights = field(
        default=None,
        metadata={"help": '"balanced" (inverse frequency of the tags), or a weight per label, "O" '
                          "among them. Off: all 1"},
    )  # fmt: skip
    labels: tuple[str, ...] = field(
        default=(), metadata={"help": "the kinds of entity. Off: learned from the training rows"}
    )
    scheme: Scheme = field(default="BIO", metadata={"help": "how tags mark a span", "fitted": True})
    weights: tuple[float, ...] = field(
        default=(), metadata={"help": "weight of each tag", "fitted": True}
    )
    num_odd: int = field(
        default=0,
        metadata={"help": "training rows whose tags the scheme does not allow", "fitted": True},
    )
    num_trimmed: int = field(
        default=0,
        metadata={"help": "marks of training rows that had blanks at an edge", "fitted": True},
    )
    num_inside: int = field(
        default=0,
        metadata={"help": "marks of training rows that begin or end in a word", "fitted": True},
    )

    def __post_init__(self) -> None:
        refused = {
            "class_weights": (self.class_weights is not None, "weighs no classes"),
            "label_all_tokens": (self.label_all_tokens, "reads one token of each word"),
        }
        for name, (is_set, what) in refused.items():
            if self.crf and is_set:
                raise SettingsError(
                    "[task]",
                    f"task.crf and task.{name} are both set",
                    f"A CRF's loss is one of whole texts and {what}.",
                    "Leave one of them out.",
                )

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:  # type: ignore[override]
        """The metrics; of tags that mark no spans, such as parts of speech, accuracy is first."""
        if self.scheme != "plain":
            return ENTITY_METRICS
        return tuple(sorted(ENTITY_METRICS, key=lambda spec: spec.name != "accuracy"))

    @property
    def scope(self) -> Scope:
        return "document" if self.crf else "row"

    @property
    def tags(self) -> tuple[str, ...]:
        """The classes of the head, in its order."""
        return tag_names(self.labels, self._head)

    @property
    def _head(self) -> Scheme:
        """The scheme of the classes: what IOB1 says is learned as BIO."""
        return "BIO" if self.scheme == "IOB1" else self.scheme

    @property
    def text_roles(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("text", "tokens")

    def learn(self, rows: Iterable[Row]) -> Self:
        texts = each_read(rows, learnt_text)
        tagged = [text.known_tags for text in texts if text.tags is not None]
        scheme = scheme_of(tagged)
        check_writing({tag for tags in tagged for tag in tags})
        check_prefixes(tagged)
        found = sorted({label for text in texts for _, _, label in text.places(scheme)})
        if not found:
            raise DataError("the training data", "no word has a tag", "At least one is needed.")
        unnamed = [label for label in found if self.labels and label not in self.labels]
        if unnamed:
            raise DataError(
                "the training data",
                f"it has the labels {listed(unnamed)}, which task.labels does not name",
                f"task.labels names {listed(self.labels)}.",
                "Add them there, or leave task.labels out.",
            )
        learned = replace(
            self,
            labels=self.labels or tuple(found),
            scheme=scheme,
            num_odd=sum(not is_allowed(tags, scheme) for tags in tagged),
            num_trimmed=sum(text.num_trimmed for text in texts),
            num_inside=sum(text.num_inside for text in texts),
        )
        return replace(learned, weights=learned._weights(texts))

    def unseen_label(self, row: Row) -> LabelValue | None:
        text = read_tagged(row)
        if not text.is_known:
            return None
        written = [] if text.tags is None else without_prefix(text.known_tags, self.scheme)
        tags = (*written, *self._true_tags(text))
        return next((tag for tag in tags if tag != UNKNOWN and tag not in self.tags), None)

    def _weights(self, texts: Iterable[TaggedText]) -> tuple[float, ...]:
        """Returns a weight for each tag; `balanced` is tags / (classes x tags of the class)."""
        if self.class_weights is None:
            return ()
        if self.class_weights == "balanced":
            counts = Counter(tag for text in texts for tag in self._true_tags(text) if tag)
            share = counts.total() / len(counts)
            return tuple(share / counts[tag] if tag in counts else 1.0 for tag in self.tags)
        labels = (OUTSIDE, *self.labels)
        weights = dict(
            zip(labels, weights_of(self.class_weights, labels, "class_weights"), strict=True)
        )
        return tuple(weights[parts_of(tag, self._head)[1] or OUTSIDE] for tag in self.tags)

    def _true_tags(self, text: TaggedText) -> list[str]:
        """Returns the tag of each word in the head's scheme, UNKNOWN where it is not known."""
        tags = tags_of(text.spans(self.scheme), len(text.words), self._head)
        return [
            UNKNOWN if own == UNKNOWN else tag
            for tag, own in zip(tags, text.tags or tags, strict=True)
        ]

    def encode(self, row: Row, processor: Any) -> list[Features]:
        text = read_tagged(row).cut()
        windows = encode_windows(
            processor,
            text.text,
            max_length=self._window(),
            stride=self.stride,
            long=self.long,
            where=row.where,
        )
        return [
            Features(row.id, {"text": window}, targets, number)
            for number, (window, targets) in enumerate(
                zip(windows, self._targets(text, windows), strict=True)
            )
        ]

    def units(self, rows: Sequence[Sequence[Features]]) -> Sequence[Sequence[Features]]:
        """Returns each window as a row of its own, but for a CRF, which needs the whole text."""
        return rows if self.crf else each_window(rows)

    def _window(self) -> int:
        if self.max_length is None:
            raise SettingsError("[task]", "task.max_length is not settled", "Call within first.")
        return self.max_length

    def _targets(
        self, text: TaggedText, windows: Sequence[TokenStream]
    ) -> list[dict[str, np.ndarray]]:
        """Returns the tag of each token of each window, IGNORED where it has none of its own.

        A word is learned where it is read, so in one window only.
        """
        if not text.is_known:
            return [{} for _ in windows]
        place = {tag: index for index, tag in enumerate(self.tags)}
        tags = self._true_tags(text)
        tag_W = np.array([place.get(tag, IGNORED) for tag in tags], np.int64)
        inner_W = np.array([place.get(continued(t, self._head), IGNORED) for t in tags], np.int64)
        found = []
        for window, read_N in zip(windows, read_places(text, windows), strict=True):
            target_N = np.full(len(window), IGNORED, np.int64)
            if self.label_all_tokens:
                word_N = word_of(text, window)
                inside_N = np.isin(word_N, read_N[read_N >= 0])
                target_N[inside_N] = inner_W[word_N[inside_N]]
            target_N[read_N >= 0] = tag_W[read_N[read_N >= 0]]
            found.append({"tags": target_N})
        return found

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source,
            self.kind,
            self.tags,
            dropout=dropout,
            seed=seed,
            pad_token_id=processor.pad_token_id,
        )
        if self.crf:
            loaded.model.crf = self._crf(source, loaded.kept_labels)
            # Stock transformers would not know these: they stand in a file of their own.
            loaded.model._keys_to_ignore_on_save = [
                f"crf.{name}" for name in loaded.model.crf.state_dict()
            ]
        return loaded.model, (*loaded.notices, *self._told())

    def _told(self) -> tuple[str, ...]:
        odd = Odd(self.num_odd, self.num_trimmed, self.num_inside)
        return sentences(self.labels, self.scheme, odd)

    def _crf(self, source: Path, kept: Sequence[str]) -> CRF:
        ends = [*self.tags, ""]
        allowed = [[may_follow(a, b, self._head) for b in ends] for a in ends]
        made = CRF(len(self.tags), torch.tensor(allowed))
        if (source / CRF_FILE).is_file() and tuple(kept) == self.tags:
            made.load_state_dict(load_file(source / CRF_FILE))
        return made

    def extra_files(self, model: Any) -> Mapping[str, str | bytes]:
        return {CRF_FILE: save(dict(model.crf.state_dict()))} if self.crf else {}

    def route(self, model: Any) -> str:
        """Asks for the logits alone: a CRF's steps are far larger, and no route changes them."""
        return super(TokenClassification, replace(self, crf=False)).route(model)

    def forward(self, model: Any, batch: Batch) -> Outputs:
        (logits_NC,) = token_outputs(model, batch.streams["text"], "logits")
        steps = model.crf.steps._asdict() if self.crf else {}
        return {"logits": logits_NC} | {name: values[None] for name, values in steps.items()}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        logits_NC, tag_N = outputs["logits"].float(), batch.targets["tags"]
        if self.crf:
            return _field_loss(outputs, logits_NC, tag_N, batch)
        weight_C = torch.tensor(self.weights, device=logits_NC.device) if self.weights else None
        loss = functional.cross_entropy(
            logits_NC, tag_N, weight_C, ignore_index=IGNORED, reduction="sum"
        )
        kept_N = tag_N[tag_N != IGNORED]
        return Loss(loss, len(kept_N) if weight_C is None else float(weight_C[kept_N].sum()))

    def stock_outputs(self, stock: Any, batch: Batch) -> Outputs:
        (logits_NC,) = token_outputs(stock, batch.streams["text"], "logits")
        return {"logits": logits_NC}

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[tuple[TokenStream, Tensor, Steps | None]]:
        """Returns each window with its tokens' logits (N, C) and the CRF's steps."""
        steps = Steps(*(values.cpu() for values in _steps(outputs))) if self.crf else None
        streams = [item.streams["text"] for item in features]
        logits = outputs["logits"].float().cpu().split([len(stream) for stream in streams])
        return [(stream, own, steps) for stream, own in zip(streams, logits, strict=True)]

    def join(self, parts: Sequence[Any], row: Row) -> Entities:
        """Reads each word's logits where it stands deepest inside a window, and tags the words.

        A word without tokens, such as a control character, is passed over: inside an entity it
        belongs to it.
        """
        text = read_tagged(row)
        num_words = len(text.words)
        logits_WC = torch.zeros(num_words, len(self.tags))
        is_read_W = np.full(num_words, OUTSIDE not in self.tags)
        places = read_places(text, [stream for stream, _, _ in parts])
        for (_, logits_NC, _), read_N in zip(parts, places, strict=True):
            logits_WC[read_N[read_N >= 0]] = logits_NC[torch.from_numpy(read_N >= 0)]
            is_read_W[read_N[read_N >= 0]] = True
        place_R = np.flatnonzero(is_read_W)
        tag_R, score_R = most_likely(logits_WC[place_R], parts[0][2])
        read = [self.tags[tag] for tag in tag_R]
        spans = [
            (int(place_R[first]), int(place_R[last - 1]) + 1, label)
            for first, last, label in spans_of(read, self._head)
        ]
        tags, score_W = tags_of(spans, num_words, self._head), np.zeros(num_words)
        score_W[place_R] = score_R
        for place, tag in zip(place_R, read, strict=True):
            tags[place] = tag
        if self.scheme == "IOB1":
            tags = tags_of(spans, len(tags), "IOB1")
        entities = [
            Entity(
                text.words[first][0],
                text.words[last - 1][1],
                label,
                float(score_W[first:last][is_read_W[first:last]].mean()),
                text.text[text.words[first][0] : text.words[last - 1][1]],
            )
            for first, last, label in spans
        ]
        return Entities(tuple(entities), tuple(tags) if text.has_tokens else None)

    def limits(self) -> Sequence[str]:
        windows = (self._window(), self.stride) if self.long == "window" else None
        return limits(CRF_FILE if self.crf else None, windows, self.scheme)

    def statistics(self, answer: Entities, row: Row) -> Mapping[str, Any]:
        text = read_tagged(row)
        if text.tags is None:
            return self._text_statistics(answer, text)
        pairs = zip(text.tags, answer.tags or (), strict=True)
        known = [pair for pair in pairs if pair[0] != UNKNOWN]
        true = rewritten([tag for tag, _ in known], self.scheme)
        answered = [tag for _, tag in known]
        default = spans_of(true, self.scheme), spans_of(answered, self.scheme)
        strict = strict_spans_of(true, self.scheme), strict_spans_of(answered, self.scheme)
        right = sum(map(str.__eq__, true, answered))
        return entity_statistics(default, strict, (right, len(true)), self.labels)

    def _text_statistics(self, answer: Entities, text: TaggedText) -> Mapping[str, Any]:
        """Returns the figures of a row that came as text: places are compared in characters."""
        spans = list(text.marks or ()), _marks(answer)
        true, answered = (
            tags_of(replace(text, marks=marks).spans(self.scheme), len(text.words), self._head)
            for marks in spans
        )
        right = sum(map(str.__eq__, true, answered))
        return entity_statistics(spans, spans, (right, len(true)), self.labels)

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return EntityReducer.of(statistics)(counts)

    def prepare(self, statistics: Statistics) -> Reducer:
        return EntityReducer.of(statistics)

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        marked, allowed = (int(statistics[mode][:, 0].sum()) for mode in ("default", "strict"))
        if allowed >= marked:
            return ()
        return (
            f"{marked - allowed:,} of {marked:,} true entities are not tagged as {self.scheme} "
            "tags them: the strict scores leave them out, and accuracy compares their tags as they "
            "are.",
        )

    def shown(self, row: Row) -> str:
        return read_tagged(row).text

    def compared(self, answer: Entities, row: Row) -> tuple[str, str]:
        text = read_tagged(row)
        return text.shown(text.places(self.scheme)), text.shown(_marks(answer))

    def severity(self, answer: Entities, row: Row) -> float | None:
        """Returns how many entities are missing or too many; None where there are none."""
        wrong = len(set(read_tagged(row).places(self.scheme)) ^ set(_marks(answer)))
        return float(wrong) if wrong else None

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        return tables(statistics, self.labels)

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def continued(self, previous: Task) -> Self:
        """Returns the task with the earlier model's labels first, and the new ones after them."""
        if not isinstance(previous, TokenClassification) or previous.scheme != self.scheme:
            return self
        labels = tuple(dict.fromkeys((*previous.labels, *self.labels)))
        whole = replace(self, labels=labels, max_length=self.max_length or previous.max_length)
        weight = dict(zip(self.tags, self.weights, strict=False))
        return replace(
            whole, weights=tuple(weight.get(tag, 1.0) for tag in whole.tags) if weight else ()
        )


def _field_loss(outputs: Outputs, logits_NC: Tensor, tag_N: Tensor, batch: Batch) -> Loss:
    """Returns the loss of a CRF over the words of each text, whose windows stand together."""
    kept_N, boundaries = tag_N != IGNORED, batch.streams["text"].boundaries
    counts: list[int] = []
    placed = zip(batch.row_ids, pairwise(boundaries), strict=True)
    for _, windows in groupby(placed, key=itemgetter(0)):
        counts.append(sum(int(kept_N[a:b].sum()) for _, (a, b) in windows))
    filled = [count for count in counts if count]
    if not filled:
        return Loss(logits_NC.sum() * 0, 0)
    found = log_likelihood(
        _steps(outputs), logits_NC[kept_N], tag_N[kept_N], list(accumulate(filled, initial=0))
    )
    return Loss(-found, sum(filled))


def _steps(outputs: Outputs) -> Steps:
    """Returns the steps of a CRF, which every forward pass puts out once."""
    return Steps(*(outputs[name][0] for name in Steps._fields))


def _marks(answer: Entities) -> list[Mark]:
    return [(entity.start, entity.end, entity.label) for entity in answer]
