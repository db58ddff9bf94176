"""Judged queries in BEIR's form: read rightly, and measured as the reference measures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from tests.retrieval.embedders import WordCounts, place_of
from tunewright.errors import DataError
from tunewright.metrics.ranking import ranked_relevance, ranking_figures, ranking_metrics
from tunewright.retrieval.documents import read_documents
from tunewright.retrieval.embedder import encoded
from tunewright.retrieval.indexing import update_index
from tunewright.retrieval.judging import JudgedQueries
from tunewright.retrieval.search_index import Question, load_index

NUM_DOCUMENTS, NUM_QUERIES = 60, 25


class Unlike(WordCounts):
    """Counts words, too, but no two texts have the same vector: no ranking hangs on rounding."""

    def _vector(self, text):
        noise = np.random.default_rng(place_of(text)).normal(0, 0.05, 32)
        return super()._vector(text) + noise.astype(np.float32)


def write_lines(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def beir(tmp_path):
    """A folder in BEIR's form, and what is in it: corpus, queries, gains by query."""
    rng = np.random.default_rng(3)
    corpus = {
        f"d{n}": " ".join(f"w{w}" for w in rng.integers(0, 25, rng.integers(3, 12)))
        for n in range(NUM_DOCUMENTS)
    }
    queries = {
        f"q{n}": " ".join(f"w{w}" for w in rng.integers(0, 25, 3)) for n in range(NUM_QUERIES)
    }
    gains = {
        query: {f"d{d}": int(rng.integers(0, 4)) for d in rng.choice(NUM_DOCUMENTS, 6, False)}
        for query in list(queries)[:-1]
    }
    folder = tmp_path / "beir"
    write_lines(folder / "corpus.jsonl", [{"_id": k, "title": "", "text": t} for k, t in
                                          corpus.items()])  # fmt: skip
    write_lines(folder / "queries.jsonl", [{"_id": k, "text": t} for k, t in queries.items()])
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [f"{q}\t{d}\t{gain}" for q, found in gains.items() for d, gain in found.items()]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder, corpus, queries, gains


@pytest.fixture
def index(beir, tmp_path):
    update_index(tmp_path / "index", read_documents(beir[0] / "corpus.jsonl"), Unlike())
    with load_index(tmp_path / "index", embedder=Unlike()) as found:
        yield found


def test_only_judged_queries_and_relevant_documents_are_kept(beir):
    folder, _, queries, gains = beir
    judged = JudgedQueries.read(folder)

    assert set(judged.texts) == {query for query in gains if any(gains[query].values())}
    assert judged.texts["q3"] == queries["q3"]
    assert judged.gains["q3"] == {d: float(g) for d, g in gains["q3"].items() if g}


def test_the_metrics_of_a_dense_search_are_those_of_ranking_all_documents(beir, index):
    folder, corpus, _, _ = beir
    quality = index.evaluate(folder, Question(mode="dense"))

    judged = JudgedQueries.read(folder)
    vectors_KD = encoded(Unlike(), list(corpus.values()), "document")
    queries_QD = encoded(Unlike(), list(judged.texts.values()), "query")
    places = {key: place for place, key in enumerate(corpus)}
    relevant_Q = [{places[d]: g for d, g in judged.gains[q].items()} for q in judged.texts]
    relevance_QT = ranked_relevance(queries_QD, vectors_KD, relevant_Q)
    expected = ranking_metrics(ranking_figures(relevance_QT, [
        [*row.values(), *[0.0] * (6 - len(row))] for row in relevant_Q]))  # fmt: skip
    assert {n: e.value for n, e in quality.metrics.items()} == pytest.approx(expected)
    assert quality.num_queries == len(judged.texts)


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_ndcg_and_reciprocal_ranks_are_those_of_the_hits_that_search_gives(beir, index, mode):
    folder, corpus, _, _ = beir
    quality = index.evaluate(folder, Question(mode=mode))
    judged = JudgedQueries.read(folder)

    ndcg, reciprocal = [], []
    for query, text in judged.texts.items():
        hits = [hit.id for hit in index.search(text, mode=mode, top=100)]
        order = hits + [key for key in corpus if key not in hits]
        true = [[judged.gains[query].get(key, 0.0) for key in order]]
        scores = [list(range(len(order), 0, -1))]
        whole = ndcg_score(true, scores, k=10)
        # What is not found at all has no place: its gain counts in the best ranking alone.
        found = sum(t / np.log2(n + 2) for n, t in enumerate(true[0][: min(10, len(hits))]))
        best = sum(t / np.log2(n + 2) for n, t in enumerate(sorted(true[0])[::-1][:10]))
        assert found / best == pytest.approx(whole) or len(hits) < 10
        ndcg.append(found / best)
        places = [n for n, key in enumerate(hits[:10], 1) if judged.gains[query].get(key)]
        reciprocal.append(1 / places[0] if places else 0.0)
    assert quality.metrics["ndcg@10"].value == pytest.approx(np.mean(ndcg))
    assert quality.metrics["mrr@10"].value == pytest.approx(np.mean(reciprocal))
    assert quality.metrics["mrr@10"].low < quality.metrics["mrr@10"].value
    assert quality.metrics["mrr@10"].value < quality.metrics["mrr@10"].high


def test_a_relevant_document_that_is_not_indexed_counts_as_not_found(beir, tmp_path):
    folder, corpus, _, _ = beir
    some = [{"id": key, "text": text} for key, text in list(corpus.items())[:30]]
    update_index(tmp_path / "half", read_documents(some), Unlike())
    with load_index(tmp_path / "half", embedder=Unlike()) as half:
        quality = half.evaluate(folder, Question(mode="dense"))

    judged = JudgedQueries.read(folder)
    relevant = {d for row in judged.gains.values() for d in row}
    missing = relevant - {row["id"] for row in some}
    assert quality.num_missing == len(missing) > 0
    assert quality.notices == (
        f"{len(missing)} relevant documents are not in the index, and count as not found.",
    )
    upper = np.mean([len(row.keys() - missing) / len(row) for row in judged.gains.values()])
    assert quality.metrics["recall@10"].value <= upper


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_a_document_with_the_id_of_the_query_is_not_ranked(beir, tmp_path, mode):
    folder, corpus, queries, _ = beir
    # As in Quora and ArguAna, where the queries are among the documents and find themselves first.
    rows = [{"id": key, "text": text} for key, text in {**corpus, **queries}.items()]
    update_index(tmp_path / "both", read_documents(rows), Unlike())
    with load_index(tmp_path / "both", embedder=Unlike()) as both:
        quality = both.evaluate(folder, Question(mode=mode))
        judged = JudgedQueries.read(folder)
        hits = {q: both.search(t, mode=mode, top=101) for q, t in judged.texts.items()}

    reciprocal = []
    for query, found in hits.items():
        others = [hit.id for hit in found if hit.id != query][:10]
        places = [n for n, key in enumerate(others, 1) if key in judged.gains[query]]
        reciprocal.append(1 / places[0] if places else 0.0)
    assert quality.metrics["mrr@10"].value == pytest.approx(np.mean(reciprocal))
    assert quality.num_own == quality.to_json()["own_documents"] == len(hits)
    assert quality.notices == (
        f"{len(hits)} queries have the id of a document, which is left out there, as in BEIR.",
    )


def test_a_hundred_other_documents_are_ranked_beside_the_query_itself(tmp_path):
    texts = {"q": "red"} | {f"d{n:03}": "red " + "x " * n for n in range(1, 131)}
    rows = [{"id": key, "text": text} for key, text in texts.items()]
    update_index(tmp_path / "index", read_documents(rows), WordCounts())
    with load_index(tmp_path / "index", embedder=WordCounts()) as found:
        last = found.search("red", mode="dense", top=101)[-1].id
        judged = JudgedQueries({"q": "red"}, {"q": {last: 1.0}}, among_documents=True)
        quality = found.evaluate(judged, Question(mode="dense"))
    assert quality.metrics["map@100"].value == pytest.approx(1 / 100)


@pytest.mark.parametrize(
    ("gains", "among_documents"),
    [({"iron": 1.0}, True), ({"bank": 1.0}, False)],
    ids=["judged to be relevant", "queries of other ids"],
)
def test_a_document_of_the_same_id_stays(tmp_path, gains, among_documents):
    rows = [{"id": "iron", "text": "a lack of iron"}, {"id": "bank", "text": "the bank"}]
    update_index(tmp_path / "index", read_documents(rows), WordCounts())
    judged = JudgedQueries({"iron": "iron"}, {"iron": gains}, among_documents)
    with load_index(tmp_path / "index", embedder=WordCounts()) as found:
        quality = found.evaluate(judged, Question(mode="dense"))
    assert quality.metrics["mrr@10"].value == (1.0 if "iron" in gains else 0.5)
    assert (quality.num_own, quality.notices) == (0, ())


def test_another_split_is_read_by_its_name(beir):
    folder = beir[0]
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    assert JudgedQueries.read(folder, "dev").gains == {"q1": {"d1": 1.0}}


def test_judgements_of_other_queries_are_refused(beir):
    folder = beir[0]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nx\td1\t1\n")
    with pytest.raises(DataError) as caught:
        JudgedQueries.read(folder)
    assert str(caught.value) == (
        f"{folder}: no query of qrels/test.tsv is in queries.jsonl. At least one has to have a "
        "relevant document."
    )


def test_a_score_that_is_no_number_is_named(beir):
    folder = beir[0]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\thigh\n")
    with pytest.raises(DataError, match=r"qrels/test\.tsv, score"):
        JudgedQueries.read(folder)


def test_a_folder_without_judgements_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"queries\.jsonl: there is no such file"):
        JudgedQueries.read(tmp_path)
