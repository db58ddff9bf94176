"""Neighbours: comparing all is exact, and clusters find nearly the same."""

from __future__ import annotations

import numpy as np
import pytest

from tunewright.errors import RunError
from tunewright.retrieval.nearest import (
    CLUSTERS,
    LEAST_RECALL,
    ClusteredNeighbours,
    ExactNeighbours,
    open_neighbours,
    write_clusters,
)
from tunewright.retrieval.store import opened, opened_to_write
from tunewright.retrieval.stored import in_full

NUM_TEXTS, GROUPS = 1200, 30


@pytest.fixture
def form():
    return "float32"


@pytest.fixture
def grouped(update, tmp_path, form):
    """An index of texts in groups, with clusters, whatever their number."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    texts = {
        f"{n}": " ".join([f"group{n % GROUPS}"] * 3 + [f"word{w}" for w in rng.integers(0, 99, 3)])
        for n in range(NUM_TEXTS)
    }
    update(texts, vectors=form)
    with opened_to_write(tmp_path / "index") as store:
        write_clusters(store, exact_up_to=100)
    return tmp_path / "index"


def compared(query_D, passages_P, vectors_PD, depth):
    scores_P = vectors_PD @ query_D
    order = np.argsort(-scores_P, kind="stable")[:depth]
    return list(zip(passages_P[order].tolist(), scores_P[order].tolist(), strict=True))


def test_comparing_all_gives_the_best_in_order_and_equal_ones_in_theirs():
    rng = np.random.default_rng(1)
    vectors_PD = rng.integers(-1, 2, (50, 4)).astype(np.float32)  # many are equally near
    passages_P = np.arange(100, 150)
    neighbours = ExactNeighbours(passages_P, vectors_PD)
    for depth in (1, 7, 50, 80):
        for query_D in vectors_PD[:9]:
            expected = compared(query_D, passages_P, vectors_PD, depth)
            assert neighbours.nearest(query_D, depth) == expected


def test_only_allowed_passages_are_found():
    neighbours = ExactNeighbours(np.array([1, 5, 9]), np.eye(3, dtype=np.float32))
    found = neighbours.nearest(np.array([1, 0.5, 0.2], np.float32), 2, np.array([5, 9, 11]))
    assert [passage for passage, _ in found] == [5, 9]


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_clusters_find_nearly_what_comparing_all_finds(grouped):
    with opened(grouped) as store:
        about = store.setting(CLUSTERS)
        clustered = open_neighbours(store, exact_up_to=100)
        exact = ExactNeighbours.of(store)
        assert isinstance(clustered, ClusteredNeighbours)
        vectors_PD = in_full(exact.vectors_PD)
        vector_of = dict(zip(exact.passages_P.tolist(), vectors_PD, strict=True))
        hits = []
        for query_D in vectors_PD[3::40]:
            least = exact.nearest(query_D, 10)[-1][1]
            found = clustered.nearest(query_D, 10)
            hits += [score >= least - 1e-6 for _, score in found]
            scores = [float(query_D @ vector_of[passage]) for passage, _ in found]
            assert [score for _, score in found] == pytest.approx(scores, abs=1e-6)
    assert about["recall"] >= LEAST_RECALL
    assert len(hits) == 300
    assert np.mean(hits) >= LEAST_RECALL - 0.02  # other queries than those it was measured on


def test_clusters_keep_to_what_is_allowed(grouped, monkeypatch):
    monkeypatch.setattr("tunewright.retrieval.nearest.EXACT_AMONG", 10)
    with opened(grouped) as store:
        allowed_A = np.arange(1, NUM_TEXTS, 2)
        exact = ExactNeighbours.of(store)
        query_D = exact.vectors_PD[0]
        found = open_neighbours(store, exact_up_to=100).nearest(query_D, 10, allowed_A)
        best = exact.nearest(query_D, 1, allowed_A)[0]
    assert len(found) == 10
    assert {passage % 2 for passage, _ in found} == {1}
    assert found[0][1] == pytest.approx(best[1])


def test_clusters_that_an_update_left_behind_are_not_used_and_are_made_anew(grouped, update):
    update({"new": "something new"}, add=True)
    with opened(grouped) as store:
        assert isinstance(open_neighbours(store, exact_up_to=100), ExactNeighbours)
    with opened_to_write(grouped) as store:
        write_clusters(store, exact_up_to=100)
    assert [path.name for path in grouped.glob("*.faiss")] == ["clusters-2.faiss"]
    with opened(grouped) as store:
        assert isinstance(open_neighbours(store, exact_up_to=100), ClusteredNeighbours)


def test_clusters_that_are_not_as_they_were_written_are_refused(grouped):
    (path,) = grouped.glob("*.faiss")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with opened(grouped) as store, pytest.raises(RunError) as caught:
        open_neighbours(store, exact_up_to=100)
    assert str(caught.value) == (
        f"{path}: it is not as it was written. The index is damaged. "
        "Index the texts into a new folder."
    )


def test_without_faiss_all_are_compared(grouped, monkeypatch):
    monkeypatch.setattr("tunewright.retrieval.nearest.find_spec", lambda name: None)
    with opened(grouped) as store:
        assert isinstance(open_neighbours(store, exact_up_to=100), ExactNeighbours)


def test_a_small_index_has_no_clusters(update, tmp_path):
    update()
    assert list((tmp_path / "index").glob("*.faiss")) == []
