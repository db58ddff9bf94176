"""The passages nearest to a query: by comparing all, or in large indexes by clusters (faiss).

    ExactNeighbours.of(store).nearest(query_D, depth=10)  ->  [(passage, cosine), ...]

Clusters (an inverted file, Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search")
hold 8-bit codes; a query looks into the clusters nearest to it, and what it finds there is compared
by the vectors as they are stored. How many clusters that takes is measured on the index itself.

Shape letters: P passages, A passages that are allowed, Q queries, D numbers of a vector, B bytes of
one that is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from tunewright.data.formats.sources import sha256_of
from tunewright.models.files.manifest import flush
from tunewright.retrieval.store import Floats, Numbers, Store, damaged, faults_named
from tunewright.retrieval.stored import Bytes, StoredVectors, in_full, stored_vectors

Neighbour = tuple[int, float]

EXACT_UP_TO = 200_000
"""Passages that a query is compared with one by one: 25 ms for 384 numbers on one core."""

EXACT_AMONG = 20_000
"""Where filters leave no more than this, those are compared one by one in large indexes, too."""

CLUSTERS = "clusters"
LEAST_RECALL = 0.98  # of the true 10 nearest, over sampled passages
NUM_SAMPLED, NUM_TRUE = 200, 10
SAME_SCORE = 1e-6  # what the order of additions changes in a cosine
VECTORS_PER_CLUSTER = 64  # that the clusters are found from
READ_AT_ONCE = 50_000


class Neighbours(Protocol):
    """Finds the passages nearest to a vector."""

    def nearest(
        self, query_D: Floats, depth: int, allowed_A: Numbers | None = None
    ) -> list[Neighbour]:
        """Returns at most `depth` passages and their cosines, the nearest first."""


@dataclass(frozen=True)
class ExactNeighbours:
    """All vectors in memory; `passages_P` are their passages' numbers, ascending."""

    passages_P: Numbers
    vectors_PD: StoredVectors

    @classmethod
    def of(cls, store: Store, numbers: list[int] | None = None) -> Self:
        """Reads the vectors of all passages, or of some."""
        parts = list(_read_stored(store, numbers))
        if not parts:
            return cls(np.zeros(0, np.int64), np.zeros((0, 0), np.float32))
        passages_P, raws_PB = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(passages_P, stored_vectors(raws_PB, *store.vector_form))

    def nearest(
        self, query_D: Floats, depth: int, allowed_A: Numbers | None = None
    ) -> list[Neighbour]:
        passages_P, vectors_PD = self.passages_P, self.vectors_PD
        if allowed_A is not None:
            is_allowed_P = np.isin(passages_P, allowed_A)
            passages_P, vectors_PD = passages_P[is_allowed_P], vectors_PD[is_allowed_P]
        return _top(passages_P, vectors_PD @ query_D, depth) if len(passages_P) else []


def _top(passages_P: Numbers, scores_P: Floats, depth: int) -> list[Neighbour]:
    """Returns the best, those with equal scores in the order of their passages."""
    if depth < len(scores_P):
        least = np.partition(scores_P, -depth)[-depth]
        near = np.flatnonzero(scores_P >= least)
        passages_P, scores_P = passages_P[near], scores_P[near]
    order = np.argsort(-scores_P, kind="stable")[:depth]
    return list(zip(passages_P[order].tolist(), scores_P[order].tolist(), strict=True))


def _read_stored(store: Store, numbers: list[int] | None = None) -> Iterator[tuple[Numbers, Bytes]]:
    """Yields the numbers of passages and the bytes of their vectors, many at once."""
    rows = store.vectors(numbers)
    while part := list(islice(rows, READ_AT_ONCE)):
        flat = np.frombuffer(b"".join(raw for _, _, raw in part), np.uint8)
        yield np.array([number for number, _, _ in part]), flat.reshape(len(part), -1)


def _read(store: Store) -> Iterator[tuple[Numbers, Floats]]:
    """Yields the numbers of all passages and what their vectors stand for, many at once."""
    form = store.vector_form
    for passages_P, raws_PB in _read_stored(store):
        yield passages_P, in_full(stored_vectors(raws_PB, *form))


@dataclass(frozen=True)
class ClusteredNeighbours:
    """The clusters of a large index; the vectors stay on the disk."""

    store: Store
    clusters: Any
    num_probes: int

    def nearest(
        self, query_D: Floats, depth: int, allowed_A: Numbers | None = None
    ) -> list[Neighbour]:
        found_A = allowed_A
        if found_A is None or len(found_A) > EXACT_AMONG:
            found_A = self._candidates(query_D, 2 * depth, allowed_A)
        return ExactNeighbours.of(self.store, found_A.tolist()).nearest(query_D, depth)

    def _candidates(self, query_D: Floats, depth: int, allowed_A: Numbers | None) -> Numbers:
        """Returns the nearest passages by their 8-bit codes, in no order."""
        import faiss

        settings = faiss.SearchParametersIVF()
        settings.nprobe = self.num_probes
        chosen = None if allowed_A is None else faiss.IDSelectorBatch(allowed_A)
        if chosen is not None:
            settings.sel = chosen
        _, found_1A = self.clusters.search(query_D[None], depth, params=settings)
        numbers: Numbers = found_1A[0]
        return numbers[numbers >= 0]


def open_neighbours(store: Store, exact_up_to: int = EXACT_UP_TO) -> Neighbours:
    """Returns the clusters of an index where it has them and they are up to date, else all vectors.

    Raises RunError when the file of the clusters is not as it was written.
    """
    about = store.setting(CLUSTERS) or {}
    is_current = about.get("generation") == store.generation
    if store.num_passages <= exact_up_to or not is_current or find_spec("faiss") is None:
        return ExactNeighbours.of(store)
    import faiss

    path = _path(store, about["generation"])
    if not path.is_file() or sha256_of(path) != about["sha256"]:
        raise damaged(path, "it is not as it was written")
    return ClusteredNeighbours(store, faiss.read_index(str(path)), about["num_probes"])


def write_clusters(store: Store, exact_up_to: int = EXACT_UP_TO) -> None:
    """Brings the clusters of a large index up to date; without faiss there are none.

    The file appears whole, under the name of the generation that it belongs to.
    """
    if find_spec("faiss") is None or store.num_passages <= exact_up_to:
        return
    import faiss

    generation = store.generation
    if (store.setting(CLUSTERS) or {}).get("generation") == generation:
        return
    clusters = _built(store)
    num_probes, recall = _probes(store, clusters)
    path = _path(store, generation)
    partial = path.with_suffix(".partial")
    with faults_named(path):
        try:
            partial.write_bytes(faiss.serialize_index(clusters).tobytes())
            flush(partial)
            sha256 = sha256_of(partial)
            partial.replace(path)
            flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    about = {"generation": generation, "sha256": sha256, "num_probes": num_probes, "recall": recall}
    store.set(**{CLUSTERS: about})
    for old in path.parent.glob(f"{CLUSTERS}-*.faiss"):
        if old != path:
            old.unlink()


def _path(store: Store, generation: int) -> Path:
    return store.path.with_name(f"{CLUSTERS}-{generation}.faiss")


def _built(store: Store) -> Any:
    """Finds clusters from some of the vectors and puts all of them in."""
    import faiss

    num_clusters = int(4 * store.num_passages**0.5)
    step = max(1, store.num_passages // (VECTORS_PER_CLUSTER * num_clusters))
    sample = np.concatenate([vectors_PD[::step] for _, vectors_PD in _read(store)])
    clusters = faiss.index_factory(
        sample.shape[1], f"IVF{num_clusters},SQ8", faiss.METRIC_INNER_PRODUCT
    )
    clusters.train(sample)
    for passages_P, vectors_PD in _read(store):
        clusters.add_with_ids(vectors_PD, passages_P)
    return clusters


def _probes(store: Store, clusters: Any) -> tuple[int, float]:
    """Returns how many clusters a query has to look into, and the recall that gives."""
    queries_QD = _sampled(store)
    farthest_Q = _farthest(store, queries_QD)
    num_probes = 8
    while True:
        neighbours = ClusteredNeighbours(store, clusters, num_probes)
        found = [neighbours.nearest(query_D, NUM_TRUE) for query_D in queries_QD]
        hits = [
            sum(score >= least - SAME_SCORE for _, score in near)
            for near, least in zip(found, farthest_Q, strict=True)
        ]
        recall = float(np.mean(hits)) / min(NUM_TRUE, store.num_passages)
        if recall >= LEAST_RECALL or num_probes >= clusters.nlist:
            return num_probes, recall
        num_probes *= 2


def _sampled(store: Store) -> npt.NDArray[np.float32]:
    step = max(1, store.num_passages // NUM_SAMPLED)
    parts = [vectors_PD[passages_P % step == 0] for passages_P, vectors_PD in _read(store)]
    return np.concatenate(parts)


def _farthest(store: Store, queries_QD: Floats) -> list[float]:
    """Returns the cosine of the last of each query's 10 nearest, comparing all.

    What is as near as that is found rightly, whichever of equals it is.
    """
    best: list[list[float]] = [[] for _ in queries_QD]
    for part in _read(store):
        exact = ExactNeighbours(*part)
        for place, query_D in enumerate(queries_QD):
            near = [score for _, score in exact.nearest(query_D, NUM_TRUE)]
            best[place] = sorted([*best[place], *near], reverse=True)[:NUM_TRUE]
    return [scores[-1] for scores in best]
