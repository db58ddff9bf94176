"""A vector for a text, near to those of texts that mean the same or answer it.

{"anchor": "How do I reset my card?", "positive": "Open the app and choose Replace card."}
{"text_a": "A man eats.", "text_b": "A man dines.", "score": 4.5}
->  Vector(384 numbers), or for several texts Similarity(0.83)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from tunewright.answers import Similarity, Vector
from tunewright.data.checks import read_number
from tunewright.errors import DataError, SettingsError
from tunewright.figures import Figure, Mistake, Scatter
from tunewright.metrics import MetricSpec
from tunewright.metrics.ranking import RANKING_METRICS, ranking_metrics
from tunewright.metrics.regression import REGRESSION_METRICS, RegressionReducer
from tunewright.models.adapting.bases import is_adapter_folder
from tunewright.models.batch import Batch, padded
from tunewright.models.files.architecture import ENCODER, Kind
from tunewright.models.files.loading import load_library_model, quiet_library
from tunewright.models.files.sentence_folder import SentenceSettings, read_sentence_settings
from tunewright.models.heads import hidden_states
from tunewright.models.pooling import Pooling, normalised, pool, truncated
from tunewright.models.text.tokens import Long
from tunewright.tasks import EMBEDDING_ROLES
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics, stack
from tunewright.tasks.shared.contrastive import contrastive_loss, cosent_loss, cosine_loss
from tunewright.tasks.shared.distinct import distinct_updates
from tunewright.tasks.shared.rankings import place_bars, worst_queries
from tunewright.tasks.shared.related_texts import (
    ANCHOR,
    POSITIVE,
    SCORED,
    Objective,
    RelatedText,
    Relations,
    anchor_and_positives,
    check_texts,
    check_unscored,
    related_texts,
)
from tunewright.tasks.shared.retrieved import retrieval_figures
from tunewright.tasks.shared.texts import fitting_length
from tunewright.tasks.shared.windows import (
    Window,
    WindowedTask,
    as_features,
    by_text,
    first_windows,
    in_windows,
    long_field,
    pooled,
    stride_field,
    texts_of,
)
from tunewright.types import Features, Role, Row, Rows, TokenStream

# Cosines have no unit of the data, so only what is free of units says how good they are.
SIMILARITY_METRICS = REGRESSION_METRICS[:2]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SentenceEmbedding(WindowedTask):
    """Sentence embedding with a bare encoder, whose folder sentence-transformers reads.

    Each text of a row is an input of its own; the targets tell an update which text is whose
    positive or negative (`related_texts`), so rows may have as many as they like.
    """

    name: ClassVar[str] = "sentence-embedding"
    roles: ClassVar[tuple[Role, ...]] = EMBEDDING_ROLES
    kind: ClassVar[Kind] = ENCODER
    library: ClassVar[str] = "sentence-transformers"
    pipeline_tag: ClassVar[str] = "sentence-similarity"
    text_roles: ClassVar[tuple[str, ...]] = ("anchor", "positive")
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        'tw.load("path/to/this/folder").predict(["a text", "another text"])'
    )

    max_length: PositiveInt | None = field(
        default=None,
        metadata={"help": "tokens that are read at once, special tokens included. Off: the "
                          "starting model's, or 256"},
    )  # fmt: skip
    long: Long = long_field()
    stride: NonNegativeInt = stride_field()
    objective: Objective = field(
        default="auto",
        metadata={"help": "the loss: ranking or triplet (positives and negatives); cosent, cosine "
                          "or contrastive (scored pairs). auto: ranking, or cosent with scores"},
    )  # fmt: skip
    scale: PositiveFloat = field(
        default=20.0, metadata={"help": "multiplies the cosines in ranking and cosent"}
    )
    symmetric: bool = field(
        default=False, metadata={"help": "ranking also finds each positive's anchor"}
    )
    margin: PositiveFloat = field(
        default=0.5, metadata={"help": "distance (1 - cosine) to be kept by triplet, contrastive"}
    )
    distinct: bool = field(
        default=True, metadata={"help": "keep rows with a text in common out of one update"}
    )
    matryoshka_dimensions: tuple[PositiveInt, ...] = field(
        default=(),
        metadata={"help": "lengths to which vectors may be cut: the loss is added up over them. "
                          "Name the full length, too. Off: the full length alone"},
    )  # fmt: skip
    matryoshka_weights: tuple[PositiveFloat, ...] = field(
        default=(), metadata={"help": "weight of each of these lengths. Off: 1 each"}
    )
    dimensions: PositiveInt | None = field(
        default=None, metadata={"help": "numbers of an answered vector. Off: all"}
    )
    pooling: Pooling | None = field(
        default=None,
        metadata={"help": "mean of the tokens, cls (first) or last token. Off: as the starting "
                          "model says, or mean"},
    )  # fmt: skip
    normalize: bool | None = field(
        default=None,
        metadata={"help": "vectors of length 1. Off: as the starting model says, or true"},
    )
    query_prompt: str | None = field(
        default=None, metadata={"help": "stands before anchors. Off: the starting model's"}
    )
    document_prompt: str | None = field(
        default=None,
        metadata={"help": "stands before positives and negatives. Off: the starting model's"},
    )
    lowest_score: float = field(
        default=0.0, metadata={"help": "score that means nothing in common", "fitted": True}
    )
    highest_score: float = field(
        default=1.0, metadata={"help": "score that means the same", "fitted": True}
    )

    def __post_init__(self) -> None:
        sizes, weights = self.matryoshka_dimensions, self.matryoshka_weights
        if weights and len(weights) != len(sizes):
            raise SettingsError(
                "[task]",
                f"task.matryoshka_weights names {len(weights)} weights",
                f"task.matryoshka_dimensions names {len(sizes)} lengths.",
            )

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:  # type: ignore[override]
        """Those of retrieval or of scored pairs; before `learn` may say, both."""
        if self.objective == "auto":
            return (*RANKING_METRICS, *SIMILARITY_METRICS)
        return SIMILARITY_METRICS if self.is_scored else RANKING_METRICS

    @property
    def scope(self) -> Scope:
        return "batch" if self.objective in ("ranking", "cosent") else "document"

    @property
    def is_scored(self) -> bool:
        return self.objective in SCORED

    def learn(self, rows: Iterable[Row]) -> Self:
        rows = list(rows)
        chosen: Objective = self.objective
        if chosen == "auto":
            chosen = "cosent" if any(map(self._has_score, rows)) else "ranking"
        if chosen in ("ranking", "triplet"):
            check_unscored(rows, chosen)
        task = replace(self, objective=chosen)
        for row in rows:
            check_texts(row, chosen)
        return task._scaled([task._raw_score(row) for row in rows]) if task.is_scored else task

    def _scaled(self, scores: Sequence[float]) -> Self:
        low, high = min(scores), max(scores)
        if low == high:
            raise DataError(
                "the training data",
                f"every score is {low:g}",
                "At least two different ones are needed.",
            )
        least = 0.0 if self.objective == "contrastive" else -1.0
        if least <= low and high <= 1:  # cosines already
            return replace(self, lowest_score=0.0, highest_score=1.0)
        return replace(self, lowest_score=low, highest_score=high)

    def started_from(self, source: Path) -> Self:
        found = read_sentence_settings(source, self.pooling)
        found = found or SentenceSettings(self.pooling or "mean", True)
        query, document = self.query_prompt, self.document_prompt
        return replace(
            self,
            pooling=found.pooling,
            normalize=found.normalize if self.normalize is None else self.normalize,
            max_length=self.max_length or found.max_length,
            query_prompt=found.query_prompt if query is None else query,
            document_prompt=found.document_prompt if document is None else document,
        )

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def encode(self, row: Row, processor: Any) -> list[Features]:
        score = {"score": self._score(row)} if self._has_score(row) else {}
        texts = [
            (self._streams(text, processor, row.where), {**text.targets, **score})
            for text in related_texts(row)
        ]
        return as_features(row.id, texts, placed=self._reading.in_windows)

    def _streams(self, text: RelatedText, processor: Any, where: str) -> list[TokenStream]:
        prompt = self.query_prompt if text.part == ANCHOR else self.document_prompt
        return self._reading.streams(processor, text.text, prompt=prompt or "", where=where)

    def updates(
        self, order: np.ndarray, rows: Sequence[Sequence[Features]], batch_size: int
    ) -> Iterator[np.ndarray]:
        """Yields updates in which no text stands twice, where the objective is ranking."""
        if self.objective != "ranking" or not self.distinct:
            return super().updates(order, rows, batch_size)
        return distinct_updates(
            order, lambda row: {item.targets["text"] for item in rows[row]}, batch_size
        )

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source, self.kind, dropout=dropout, seed=seed, pad_token_id=processor.pad_token_id
        )
        full = loaded.model.config.hidden_size
        for size in (*self.matryoshka_dimensions, self.dimensions or full):
            if size > full:
                raise SettingsError(
                    "[task]",
                    f"task.matryoshka_dimensions or task.dimensions is {size}",
                    f"The model's vectors have {full} numbers.",
                )
        return loaded.model, (*loaded.notices, *self._told())

    def _told(self) -> tuple[str, ...]:
        if not self.is_scored or (self.lowest_score, self.highest_score) == (0, 1):
            return ()
        low, high = self.lowest_score, self.highest_score
        return (
            f"The scores are read as 0 ({low:g}, nothing in common) to 1 ({high:g}, the same).",
        )

    def forward(self, model: Any, batch: Batch) -> Outputs:
        stream = batch.streams["text"]
        vectors_BD = pool(hidden_states(model, stream), stream, self.pooling or "mean")
        return {"vectors": vectors_BD if self.normalize is False else normalised(vectors_BD)}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        vectors_BD = outputs["vectors"]
        if self._reading.in_windows:
            texts = texts_of(batch)
            vectors_BD, batch = self._pooled(vectors_BD, texts), first_windows(batch, texts)
        relations = Relations.of(batch)
        sizes = self.matryoshka_dimensions or (vectors_BD.shape[1],)
        weights = self.matryoshka_weights or (1.0,) * len(sizes)
        each = [
            weight * self._loss(vectors_BD[:, :size], relations, batch)
            for size, weight in zip(sizes, weights, strict=True)
        ]
        return Loss(torch.stack(each).sum(), self._count(relations))

    def _pooled(self, vectors_WD: torch.Tensor, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Returns the vectors of texts from those of their windows: their mean."""
        if len(texts) == len(vectors_WD):
            return vectors_WD
        vectors_TD = pooled(vectors_WD.float(), texts)
        return vectors_TD if self.normalize is False else normalised(vectors_TD)

    def _loss(self, vectors_BD: torch.Tensor, relations: Relations, batch: Batch) -> torch.Tensor:
        if self.objective == "triplet":
            return relations.triplets(vectors_BD, self.margin)
        if not self.is_scored:
            return relations.ranked(vectors_BD, self.scale, self.symmetric)
        left_PD, right_PD = relations.pairs(vectors_BD)
        score_P = batch.targets["score"][relations.positive_P]
        if self.objective == "cosent":
            return cosent_loss(left_PD, right_PD, score_P, self.scale)
        if self.objective == "cosine":
            return cosine_loss(left_PD, right_PD, score_P)
        return contrastive_loss(left_PD, right_PD, score_P, self.margin)

    def _count(self, relations: Relations) -> float:
        """CoSENT is one number for all pairs; the others are sums over pairs or triplets."""
        if self.objective == "cosent":
            return 1.0
        return len(relations.triplet_T2) if self.objective == "triplet" else relations.num_pairs

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[Window]:
        return in_windows(list(outputs["vectors"].float().cpu()), features)

    def join(self, parts: Sequence[Window], row: Row) -> Vector | Similarity:
        by_place = by_text(parts)
        vectors_TD = torch.cat(
            [self._pooled(torch.stack(own), [range(len(own))]) for own in by_place]
        )
        vectors = vectors_TD.numpy()
        if self.dimensions is not None:
            vectors = truncated(vectors, self.dimensions, self.normalize is not False)
        if len(vectors) == 1:
            return Vector(vectors[0])
        length = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float32).tiny)
        cosines = vectors[1:] @ vectors[0] / (length[1:] * length[0])
        return Similarity(tuple(float(cosine) for cosine in cosines), vectors)

    def limits(self) -> Sequence[str]:
        found = [*self._reading.limits("mean", "sentence-transformers", "vectors")]
        if self.dimensions is not None:
            whole = "" if self.normalize is False else ", and normalize_embeddings=True"
            found.append(
                f"Vectors are cut to their first {self.dimensions} numbers. Stock "
                f"`sentence-transformers` does so with truncate_dim={self.dimensions}{whole}."
            )
        prompts = {"queries": self.query_prompt, "documents": self.document_prompt}
        said = [f'"{prompt}" before {texts}' for texts, prompt in prompts.items() if prompt]
        if said:
            found.append(
                f"A prompt is put {' and '.join(said)}. Stock `sentence-transformers` does so in "
                "encode_query and encode_document, and not in encode."
            )
        return tuple(found)

    def stock_lines(self) -> str:
        """Returns the lines that give the vectors of `own_usage`: of queries, cut as here."""
        cut = "" if self.dimensions is None else f", truncate_dim={self.dimensions}"
        whole = ", normalize_embeddings=True" if cut and self.normalize is not False else ""
        method = "encode_query" if self.query_prompt or self.document_prompt else "encode"
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("path/to/this/folder"{cut})\n'
            f'model.{method}(["a text", "another text"]{whole})'
        )

    def statistics(self, answer: Similarity, row: Row) -> Mapping[str, Any]:
        check_texts(row, self.objective)
        if self._has_score(row):
            return {"true": self._score(row), "predicted": answer.score}
        texts = related_texts(row)
        positives = [place for place, text in enumerate(texts) if text.part == POSITIVE]
        return {
            "anchor": answer.vectors[0],
            "anchor_text": texts[0].number,
            "positives": answer.vectors[positives],
            "positive_texts": [texts[place].number for place in positives],
        }

    def stack(self, statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Stacks the figures of scored pairs; of others it first finds how each anchor ranks.

        Every positive of these rows is a document, and every anchor looks for its own among all.
        """
        rows = list(statistics)
        return stack(rows) if "true" in rows[0] else retrieval_figures(rows)

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return dict(self.prepare(statistics)(counts))

    def prepare(self, statistics: Statistics) -> Reducer:
        if "true" not in statistics:
            return lambda counts: ranking_metrics(statistics, counts)
        reducer = RegressionReducer.of(statistics)
        kept = {spec.name for spec in SIMILARITY_METRICS}
        return lambda counts: {k: value for k, value in reducer(counts).items() if k in kept}

    def compared(self, answer: Similarity, row: Row) -> tuple[float, float]:
        """Returns the score and the cosine; texts that belong together have the score 1."""
        return (self._score(row) if self._has_score(row) else 1.0), answer.score

    def severity(self, answer: Similarity, row: Row) -> float | None:
        """Returns how far the cosine is from the score, or a positive from its anchor."""
        true, cosine = self.compared(answer, row)
        return abs(true - cosine)

    def mistakes(
        self, statistics: Statistics, rows: Rows, limit: int
    ) -> tuple[int, Sequence[Mistake]] | None:
        """Returns the anchors whose positives are farthest down; None of scored pairs."""
        if "true" in statistics:
            return None
        return worst_queries(statistics, rows, limit, anchor_and_positives)

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        if "true" not in statistics:
            return place_bars(statistics)
        true, cosine = (statistics[name].tolist() for name in ("true", "predicted"))
        return [Scatter("Score and cosine", true, cosine, "score, as read", "cosine")]

    def stock(self, folder: Path) -> Any:
        """Returns sentence-transformers' model; where that is not installed, the bare encoder."""
        if find_spec("sentence_transformers") is None or is_adapter_folder(folder):
            return super().stock(folder)
        from sentence_transformers import SentenceTransformer

        with quiet_library():
            return SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def stock_outputs(self, stock: Any, batch: Batch) -> Outputs:
        if not hasattr(stock, "encode"):
            return self.forward(stock, batch)
        found = stock(padded(batch.streams["text"], stock.tokenizer.pad_token_id or 0))
        return {"vectors": found["sentence_embedding"]}

    def extra_files(self, model: Any) -> Mapping[str, str | bytes]:
        settings = SentenceSettings(
            self.pooling or "mean",
            self.normalize is not False,
            self.max_length,
            self.query_prompt or "",
            self.document_prompt or "",
        )
        return settings.files(model.config.hidden_size)

    def _has_score(self, row: Row) -> bool:
        """Says whether a row is a scored pair; a model that nobody trained here reads both."""
        reads = self.is_scored or self.objective == "auto"
        return reads and row.values.get("score") is not None

    def _raw_score(self, row: Row) -> float:
        return read_number(row.values.get("score"), f"{row.where}, score")

    def _score(self, row: Row) -> float:
        width = self.highest_score - self.lowest_score
        return (self._raw_score(row) - self.lowest_score) / width
