"""Searching: by meaning as cosines say, by words as BM25 says, by both, and under conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

import tunewright as tw
from tests.retrieval.conftest import TEXTS
from tests.retrieval.embedders import Reversed, WordCounts
from tunewright.errors import ModelError, SettingsError
from tunewright.retrieval.documents import Document
from tunewright.retrieval.embedder import encoded
from tunewright.retrieval.judging import JudgedQueries
from tunewright.retrieval.search_index import Question, load_index

MANY = {
    f"d{n}": " ".join(f"w{(n * step) % 13}" for step in range(1, 3 + n % 5)) for n in range(1, 40)
}


def cosines(query, texts):
    embedder = WordCounts()
    query_D = encoded(embedder, [query], "query")[0]
    return dict(
        zip(texts, encoded(embedder, list(texts.values()), "document") @ query_D, strict=True)
    )


def bm25(query, texts, k1=1.2, b=0.75):
    """Robertson & Zaragoza 2009, with the inverse document frequency of SQLite's FTS5."""
    split = {key: text.split() for key, text in texts.items()}
    mean = np.mean([len(words) for words in split.values()])
    scores = dict.fromkeys(texts, 0.0)
    for word in query.split():
        has = sum(word in words for words in split.values())
        idf = max(math.log((len(texts) - has + 0.5) / (has + 0.5)), 1e-6)
        for key, words in split.items():
            f = words.count(word)
            scores[key] += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(words) / mean))
    return {key: score for key, score in scores.items() if score}


def test_dense_scores_are_cosines_from_the_nearest_on(index):
    hits = index(MANY).search("w3 w7", top=len(MANY), mode="dense")

    expected = cosines("w3 w7", MANY)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("form", ["int8", "binary"])
def test_smaller_vectors_are_compared_with_the_query_as_it_is(index, form):
    found = index(MANY, vectors=form)
    embedder = WordCounts()
    query_D = encoded(embedder, ["w3 w7"], "query")[0]
    vectors_PD = encoded(embedder, list(MANY.values()), "document")
    full_PD = vectors_PD if form == "int8" else np.where(vectors_PD > 0, 1, -1) / np.sqrt(32)

    hits = found.search("w3 w7", top=len(MANY), mode="dense")
    expected = dict(zip(MANY, (full_PD @ query_D).tolist(), strict=True))
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=4e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_word_scores_are_bm25(index):
    hits = index(MANY).search("w3 w7 w12", top=len(MANY), mode="bm25")

    assert {hit.id: hit.score for hit in hits} == pytest.approx(bm25("w3 w7 w12", MANY), rel=1e-6)


def test_a_hybrid_search_finds_what_either_finds(index):
    found = index(TEXTS | {"odd": "zebra"})
    hits = found.search("zebra", top=9)

    assert hits[0].id == "odd"
    assert hits[0].score == pytest.approx(1.0)
    assert {hit.id for hit in hits} == {*TEXTS, "odd"}


@pytest.mark.parametrize(("weight", "mode"), [(1.0, "dense"), (0.0, "bm25")])
def test_the_ends_of_the_weight_are_the_two_ways(index, weight, mode):
    found = index(MANY)
    best = [hit.id for hit in found.search("w3 w7 w12", mode=mode, top=3)]
    assert [hit.id for hit in found.search("w3 w7 w12", weight=weight, top=3)] == best


def test_a_document_is_found_once_by_its_best_passage(index):
    texts = {"long": "red red green green blue blue", "other": "grey grey"}
    found = index(texts, passage_tokens=2, stride=0)
    for mode in ("dense", "bm25", "hybrid"):
        hits = [hit for hit in found.search("green", mode=mode) if hit.id == "long"]
        assert [(hit.text, hit.start, hit.end) for hit in hits] == [("green green", 8, 19)]


def test_a_document_of_many_passages_does_not_crowd_out_others(index):
    texts = {"long": "red " * 400, "other": "red green"}
    found = index(texts, passage_tokens=2, stride=0)
    assert {hit.id for hit in found.search("red", top=2, mode="dense")} == {"long", "other"}


def years():
    rows = [("a", 2019, True), ("b", 2020, False), ("c", 2021, None)]
    return [Document(key, f"a film of {y}", {"year": y, "new": n}, key) for key, y, n in rows]


@pytest.mark.parametrize("form", ["int8", "binary"])
def test_conditions_leave_smaller_vectors_out(index, form):
    hits = index(years(), vectors=form).search("film", where=["year>=2020"], mode="dense")
    assert {hit.id for hit in hits} == {"b", "c"}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["year>=2020"], {"b", "c"}),
        (["year>=2020", "year<2021"], {"b"}),
        (["new=true"], {"a"}),
        (["new!=true"], {"b", "c"}),
        (["year>2030"], set()),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_conditions_leave_documents_out(index, where, expected, mode):
    hits = index(years()).search("film", where=where, mode=mode)
    assert {hit.id for hit in hits} == expected


def test_an_unknown_column_is_named_with_the_nearest(index):
    with pytest.raises(SettingsError) as caught:
        index(years()).search("film", where=["yaer>=2020"])
    assert str(caught.value) == (
        '--where: the documents have no column "yaer". They have "new", "year". '
        'Did you mean "year"?'
    )


@pytest.mark.parametrize("query", ["", "  ", "\n"])
def test_a_blank_query_finds_nothing(index, query):
    assert index().search(query) == []


@pytest.mark.parametrize("query", ["?!", "'; drop table words; --", "a AND (b", '"', "\ud800", "*"])
@pytest.mark.parametrize("mode", ["hybrid", "bm25"])
def test_odd_queries_are_only_words(index, query, mode):
    found = index()
    if query == "\ud800":
        query = query.encode("utf-8", "replace").decode()
    found.search(query, mode=mode)
    assert len(found.search("iron", mode="bm25")) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"top": 0}, "top: it is 0. It is at least 1."),
        ({"mode": "fuzzy"}, 'mode: it is "fuzzy". It is one of "hybrid", "dense", "bm25".'),
        ({"weight": 1.5}, "weight: it is 1.5. It is from 0 to 1."),
        ({"weight": float("nan")}, "weight: it is nan. It is from 0 to 1."),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, message):
    with pytest.raises(SettingsError) as caught:
        Question(**asked)
    assert str(caught.value) == message


@dataclass
class Longest:
    """Puts the longest text first, and says what it was given."""

    seen: int = 0

    def reranked(self, query, hits, weight):
        assert weight == 1.0
        self.seen = len(hits)
        ordered = sorted(hits, key=lambda hit: -len(hit.text))
        return [replace(hit, score=float(len(hit.text))) for hit in ordered]


def test_a_reranker_reads_the_best_50_and_orders_them_anew(index):
    texts = {f"d{n}": "red " + "x" * n for n in range(1, 80)}
    reranker = Longest()
    hits = index(texts).search("red", top=3, reranker=reranker)

    assert reranker.seen == 50
    assert len(hits) == 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("top", [3, 70])
def test_what_is_measured_of_a_reranker_is_what_search_shows(index, top):
    texts = {f"d{n}": "red " + "x" * n for n in range(1, 130)}
    found, reranker = index(texts), Longest()
    question = Question(top=top, reranker=reranker)
    shown = [hit.id for hit in found.answers(["red"], question)[0]]
    num_read = reranker.seen
    judged = JudgedQueries({"q": "red"}, {"q": dict.fromkeys(shown[:2], 1.0) | {"d129": 1.0}})
    quality = found.evaluate(judged, question)

    assert reranker.seen == num_read == max(top, 50)
    assert quality.metrics["mrr@10"].value == 1.0
    assert quality.metrics["recall@5"].value == pytest.approx(
        len(judged.gains["q"].keys() & set(shown[:5])) / len(judged.gains["q"])
    )


def test_the_documents_that_a_reranker_did_not_read_are_measured_behind_the_others(index):
    texts = {f"d{n}": "red " + "x" * n for n in range(1, 130)}
    found = index(texts)
    before = [hit.id for hit in found.search("red", top=100)]
    after = [hit.id for hit in found.search("red", top=50, reranker=Longest())]
    last = before[99]
    judged = JudgedQueries({"q": "red"}, {"q": {after[0]: 1.0, last: 1.0}})
    quality = found.evaluate(judged, Question(reranker=Longest()))

    assert set(before[:50]) == set(after)
    assert last not in after
    assert quality.metrics["map@100"].value == pytest.approx((1 + 2 / 100) / 2)


def test_many_queries_are_answered_as_each_alone(index):
    found = index(MANY)
    queries = ["w3", "w7 w8", ""]
    together = found.answers(queries, Question(top=5))
    assert [[h.id for h in hits] for hits in together] == [
        [h.id for h in found.search(query, top=5)] for query in queries
    ]


def test_an_index_of_your_own_embedder_needs_it_again(update, tmp_path):
    update()
    with load_index(tmp_path / "index") as found:
        assert [hit.id for hit in found.search("goal", mode="bm25")] == ["goal"]
        with pytest.raises(SettingsError) as caught:
            found.search("goal")
    assert str(caught.value).endswith(
        "it was made by an embedder of your own. Give it in Python, as embedder=..."
    )


def test_an_embedder_that_counts_as_empty_is_used(tmp_path):
    class Empty(WordCounts):
        def __len__(self):
            return 0

    found = tw.index(["the goal"], tmp_path / "index", embedder=Empty())
    assert [hit.text for hit in found.search("goal", mode="dense")] == ["the goal"]
    with pytest.raises(SettingsError, match="an embedder of your own"):
        tw.index(["a plot"], tmp_path / "index", add=True)


def test_another_model_is_not_searched_with(update, tmp_path):
    update()
    with (
        load_index(tmp_path / "index", embedder=Reversed()) as found,
        pytest.raises(ModelError, match="this model gives other vectors"),
    ):
        found.search("goal")


def test_queries_and_documents_may_be_embedded_unlike(update, tmp_path):
    class Marked(WordCounts):
        def encode_query(self, texts):
            return self.encode([text.removeprefix("find ") for text in texts])

    update(embedder=Marked())
    with load_index(tmp_path / "index", embedder=Marked()) as found:
        assert found.search("find goal", mode="dense")[0].score == pytest.approx(
            cosines("goal", TEXTS)["goal"], abs=1e-5
        )


def test_an_index_in_a_folder_that_cannot_be_written_to_is_searched(update, tmp_path):
    update()
    folder = tmp_path / "index"
    folder.chmod(0o500)
    try:
        with load_index(folder, embedder=WordCounts()) as found:
            assert found.search("goal")[0].id == "goal"
    finally:
        folder.chmod(0o700)


def test_chinese_is_found_by_its_characters(index):
    found = index({"a": "这家酒店的房间很干净", "b": "电影很好看"})
    assert [hit.id for hit in found.search("酒店", mode="bm25")] == ["a"]
