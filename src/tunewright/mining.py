"""Hard negatives: texts that look like the answer and are not.

    model = tw.load("starter")
    rows = mine_negatives(model, "pairs.csv", num_negatives=3)
    tw.train(rows, task="sentence-embedding")

Texts near to a query teach more than random ones (Karpukhin et al. 2020; Xiong et al. 2021), but
the nearest are often true answers that nobody marked. So a text is passed over when it is nearly as
near as the query's own positive (Moreira et al. 2024, "NV-Retriever", the positive-aware filter).

Shape letters: Q queries, K documents, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.data import ReadSettings, as_rows, is_blank, read_table
from tunewright.data.readers import DEFAULTS
from tunewright.data.wording import counted, once
from tunewright.errors import DataError, SettingsError, listed, warned
from tunewright.prediction.oddities import Oddities, odd_rows
from tunewright.retrieval.documents import read_documents
from tunewright.run.loaded import TrainedModel
from tunewright.tasks import EMBEDDING_ROLES
from tunewright.tasks.shared.related_texts import (
    NEGATIVE,
    POSITIVE,
    check_texts,
    related_texts,
    scores_of,
)
from tunewright.types import Row

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]

QUERIES_AT_ONCE = 256


def hard_negatives(
    queries_QD: Floats,
    documents_KD: Floats,
    relevant_Q: Sequence[Set[int]],
    excluded_Q: Sequence[Set[int]] | None = None,
    *,
    num_negatives: int = 3,
    skip: int = 0,
    depth: int = 100,
    max_share: float = 0.95,
    seed: int | None = None,
) -> list[Places]:
    """Returns the places of each query's hard negatives, the nearest first.

    Vectors are compared by their inner product; normalise them for cosines. `relevant_Q` are the
    places of each query's relevant documents, at least one; `excluded_Q` of others that are not to
    be its negatives. Of the `depth` nearest documents that are neither, without the first `skip`,
    those count that are no nearer than `max_share` of the query's farthest relevant one (1: as
    near as it, inf: all). The nearest `num_negatives` of them are taken, or with a `seed` random
    ones. A query may get fewer, or none.
    """
    rng = None if seed is None else np.random.Generator(np.random.Philox(seed))
    excluded_Q = [set()] * len(relevant_Q) if excluded_Q is None else excluded_Q
    found = []
    similarities = _similarities(queries_QD, documents_KD)
    for similarity_K, relevant, excluded in zip(similarities, relevant_Q, excluded_Q, strict=True):
        near = _nearest(similarity_K, relevant | excluded, depth)[skip:]
        near = near[similarity_K[near] <= _limit(similarity_K, relevant, max_share)]
        if rng is not None and len(near) > num_negatives:
            near = near[np.sort(rng.choice(len(near), num_negatives, replace=False))]
        found.append(near[:num_negatives])
    return found


def _similarities(queries_QD: Floats, documents_KD: Floats) -> Iterator[Floats]:
    """Yields each query's inner products with all documents, (K,)."""
    for start in range(0, len(queries_QD), QUERIES_AT_ONCE):
        yield from queries_QD[start : start + QUERIES_AT_ONCE] @ documents_KD.T


def _nearest(similarity_K: Floats, left_out: Set[int], depth: int) -> Places:
    """Returns the places of the nearest documents, the nearest first, without some."""
    size = min(depth + len(left_out), len(similarity_K))
    near = np.argpartition(-similarity_K, size - 1)[:size]
    near = near[np.lexsort((near, -similarity_K[near]))]
    return near[~np.isin(near, list(left_out))][:depth]


def _limit(similarity_K: Floats, relevant: Set[int], max_share: float) -> float:
    farthest = float(similarity_K[list(relevant)].min())
    return farthest - (1 - max_share) * abs(farthest)


def mine_negatives(
    model: TrainedModel,
    source: Any,
    columns: Mapping[str, str] | None = None,
    *,
    documents: Any = None,
    text: str | Sequence[str] = (),
    num_negatives: int = 3,
    skip: int = 0,
    depth: int = 100,
    max_share: float = 0.95,
    seed: int | None = None,
    settings: ReadSettings = DEFAULTS,
    say: Callable[[str], None] = warned,
) -> list[dict[str, Any]]:
    """Returns the rows of `source` with hard negatives: `anchor`, `positive` and `negative`.

    `source` holds pairs of an anchor and a positive in any form that `predict` reads. Its positives
    are the texts to choose from, with those of `documents`: anything that an index reads, whose
    columns `text` are joined. Rows with one anchor become one, with lists of texts; none of its
    positives, nor the anchor itself, is its negative. Negatives that rows have already come first,
    and so many new ones follow as are found. How they are chosen is told as to `hard_negatives`;
    `settings` say how files are read, and `say` hears what was guessed, how many texts were cut,
    and how many rows got fewer negatives, or none.

    Raises SettingsError for a model of another task and for a setting out of its range, DataError
    for a row without a positive, for scored pairs, and as readers do.
    """
    _check(num_negatives, skip, depth, max_share, seed)
    say = once(say)
    task = model.predictor.task
    if task.name != "sentence-embedding":
        raise SettingsError(
            str(model.folder),
            f"it is a model of {task.name}",
            "Only one of sentence-embedding says which texts are near.",
            'Use tunewright.load("starter"), or train one.',
        )
    groups = _grouped(source, columns or {}, settings, say)
    texts = [text for group in groups.values() for text in group[POSITIVE]]
    if documents is not None:
        columns_of_text = [text] if isinstance(text, str) else text
        others = read_documents(documents, text=columns_of_text, settings=settings, say=say)
        texts += (document.text for document in others if not is_blank(document.text))
    texts = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(texts)}
    odd = odd_rows(task.roles)
    mined = hard_negatives(
        _vectors(model, groups, "query", odd),
        _vectors(model, texts, "document", odd),
        [{place[text] for text in group[POSITIVE]} for group in groups.values()],
        [
            {place[text] for text in (anchor, *group[NEGATIVE]) if text in place}
            for anchor, group in groups.items()
        ],
        num_negatives=num_negatives,
        skip=skip,
        depth=depth,
        max_share=max_share,
        seed=seed,
    )
    for sentence in odd.notices():
        say(sentence)
    num_mined = [len(places) for places in mined]
    if num_few := sum(number < num_negatives for number in num_mined):
        rows = counted(len(num_mined), "row")
        say(
            f"{num_few:,} of {rows} got fewer than {counted(num_negatives, 'negative')}, "
            f"{num_mined.count(0):,} none."
        )
    return [
        {
            "anchor": anchor,
            "positive": group[POSITIVE],
            "negative": [*group[NEGATIVE], *(texts[number] for number in places)],
        }
        for (anchor, group), places in zip(groups.items(), mined, strict=True)
    ]


def _check(num_negatives: int, skip: int, depth: int, max_share: float, seed: int | None) -> None:
    least = {"num_negatives": (num_negatives, 1), "skip": (skip, 0), "depth": (depth, 1),
             "seed": (seed or 0, 0)}  # fmt: skip
    for name, (value, limit) in least.items():
        if value < limit:
            raise SettingsError(name, f"it is {value}", f"It is at least {limit}.")
    if skip >= depth:
        raise SettingsError("skip", f"it is {skip}", f"It is less than depth, which is {depth}.")
    if not max_share > 0:
        raise SettingsError("max_share", f"it is {max_share}", "It is more than 0.")


def _grouped(
    source: Any, columns: Mapping[str, str], settings: ReadSettings, say: Callable[[str], None]
) -> dict[str, dict[int, list[str]]]:
    """Returns the positives and negatives of each anchor, each text once, in the rows' order."""
    table = read_table(source, settings)
    found = as_rows(table, EMBEDDING_ROLES, columns, training=True, say=say)
    rows = list(found)
    groups: dict[str, dict[int, list[str]]] = {}
    for row in rows:
        check_texts(row, "ranking")
        anchor, *others = related_texts(row)
        group = groups.setdefault(anchor.text, {POSITIVE: [], NEGATIVE: []})
        for text in others:
            if text.text not in group[text.part]:
                group[text.part].append(text.text)
    scores = scores_of(rows)
    if len(scores) > 1:
        raise DataError(
            table.name,
            f'its column "{found.columns["score"]}" holds scores, such as {listed(scores[:3])}',
            "Every pair is taken for a question and its answer.",
            "Keep only those that are, and leave the column out or give it another name.",
        )
    for group in groups.values():
        group[NEGATIVE] = [text for text in group[NEGATIVE] if text not in group[POSITIVE]]
    return groups


def _vectors(
    model: TrainedModel, texts: Iterable[str], prompt_name: str, odd: Oddities[Row]
) -> Floats:
    rows = (
        Row(number, {"anchor": text, "prompt_name": prompt_name})
        for number, text in enumerate(texts)
    )
    vectors = np.stack([answer.values for answer in model.stream(rows, odd)])
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)
