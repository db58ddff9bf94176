"""A tag for each word of a text: names of people and places, terms, parts of speech.

{"tokens": ["Ada", "met", "Bo", "."], "tags": ["B-person", "O", "B-person", "O"]}
{"text": "Ada met Bo.", "entities": [[0, 3, "person"], [8, 10, "person"]]}
->  Entities((Entity(0, 3, "person", 0.99, "Ada"), Entity(8, 10, "person", 0.98, "Bo")), tags)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from tunewright.data.tags import (
    OUTSIDE,
    Scheme,
    may_follow,
    scheme_of,
    spans_of,
    strict_spans_of,
    tag_names,
    tags_of,
)
from tunewright.errors import DataError, SettingsError, listed
from tunewright.figures import Figure, Table
from tunewright.metrics import MetricSpec
from tunewright.metrics.entities import (
    ENTITY_METRICS,
    entity_counts,
    entity_metrics,
    label_scores,
    strict_counts,
)
from tunewright.models.architecture import TOKEN_CLASSIFIER, Kind
from tunewright.models.batch import Batch
from tunewright.models.crf import CRF, Steps, best_tags, log_likelihood, marginals
from tunewright.models.heads import token_outputs
from tunewright.models.loading import load_library_model
from tunewright.models.tokens import Long, encode_windows
from tunewright.tasks import ENTITIES, PLAIN_TEXT, TAGS, TOKENS
from tunewright.tasks.base import Loss, Outputs, Statistics, Task
from tunewright.tasks.texts import fitting_length
from tunewright.tasks.words import Mark, TaggedText, read_tagged, word_of
from tunewright.types import Entities, Entity, Features, Role, Row, TokenStream

IGNORED = -100  # what the library calls a token without a tag of its own
CRF_FILE = "crf.safetensors"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TokenClassification(Task):
    """Token classification with the library's own heads, and a CRF on top where it is wanted.

    The loss is cross-entropy over the first token of each word, or the negative log likelihood of
    a CRF over these; its count is that of tokens, or of sequences.
    """

    name: ClassVar[str] = "token-classification"
    roles: ClassVar[tuple[Role, ...]] = (TOKENS, TAGS, PLAIN_TEXT, ENTITIES)
    metrics: ClassVar[tuple[MetricSpec, ...]] = ENTITY_METRICS
    kind: ClassVar[Kind] = TOKEN_CLASSIFIER
    pipeline_tag: ClassVar[str] = "token-classification"
    own_usage: ClassVar[str] = (
        'import tunewright as tw\n\ntw.load("path/to/this/folder").predict(["Ada met Bo."])'
    )
    stock_usage: ClassVar[str] = (
        "from transformers import pipeline\n\n"
        'model = pipeline("token-classification", model="path/to/this/folder",\n'
        '                 aggregation_strategy="first")\nmodel("Ada met Bo.")'
    )

    max_length: PositiveInt | None = field(
        default=None,
        metadata={"help": "tokens of a window, special tokens included. Off: 256, or the model's "
                          "limit if that is less"},
    )  # fmt: skip
    long: Long = field(
        default="window",
        metadata={"help": "what happens to longer texts: read in windows, cut, or refused"},
    )
    stride: NonNegativeInt = field(
        default=32, metadata={"help": "tokens that a window shares with the one before"}
    )
    label_all_tokens: bool = field(
        default=False,
        metadata={"help": "learn the tag of every token of a word, not of its first alone"},
    )
    crf: bool = field(
        default=False,
        metadata={"help": "put a conditional random field on top: the tags of a text are chosen "
                          "together, and forbidden ones never follow one another"},
    )  # fmt: skip
    labels: tuple[str, ...] = field(
        default=(), metadata={"help": "the kinds of entity. Off: learned from the training rows"}
    )
    scheme: Scheme = field(default="BIO", metadata={"help": "how tags mark a span", "fitted": True})

    @property
    def tags(self) -> tuple[str, ...]:
        """The classes of the head, in its order."""
        return tag_names(self.labels, self.scheme)

    @property
    def text_roles(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("text", "tokens")

    def learn(self, rows: Iterable[Row]) -> Self:
        texts = [read_tagged(row) for row in rows]
        scheme = scheme_of([text.tags for text in texts if text.tags is not None])
        found = sorted({label for text in texts for _, _, label in text.marks or ()})
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
        return replace(self, labels=self.labels or tuple(found), scheme=scheme)

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
            Features(row.id, {"text": w}, self._targets(text, w), number)
            for number, w in enumerate(windows)
        ]

    def _window(self) -> int:
        if self.max_length is None:
            raise SettingsError("[task]", "task.max_length is not settled", "Call within first.")
        return self.max_length

    def _targets(self, text: TaggedText, stream: TokenStream) -> dict[str, np.ndarray]:
        """Returns the tag of each token, IGNORED where it has none of its own."""
        if text.marks is None:
            return {}
        word_N = word_of(text, stream)
        known = [span for span in text.spans if span[2] in self.labels]
        tags = tags_of(known, len(text.words), self.scheme)
        place = {tag: index for index, tag in enumerate(self.tags)}
        target_N = np.full(len(stream), IGNORED, np.int64)
        for token, word in enumerate(word_N):
            if word < 0:
                continue
            is_first = token == 0 or word_N[token - 1] != word
            if is_first or (self.label_all_tokens and not self.crf):
                tag = tags[word] if is_first else _continued(tags[word])
                target_N[token] = place.get(tag, IGNORED)
        return {"tags": target_N}

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
        return loaded.model, loaded.notices

    def _crf(self, source: Path, kept: Sequence[str]) -> CRF:
        ends = [*self.tags, ""]
        allowed = [[may_follow(a, b, self.scheme) for b in ends] for a in ends]
        made = CRF(len(self.tags), torch.tensor(allowed))
        if (source / CRF_FILE).is_file() and tuple(kept) == self.tags:
            made.load_state_dict(load_file(source / CRF_FILE))
        return made

    def extra_files(self, model: Any) -> Mapping[str, str | bytes]:
        return {CRF_FILE: save(dict(model.crf.state_dict()))} if self.crf else {}

    def forward(self, model: Any, batch: Batch) -> Outputs:
        (logits_NC,) = token_outputs(model, batch.streams["text"], "logits")
        return {"logits": logits_NC} | (model.crf.steps._asdict() if self.crf else {})

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        logits_NC, tag_N = outputs["logits"].float(), batch.targets["tags"]
        if self.crf:
            return _field_loss(outputs, logits_NC, tag_N, batch.streams["text"].boundaries)
        loss = functional.cross_entropy(logits_NC, tag_N, ignore_index=IGNORED, reduction="sum")
        return Loss(loss, float((tag_N != IGNORED).sum()))

    def stock_outputs(self, stock: Any, batch: Batch) -> Outputs:
        (logits_NC,) = token_outputs(stock, batch.streams["text"], "logits")
        return {"logits": logits_NC}

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[tuple[TokenStream, Tensor, Steps | None]]:
        """Returns each window with its tokens' logits (N, C) and the CRF's steps."""
        steps = Steps(*(outputs[name].cpu() for name in Steps._fields)) if self.crf else None
        streams = [item.streams["text"] for item in features]
        logits = outputs["logits"].float().cpu().split([len(stream) for stream in streams])
        return [(stream, own, steps) for stream, own in zip(streams, logits, strict=True)]

    def join(self, parts: Sequence[Any], row: Row) -> Entities:
        """Reads each word's logits where it stands deepest inside a window, and tags the words."""
        text = read_tagged(row)
        logits_WC = torch.zeros(len(text.words), len(self.tags))
        if OUTSIDE in self.tags:  # a word without tokens, such as a control character
            logits_WC[:, self.tags.index(OUTSIDE)] = 1e4
        depth_W = np.full(len(text.words), -1)
        for stream, logits_NC, _ in parts:
            word_N = word_of(text, stream)
            for token, word in enumerate(word_N):
                is_first = token == 0 or word_N[token - 1] != word
                depth = min(token, len(stream) - 1 - token)
                if word >= 0 and is_first and depth > depth_W[word]:
                    depth_W[word], logits_WC[word] = depth, logits_NC[token]
        tag_W, score_W = _tagged(logits_WC, parts[0][2])
        tags = [self.tags[tag] for tag in tag_W]
        entities = [
            Entity(
                text.words[first][0],
                text.words[last - 1][1],
                label,
                float(score_W[first:last].mean()),
                text.text[text.words[first][0] : text.words[last - 1][1]],
            )
            for first, last, label in spans_of(tags)
        ]
        return Entities(tuple(entities), tuple(tags) if text.tokens is not None else None)

    def statistics(self, answer: Entities, row: Row) -> Mapping[str, Any]:
        text = read_tagged(row)
        true, found = text.marks or (), _marks(answer)
        true_tags = text.tags or tags_of(text.spans, len(text.words), self.scheme)
        answered = replace(text, marks=found)
        tags = answer.tags or tags_of(answered.spans, len(text.words), self.scheme)
        if text.tags is None:
            strict = strict_counts(true, found)
        else:
            strict = strict_counts(*(strict_spans_of(t, self.scheme) for t in (true_tags, tags)))
        right = sum(map(str.__eq__, true_tags, tags))
        return entity_counts(true, found, self.labels) | {
            "strict": strict,
            "tokens": np.array([right, len(tags)]),
        }

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return entity_metrics(statistics, counts)

    def compared(self, answer: Entities, row: Row) -> tuple[str, str]:
        text = read_tagged(row)
        return text.shown(text.marks or ()), text.shown(_marks(answer))

    def severity(self, answer: Entities, row: Row) -> float | None:
        """Returns how many entities are missing or too many; None where there are none."""
        wrong = len(set(read_tagged(row).marks or ()) ^ set(_marks(answer)))
        return float(wrong) if wrong else None

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        rows = [
            (each.label, each.precision, each.recall, each.f1, each.num_entities)
            for each in sorted(label_scores(statistics, self.labels), key=lambda each: each.f1)
        ]
        header = ("label", "precision", "recall", "F1", "true entities")
        return [Table("Scores of each label", header, rows, "The hardest first.")]

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def continued(self, previous: Task) -> Self:
        """Returns the task with the earlier model's labels first, and the new ones after them."""
        if not isinstance(previous, TokenClassification) or previous.scheme != self.scheme:
            return self
        labels = tuple(dict.fromkeys((*previous.labels, *self.labels)))
        return replace(self, labels=labels, max_length=self.max_length or previous.max_length)


def _field_loss(
    outputs: Outputs, logits_NC: Tensor, tag_N: Tensor, boundaries: Sequence[int]
) -> Loss:
    """Returns the loss of a CRF over the tokens that have a tag."""
    kept_N = tag_N != IGNORED
    counts = [int(kept_N[a:b].sum()) for a, b in pairwise(boundaries)]
    filled = [count for count in counts if count]
    if not filled:
        return Loss(logits_NC.sum() * 0, 0)
    steps = Steps(*(outputs[name] for name in Steps._fields))
    found = log_likelihood(
        steps, logits_NC[kept_N], tag_N[kept_N], list(accumulate(filled, initial=0))
    )
    return Loss(-found, len(filled))


def _tagged(logits_WC: Tensor, steps: Steps | None) -> tuple[list[int], np.ndarray]:
    """Returns the tag of each word and its probability."""
    if not len(logits_WC):
        return [], np.zeros(0)
    if steps is None:
        probabilities_WC, tag_W = logits_WC.softmax(-1), logits_WC.argmax(-1)
    else:
        whole = (0, len(logits_WC))
        probabilities_WC = marginals(steps, logits_WC, whole)
        tag_W = best_tags(steps, logits_WC, whole)
    return tag_W.tolist(), probabilities_WC.gather(1, tag_W[:, None])[:, 0].numpy()


def _marks(answer: Entities) -> list[Mark]:
    return [(entity.start, entity.end, entity.label) for entity in answer]


def _continued(tag: str) -> str:
    """Returns the tag of a word's later tokens, which go on with what its first one begins."""
    return f"I-{tag[2:]}" if tag.startswith("B-") else tag
