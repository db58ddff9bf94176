from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tunewright as tw
from tests.tiny import tiny_sentence_model
from tunewright.errors import DataError, SettingsError, TunewrightWarning
from tunewright.mining import hard_negatives, mine_negatives
from tunewright.models.files.sentence_folder import SentenceSettings
from tunewright.tasks.reranking import Reranking
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.types import Row

# Cosines with the query (1, 0): 0.9 (relevant), 0.98, 0.84, 0.6, 0.1, -1.
DOCUMENTS = np.array([[c, (1 - c * c) ** 0.5] for c in (0.9, 0.98, 0.84, 0.6, 0.1, -1)], np.float32)
QUERY = np.array([[1, 0]], np.float32)


def mined(relevant=({0},), excluded=None, **settings):
    (found,) = hard_negatives(QUERY, DOCUMENTS, list(relevant), excluded, **settings)
    return found.tolist()


def test_what_is_nearly_as_near_as_the_positive_is_passed_over():
    assert mined() == [2, 3, 4]
    assert mined(max_share=1.0) == [2, 3, 4]
    assert mined(max_share=np.inf) == [1, 2, 3]
    assert mined(max_share=0.9) == [3, 4, 5]


def test_the_farthest_of_several_positives_is_the_measure():
    assert mined(({0, 3},)) == [4, 5]


def test_a_negative_similarity_of_the_positive_has_a_lower_limit_too():
    assert mined(({5},), max_share=0.95) == []


def test_skip_and_depth_count_documents_that_are_not_relevant():
    assert mined(skip=2) == [3, 4, 5]
    assert mined(depth=3) == [2, 3]
    assert mined(num_negatives=1) == [2]
    assert mined(excluded=[{2}]) == [3, 4, 5]


def test_a_seed_draws_among_the_near_ones():
    drawn = {tuple(mined(num_negatives=2, seed=seed)) for seed in range(30)}
    assert drawn == {(2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)}
    assert mined(num_negatives=2, seed=3) == mined(num_negatives=2, seed=3)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 100))
def test_many_queries_get_what_each_gets_alone(num_queries, num_documents, seed):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(num_queries, 4)).astype(np.float32)
    documents = rng.normal(size=(num_documents, 4)).astype(np.float32)
    relevant = [{int(place)} for place in rng.integers(num_documents, size=num_queries)]
    together = hard_negatives(queries, documents, relevant, depth=10)
    for number in (0, num_queries - 1):
        similarity = documents @ queries[number]
        own = similarity[list(relevant[number])].min()
        expected = [place for place in np.argsort(-similarity) if place not in relevant[number]][
            :10
        ]
        allowed = [p for p in expected if similarity[p] <= own - 0.05 * abs(own) + 1e-6]
        assert together[number].tolist() == allowed[:3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    settings = SentenceSettings("mean", True, 32, "find: ", "")
    return tw.load(tiny_sentence_model(tmp_path_factory.mktemp("mining") / "model", settings))


PAIRS = [
    {"query": "good film", "answer": "a fine movie"},
    {"query": "the bank card", "answer": "lose the card"},
    {"query": "good film", "answer": "a great story"},
    {"query": "a new book", "answer": "good film"},
    {"query": "win", "answer": "win the match"},
]


def test_mined_rows_train_an_embedding_and_a_reranker(model):
    rows = mine_negatives(model, PAIRS, num_negatives=2, max_share=np.inf, say=len)
    assert [row["anchor"] for row in rows] == ["good film", "the bank card", "a new book", "win"]
    assert rows[0]["positive"] == ["a fine movie", "a great story"]
    for row in rows:
        assert len(row["negative"]) == 2
        assert not {row["anchor"], *row["positive"]} & set(row["negative"])
    learned = SentenceEmbedding(objective="triplet").learn(
        [Row(number, row) for number, row in enumerate(rows)]
    )
    assert learned.objective == "triplet"
    asked = [Row(n, {"query": row.pop("anchor"), **row}) for n, row in enumerate(rows)]
    assert Reranking().learn(asked).objective == "listwise"


def test_negatives_that_a_row_has_already_come_first(model):
    pairs = [{**pair, "negative": "stock"} for pair in PAIRS]
    rows = mine_negatives(model, pairs, num_negatives=1, max_share=np.inf, say=len)
    assert all(row["negative"][0] == "stock" and len(row["negative"]) == 2 for row in rows)


def test_what_a_row_has_already_is_not_mined_again(model):
    pairs = [{"anchor": "win", "positive": "win the match", "negative": ["stock", "win the match"]}]
    said = []
    (row,) = mine_negatives(
        model, pairs, documents=["stock", "the goal"], max_share=np.inf, say=said.append
    )
    assert row == {
        "anchor": "win", "positive": ["win the match"], "negative": ["stock", "the goal"]
    }  # fmt: skip
    assert said[-1] == "1 of 1 row got fewer than 3 negatives, 0 none."


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"num_negatives": 0}, "num_negatives: it is 0. It is at least 1."),
        ({"seed": -1}, "seed: it is -1. It is at least 0."),
        ({"skip": 7, "depth": 7}, "skip: it is 7. It is less than depth, which is 7."),
    ],
)
def test_a_setting_out_of_its_range_is_refused(model, asked, found):
    with pytest.raises(SettingsError) as caught:
        mine_negatives(model, PAIRS, **asked)
    assert str(caught.value) == found


def test_scored_pairs_are_not_taken_for_answers(model):
    scored = [{**pair, "label": number % 2} for number, pair in enumerate(PAIRS)]
    with pytest.raises(DataError, match=r'its column "label" holds scores, such as "0", "1"\.'):
        mine_negatives(model, scored, say=len)


def test_the_columns_may_be_named(model):
    pairs = [{"a": pair["query"], "b": pair["answer"]} for pair in PAIRS]
    named = mine_negatives(model, pairs, {"anchor": "a", "positive": "b"}, say=len)
    with pytest.warns(TunewrightWarning) as told:
        assert named == mine_negatives(model, PAIRS)
    assert [str(each.message) for each in told] == [
        'list: the column "query" is taken as anchor.',
        'list: the column "answer" is taken as positive.',
        "4 of 4 rows got fewer than 3 negatives, 1 none.",
    ]


def test_a_row_without_a_positive_and_a_model_of_another_task_are_refused(model, tiny_folder):
    with pytest.raises(DataError, match="it has no second text"):
        mine_negatives(model, [*PAIRS, {"query": "a", "answer": None}], say=len)

    class Other:
        folder = "runs/other/model"
        predictor = type("Asked", (), {"task": Reranking()})()

    with pytest.raises(SettingsError) as caught:
        mine_negatives(Other(), PAIRS)
    assert str(caught.value) == (
        "runs/other/model: it is a model of reranking. Only one of sentence-embedding says which "
        'texts are near. Use tunewright.load("starter"), or train one.'
    )


def test_a_folder_of_sentence_transformers_is_loaded_and_measured_untrained(model):
    assert model.predictor.task.query_prompt == "find: "
    assert model.predictor.task.max_length == 32
    found = model.evaluate(PAIRS, {"anchor": "query", "positive": "answer"}).metrics
    assert next(iter(found)) == "ndcg@10"
    scored = [
        {"anchor": pair["query"], "positive": pair["answer"], "score": n}
        for n, pair in enumerate(PAIRS)
    ]
    assert list(model.evaluate(scored).metrics) == ["spearman", "pearson"]
