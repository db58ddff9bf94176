"""How well each text answers a query: a model that reads both together, and their order.

{"query": "What causes anaemia?", "text": "A lack of iron ...", "label": 1}
{"query": "What causes anaemia?", "positive": "A lack of iron ...", "negative": ["Iron rusts."]}
->  Relevance(0.97), or for several texts Ranking((0.97, 0.02))
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from tunewright.answers import Ranking, Relevance
from tunewright.errors import DataError
from tunewright.figures import Figure, Mistake
from tunewright.metrics import MetricSpec
from tunewright.metrics.ranking import RANKING_METRICS, WEIGHT, ranking_metrics
from tunewright.models.adapting.bases import is_adapter_folder
from tunewright.models.batch import Batch, padded
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER, Kind
from tunewright.models.files.loading import load_library_model, quiet_library
from tunewright.models.heads import classify
from tunewright.models.text.tokens import Long
from tunewright.tasks import RERANKING_ROLES
from tunewright.tasks.base import Loss, Outputs, Reducer, Scope, Statistics
from tunewright.tasks.shared.candidates import (
    Candidate,
    all_hold_lists,
    candidates,
    holds_list,
    query_and_texts,
    ranked_figures,
)
from tunewright.tasks.shared.rankings import place_bars, worst_queries
from tunewright.tasks.shared.texts import fitting_length, text_of
from tunewright.tasks.shared.windows import (
    Pooling,
    Window,
    WindowedTask,
    as_features,
    by_text,
    first_windows,
    in_windows,
    length_field,
    long_field,
    pooled,
    stride_field,
    texts_of,
)
from tunewright.types import Features, Role, Row, Rows

Objective = Literal["auto", "pointwise", "listwise"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Reranking(WindowedTask):
    """Reranking with the library's sequence classifier of one output: a cross-encoder.

    `pointwise` is binary cross-entropy for each text by itself. `listwise` is the cross-entropy of
    a softmax over all texts of a query, against their labels divided by the labels' sum (Gao et al.
    2021, "Rethink Training of BERT Rerankers"; Zhuang et al. 2022, "RankT5"): only the order within
    a query counts.
    """

    name: ClassVar[str] = "reranking"
    roles: ClassVar[tuple[Role, ...]] = RERANKING_ROLES
    metrics: ClassVar[tuple[MetricSpec, ...]] = RANKING_METRICS
    kind: ClassVar[Kind] = SEQUENCE_CLASSIFIER
    library: ClassVar[str] = "sentence-transformers"
    pipeline_tag: ClassVar[str] = "text-ranking"
    text_roles: ClassVar[tuple[str, ...]] = ("query", "text")
    bare_roles: ClassVar[tuple[str, ...]] = ("query", "text")
    own_usage: ClassVar[str] = (
        "import tunewright as tw\n\n"
        'row = {"query": "a question", "text": ["an answer", "another"]}\n'
        'tw.load("path/to/this/folder").predict([row])'
    )
    stock_usage: ClassVar[str] = (
        "from sentence_transformers import CrossEncoder\nfrom torch import nn\n\n"
        'model = CrossEncoder("path/to/this/folder", activation_fn=nn.Sigmoid())\n'
        'model.rank("a question", ["an answer", "another"])'
    )

    max_length: PositiveInt | None = length_field("tokens of query and text that are read at once")
    long: Long = long_field()
    stride: NonNegativeInt = stride_field()
    pooling: Pooling = field(
        default="max",
        metadata={"help": "what the logits of a text's windows become: the largest, or their mean"},
    )
    objective: Objective = field(
        default="auto",
        metadata={"help": "the loss: pointwise (each text by itself) or listwise (the texts of a "
                          "query against one another). auto: listwise where a row holds them all"},
    )  # fmt: skip
    positive_weight: PositiveFloat = field(
        default=1.0, metadata={"help": "weight of relevant texts in pointwise"}
    )
    highest_label: float = field(
        default=1.0, metadata={"help": "label of a text that is wholly relevant", "fitted": True}
    )
    rows_hold_lists: bool = field(
        default=True,
        metadata={"help": "whether a row holds a query's texts, or one of them", "fitted": True},
    )

    @property
    def scope(self) -> Scope:
        """Listwise looks at all texts of a query: those of a row, or of an update."""
        if self.objective == "pointwise":
            return "document" if self._reading.in_windows else "row"
        return "document" if self.rows_hold_lists else "batch"

    def learn(self, rows: Iterable[Row]) -> Self:
        rows = list(rows)
        lists = all_hold_lists(rows)
        chosen: Objective = self.objective
        if chosen == "auto":
            chosen = "listwise" if lists else "pointwise"
        flat = [label for row in rows for label in _labels(row)]
        if len(set(flat)) < 2:
            raise DataError(
                "the training data",
                f"every label is {flat[0]:g}",
                "Relevant and irrelevant texts are needed.",
                "Find texts that only look relevant: tunewright mine FILE --out mined.jsonl",
            )
        highest = max(1.0, *flat)
        return replace(self, objective=chosen, rows_hold_lists=lists, highest_label=highest)

    def within(self, limit: int) -> Self:
        return replace(self, max_length=fitting_length(self.max_length, limit))

    def encode(self, row: Row, processor: Any) -> list[Features]:
        query = text_of(row, "query")
        texts = [
            (
                self._reading.streams(processor, query, candidate.text, where=row.where),
                self._targets(row, candidate),
            )
            for candidate in candidates(row)
        ]
        return as_features(row.id, texts, placed=self._reading.in_windows)

    def _targets(self, row: Row, candidate: Candidate) -> dict[str, float | int]:
        if candidate.label is None:
            return {}
        group = row.id if self.rows_hold_lists else candidate.query_number
        return {"label": candidate.label / self.highest_label, "group": group}

    def updates(
        self, order: np.ndarray, rows: Sequence[Sequence[Features]], batch_size: int
    ) -> Iterator[np.ndarray]:
        """Yields updates that keep the rows of a query together where the loss compares them.

        A query that does not fit the rest of an update goes on in the next one.
        """
        if self.scope == "batch":
            own: dict[Any, list[int]] = defaultdict(list)
            for row in order:
                own[rows[row][0].targets["group"]].append(row)
            order = np.array([row for together in own.values() for row in together])
        return super().updates(order, rows, batch_size)

    def build(
        self, source: Path, processor: Any, *, dropout: float | None, seed: int
    ) -> tuple[Any, tuple[str, ...]]:
        loaded = load_library_model(
            source,
            self.kind,
            ("relevance",),
            by_place=True,
            dropout=dropout,
            seed=seed,
            pad_token_id=processor.pad_token_id,
        )
        return loaded.model, loaded.notices

    def forward(self, model: Any, batch: Batch) -> Outputs:
        return {"logits": classify(model, batch.streams["text"])[:, 0]}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        logits_B = outputs["logits"].float()
        if self._reading.in_windows:
            texts = texts_of(batch)
            logits_B, batch = pooled(logits_B, texts, self.pooling), first_windows(batch, texts)
        label_B = batch.targets["label"]
        if self.objective != "pointwise":
            return listwise_loss(logits_B, label_B, batch.targets["group"])
        weight = torch.tensor(self.positive_weight, device=logits_B.device)
        loss = functional.binary_cross_entropy_with_logits(
            logits_B, label_B, pos_weight=weight, reduction="sum"
        )
        return Loss(loss, len(label_B))

    def decode(
        self, outputs: Outputs, features: Sequence[Features], processor: Any
    ) -> list[Window]:
        return in_windows(outputs["logits"].double().tolist(), features)

    def join(self, parts: Sequence[Window], row: Row) -> Relevance | Ranking:
        pool = np.max if self.pooling == "max" else np.mean
        logits_T = torch.tensor([float(pool(own)) for own in by_text(parts)], dtype=torch.float64)
        scores, logits = tuple(torch.sigmoid(logits_T).tolist()), tuple(logits_T.tolist())
        return Ranking(scores, logits) if holds_list(row) else Relevance(scores[0], logits[0])

    def limits(self) -> Sequence[str]:
        how = "mean" if self.pooling == "mean" else "largest"
        return self._reading.limits(how, "sentence-transformers", "logits")

    def statistics(self, answer: Relevance | Ranking, row: Row) -> Mapping[str, Any]:
        query = candidates(row)[0].query_number
        return {"query": query, "labels": _labels(row), "logits": _logits(answer)}

    def stack(self, statistics: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Ranks the texts of each query, those of a row or those of all rows that have it.

        Rows of one text are ranked together even where training knew lists.
        """
        rows = list(statistics)
        alone = all(len(row["labels"]) == 1 for row in rows)
        return ranked_figures(rows, by_query=alone or not self.rows_hold_lists)

    def reduce(self, statistics: Statistics, counts: np.ndarray | None = None) -> dict[str, float]:
        return ranking_metrics(statistics, counts)

    def prepare(self, statistics: Statistics) -> Reducer:
        return lambda counts: ranking_metrics(statistics, counts)

    def measured_as(self, statistics: Statistics) -> Sequence[str]:
        weight_R, alike_R = statistics[WEIGHT], statistics["all_alike"]
        num_alike = round(float(weight_R[alike_R].sum()))
        if not num_alike:
            return ()
        return (
            f"{num_alike:,} of {round(float(weight_R.sum())):,} queries have only texts that are "
            "equally relevant: any order of them is right, and counts so.",
        )

    def shown(self, row: Row) -> str:
        query, texts = query_and_texts(row)
        return "\n".join([query, *texts])

    def compared(self, answer: Relevance | Ranking, row: Row) -> tuple[float, float]:
        """Returns the label and the score of a text; of several, 1 and the best one's place."""
        labels = _labels(row)
        if isinstance(answer, Relevance):
            return labels[0] / self.highest_label, answer.score
        best = max(labels)
        return 1, 1 + next(n for n, place in enumerate(answer.order) if labels[place] == best)

    def severity(self, answer: Relevance | Ranking, row: Row) -> float | None:
        """Returns how far a score is past the middle, or the best text's place past the first."""
        true, found = self.compared(answer, row)
        if isinstance(answer, Ranking):
            return None if found == true else found
        return None if abs(true - found) < 0.5 else abs(true - found)

    def mistakes(
        self, statistics: Statistics, rows: Rows, limit: int
    ) -> tuple[int, Sequence[Mistake]] | None:
        """Returns the queries with the worst rankings; None where all have the right text first."""
        found = worst_queries(statistics, rows, limit, query_and_texts)
        return found if found[0] else None

    def figures(self, statistics: Statistics) -> Sequence[Figure]:
        return place_bars(statistics)

    def stock(self, folder: Path) -> Any:
        """Returns sentence-transformers' model, or transformers' where that is not installed."""
        if find_spec("sentence_transformers") is None or is_adapter_folder(folder):
            return super().stock(folder)
        from sentence_transformers import CrossEncoder

        with quiet_library():
            return CrossEncoder(str(folder), device="cpu", local_files_only=True)

    def stock_outputs(self, stock: Any, batch: Batch) -> Outputs:
        if not hasattr(stock, "rank"):
            return self.forward(stock, batch)
        found = stock(padded(batch.streams["text"], stock.tokenizer.pad_token_id or 0))
        return {"logits": found["scores"].flatten()}


def listwise_loss(logits_B: Tensor, label_B: Tensor, group_B: Tensor) -> Loss:
    """Returns the cross-entropy of each group's softmax, and how many groups have a positive.

    A group's labels divided by their sum are what its softmax should be; a group without a label
    over 0 says nothing and does not count.
    """
    groups, place_B = torch.unique(group_B, return_inverse=True)
    sums_G = torch.zeros(len(groups), device=label_B.device).index_add(0, place_B, label_B)
    highest_G = torch.full_like(sums_G, float("-inf")).scatter_reduce(
        0, place_B, logits_B.detach(), "amax"
    )
    shifted_B = logits_B - highest_G[place_B]
    total_G = torch.zeros_like(sums_G).index_add(0, place_B, shifted_B.exp())
    share_B = label_B / sums_G.clamp(min=torch.finfo(torch.float32).tiny)[place_B]
    loss = (share_B * (total_G.log()[place_B] - shifted_B)).sum()
    return Loss(loss, int((sums_G > 0).sum()))


def _labels(row: Row) -> list[float]:
    """Returns the labels of a row's texts; raises DataError where one has none."""
    found = [candidate.label for candidate in candidates(row)]
    known = [label for label in found if label is not None]
    if len(known) == len(found):
        return known
    raise DataError(
        row.where,
        "its text has no label",
        "A text needs a label, or a query needs positive and negative texts.",
        "Name the column with data.columns.label, or with data.columns.positive.",
    )


def _logits(answer: Relevance | Ranking) -> tuple[float, ...]:
    return answer.logits if isinstance(answer, Ranking) else (answer.logit,)
