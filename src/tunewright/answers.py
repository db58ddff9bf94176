"""What tasks say about rows, in the user's terms: plain values that know how they are written.

Nothing here imports torch, reads a file, or knows a task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, [start, end) in characters, and what it is."""

    start: int
    end: int
    label: str


LabelValue = str | int | bool


@dataclass(frozen=True, slots=True)
class Label:
    """The answer of a classifier.

    `label` is the likeliest class as the user wrote it (text, integer or boolean) and `score` its
    probability in [0, 1]. `scores` are the probabilities of all classes in the order of the
    model's labels. When the model has an abstain threshold and `score` is under it, `abstained`
    is true. `logits` are the model's raw outputs, before temperature.
    """

    label: LabelValue
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)
    abstained: bool = False
    logits: tuple[float, ...] = ()

    def __repr__(self) -> str:
        tail = ", abstained=True" if self.abstained else ""
        return f"Label({self.label!r}, {self.score:.4g}{tail})"

    def to_json(self) -> dict[str, Any]:
        """Returns what `predict` writes: the label, its score, all scores, and abstention."""
        return {
            "label": self.label,
            "score": self.score,
            "scores": dict(self.scores),
            "abstained": self.abstained,
        }


@dataclass(frozen=True, slots=True)
class Labels:
    """The answer of a classifier that gives any number of labels.

    `labels` are those whose score reaches their threshold, as the user wrote them, in the order of
    the model's. `scores` are the probabilities of all labels, each in [0, 1] by itself; `logits`
    are the model's raw outputs.
    """

    labels: tuple[LabelValue, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    logits: tuple[float, ...] = ()

    def __iter__(self) -> Iterator[LabelValue]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Labels({', '.join(map(repr, self.labels))})"

    def to_json(self) -> dict[str, Any]:
        """Returns what `predict` writes: the labels, and all scores."""
        return {"labels": list(self.labels), "scores": dict(self.scores)}


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer to a multiple choice question.

    `label` is the likeliest choice in the form of the training data's labels (its place, letter,
    key or text), `place` its place from 0, and `score` its probability in [0, 1]. `scores` are the
    probabilities of all choices in their order, `logits` the model's raw outputs, before
    temperature.
    """

    label: LabelValue
    place: int
    text: str
    score: float
    scores: tuple[float, ...] = ()
    logits: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"Choice({self.label!r}, {self.text!r}, {self.score:.4g})"

    def to_json(self) -> dict[str, Any]:
        """Returns what `predict` writes: the choice, its score, and all scores."""
        return {
            "label": self.label,
            "place": self.place,
            "text": self.text,
            "score": self.score,
            "scores": list(self.scores),
        }


@dataclass(frozen=True, slots=True)
class Entity:
    """A stretch of a text, [start, end) in characters, what it is, and how sure the model is."""

    start: int
    end: int
    label: str
    score: float
    text: str

    def to_json(self) -> dict[str, Any]:
        """Returns the shape that transformers' pipeline gives to a group of tokens."""
        return {
            "entity_group": self.label,
            "score": self.score,
            "word": self.text,
            "start": self.start,
            "end": self.end,
        }


@dataclass(frozen=True, slots=True)
class Entities:
    """The answer of a tagger: the entities of a text, and a tag for each token of the row.

    Rows that come as text have no tokens of their own, and then `tags` is None.
    """

    entities: tuple[Entity, ...] = ()
    tags: tuple[str, ...] | None = None

    def __iter__(self) -> Iterator[Entity]:
        return iter(self.entities)

    def __len__(self) -> int:
        return len(self.entities)

    def to_json(self) -> dict[str, Any]:
        """Returns what `predict` writes."""
        found = {"entities": [entity.to_json() for entity in self.entities]}
        return found if self.tags is None else {**found, "tags": list(self.tags)}


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """The answer to a question: a stretch [start, end) of its context, in characters.

    `score` is its probability among the best ones and no answer, in [0, 1]. Where the model finds
    none, `text` is empty. `margin` says how much likelier no answer is than the best one, as a
    difference of logits; `alternatives` are the best ones, the first included.
    """

    text: str
    start: int
    end: int
    score: float
    margin: float = float("-inf")
    alternatives: tuple[FoundAnswer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the shape of transformers' classic pipeline, with the alternatives."""
        found = {"score": self.score, "start": self.start, "end": self.end, "answer": self.text}
        others = [other.to_json() for other in self.alternatives]
        return found | ({"alternatives": others} if others else {})


@dataclass(frozen=True, slots=True)
class Number:
    """The answer of a regression, in the unit of the training data.

    Nine of ten true values lie between `low` and `high`, as far as validation rows can tell; both
    are None where there were none.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __float__(self) -> float:
        return self.value

    def to_json(self) -> dict[str, Any]:
        """Returns what `predict` writes: the score and its interval."""
        return {"score": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Guess:
    """What a language model puts in the place of one hidden token.

    [`start`, `end`) is the place in the text, in characters; `score` the probability of `token`,
    and `choices` those of the likeliest tokens. `true` is what stood there, `right` says whether it
    was guessed, and `loss` is its negative log-probability in nats; the three are None where the
    text itself asked.
    """

    start: int
    end: int
    token: str
    score: float
    choices: Mapping[str, float] = field(default_factory=dict)
    true: str | None = None
    right: bool | None = None
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Filled:
    """The answer of a masked language model: a text with its guesses in place."""

    text: str
    guesses: tuple[Guess, ...] = ()

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Returns what `predict` writes: the filled text, and each guess."""
        return {"filled": self.text, "guesses": [guess.to_json() for guess in self.guesses]}


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """The answer of an embedding model about one text: float32 (D,)."""

    values: np.ndarray

    def __repr__(self) -> str:
        return f"Vector({len(self.values)} numbers)"

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as a list."""
        return {"vector": self.values.tolist()}


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """The answer of an embedding model about a text and others of its row.

    `scores` are the cosines, -1 to 1, of the first text and each other one; `score` is the first of
    them. `vectors` are those of all texts, float32 (texts, D).
    """

    scores: tuple[float, ...]
    vectors: np.ndarray

    @property
    def score(self) -> float:
        return self.scores[0]

    def __repr__(self) -> str:
        return f"Similarity({self.score:.4g})"

    def to_json(self) -> dict[str, Any]:
        """Returns the cosines; the vectors are left out."""
        return {"score": self.score, "scores": list(self.scores)}


@dataclass(frozen=True, slots=True)
class Relevance:
    """The answer of a reranker about one text: `score` in [0, 1], the sigmoid of `logit`."""

    score: float
    logit: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer of a reranker about the texts of a query: their scores, in the row's order."""

    scores: tuple[float, ...]
    logits: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The places of the texts from the best to the worst; equal ones stay in their order."""
        return tuple(sorted(range(len(self.logits)), key=lambda place: -self.logits[place]))

    def to_json(self) -> dict[str, Any]:
        """Returns the texts' places in the row (`index`) with their scores, the best first."""
        ranking = [{"index": place, "score": self.scores[place]} for place in self.order]
        return {"ranking": ranking}


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer of a task that writes: a text.

    `score` in [0, 1] is the geometric mean of the probabilities that the model gives to the text's
    tokens and its end. `finish_reason` is `stop` where the model ended the text by itself or at a
    stop sequence, and `length` where it was cut off at `max_new_tokens`, of which `num_tokens`
    were used. `alternatives` are further texts, the best first, where more than one was asked for.
    `key` is what transformers' classic pipelines call the text.
    """

    text: str
    score: float
    finish_reason: Literal["stop", "length"] = "stop"
    num_tokens: int = 0
    alternatives: tuple[Generated, ...] = ()
    key: str = "generated_text"

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Returns the shape of transformers' classic pipeline, with the score and the rest."""
        found = {
            self.key: self.text,
            "score": self.score,
            "finish_reason": self.finish_reason,
            "num_tokens": self.num_tokens,
        }
        others = [other.to_json() for other in self.alternatives]
        return found | ({"alternatives": others} if others else {})


@dataclass(frozen=True, slots=True)
class Reply(Generated):
    """The answer of a language model, with what it makes of the text that is known to be right.

    `loss` in nats is the sum over the `num_known` tokens of that text, of which `num_right` were
    the model's likeliest; all are 0 where nothing is known.
    """

    loss: float = 0.0
    num_known: int = 0
    num_right: int = 0


class Answer(Protocol):
    """What a task says about a row, in the user's terms."""

    def to_json(self) -> dict[str, Any]: ...


def finite(value: Any) -> Any:
    """Returns plain values with null for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
