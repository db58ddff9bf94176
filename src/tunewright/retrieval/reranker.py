"""A cross-encoder that reads a query and a text together, and orders what was found anew.

reranker = load_reranker("runs/reranking")
index.search("a question", reranker=reranker)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import get_args

from tunewright.devices import Precision, find_device, settle_allocator
from tunewright.errors import ModelError
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER, head_names, load_config
from tunewright.models.files.folder import check_model_folder, find_model
from tunewright.models.files.weights import read_headers
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of
from tunewright.prediction.predictor import Predictor
from tunewright.retrieval.encoder import check_choice
from tunewright.retrieval.fusion import fused
from tunewright.retrieval.hit import Hit
from tunewright.tasks import find_task
from tunewright.tasks.base import load_task
from tunewright.tasks.reranking import Reranking
from tunewright.types import Row


@dataclass(frozen=True)
class Reranker:
    """A cross-encoder ready to read."""

    predictor: Predictor

    def reranked(self, query: str, hits: Sequence[Hit], weight: float = 1.0) -> list[Hit]:
        """Returns the hits, which come the best first, in the order of new scores.

        They are the model's, or with a `weight` under 1 its logits and the hits' own scores, each
        brought to 0 to 1: what found them often knows something that the model does not.
        """
        if not hits:
            return []
        row = Row(0, {"query": query, "text": [hit.text for hit in hits]}, "search")
        ranking = next(self.predictor.answers([row]))
        if weight == 1:
            return [replace(hits[place], score=ranking.scores[place]) for place in ranking.order]
        read = [(place, ranking.logits[place]) for place in ranking.order]
        found = [(place, hit.score) for place, hit in enumerate(hits)]
        return [replace(hits[place], score=score) for place, score in fused(read, found, weight)]


def load_reranker(
    model: str | PathLike[str], precision: Precision = "auto", exact: bool = False
) -> Reranker:
    """Loads a cross-encoder: a run of reranking, or any sequence classifier of one output.

    When `exact`, a score has the same bits whatever texts are beside it, which takes longer. Raises
    ModelError for another model.
    """
    check_choice("precision", precision, get_args(Precision))
    settle_allocator()
    path = find_model(model)
    check_model_folder(path, SEQUENCE_CLASSIFIER)
    config, tokenizer = load_config(path), load_tokenizer(path)
    task = load_task(path, find_task)
    if not isinstance(task, Reranking):
        _check_one_output(path, config)
        task = Reranking().within(max_length_of(config, tokenizer))
    library_model, _ = task.build(path, tokenizer, dropout=None, seed=0)
    task.route(library_model)
    device = find_device(precision)
    library_model.to(device.name).eval()
    use_own_layers(library_model)
    return Reranker(Predictor(task, library_model, tokenizer, device, exact=exact))


def _check_one_output(path: Path, config: object) -> None:
    headers = read_headers(path)
    names = head_names(path, config, SEQUENCE_CLASSIFIER)
    if not all(name in headers and headers[name].shape[0] == 1 for name in names):
        raise ModelError(
            str(path), "it has no trained head of one output", "A reranker gives one score.",
            "Train one with: tunewright train pairs.csv --task reranking",
        )  # fmt: skip
