"""Where the right text of each query stands, and what came first, as a report shows it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks.examples import rows_of
from tunewright.answers import Ranking, Relevance, Similarity
from tunewright.figures import Mistake
from tunewright.tasks.reranking import Reranking
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.tasks.shared.rankings import place_bars

LISTS = rows_of(
    [
        {"query": "film", "positive": "a movie", "negative": ["the bank", "a card"]},
        {"query": "game", "text": ["slow", "the goal"], "label": [0, 1]},
        {"query": "book", "text": ["the plot", "a goal"], "label": [1, 0]},
        {"query": "rain", "text": ["a story", "the team"], "label": [0, 0]},
    ]
)
RANKED = [Ranking((0.5,) * len(each), each) for each in ([-1, 1, 2], [3, 1], [2, 1], [1, 2])]
TEXTS = rows_of(
    [
        {"query": "film", "text": "the bank", "label": 0},
        {"query": "game", "text": "the goal", "label": 1},
        {"query": "film", "text": "a movie", "label": 1},
    ]
)
PAIRS = rows_of(
    [
        {"anchor": "film", "positive": ["a movie", "a picture"]},
        {"anchor": "bank", "positive": "money"},
        {"anchor": "film", "positive": "a reel"},
    ]
)


def stacked(task, answers, rows):
    return task.stack([task.statistics(*pair) for pair in zip(answers, rows, strict=True)])


def similarities(*vectors):
    return [Similarity((0.0,), np.array(each, np.float32)) for each in vectors]


# The anchor "film" is nearest to "money", and of its own texts to "a reel".
EMBEDDED = similarities(
    [[1, 0], [0, 1], [-1, 0]], [[1, 0.1], [1, 0.1]], [[1, 0], [1, 0.5]]
)  # fmt: skip


def test_the_queries_whose_right_text_is_farthest_down_come_first():
    task = Reranking().learn(LISTS)
    statistics = stacked(task, RANKED, LISTS)
    expected = [
        Mistake("rows.csv, line 2", "film", "place 3: a movie", "place 1: a card", None),
        Mistake("rows.csv, line 3", "game", "place 2: the goal", "place 1: slow", None),
    ]
    assert task.mistakes(statistics, LISTS, 5) == (2, expected)
    assert task.mistakes(statistics, LISTS, 1) == (2, expected[:1])


def test_the_places_of_the_right_texts_are_counted_by_query():
    task = Reranking().learn(LISTS)
    (bars,) = task.figures(stacked(task, RANKED, LISTS))
    assert dict(bars.values) == {"place 1": 1, "place 2": 1, "place 3": 1}
    assert (bars.unit, bars.note) == ("queries", "1 more have no right text.")


def test_rows_of_one_text_are_a_query_together_and_it_is_told_once():
    task = Reranking().learn(TEXTS)
    statistics = stacked(
        task, [Relevance(0.9, 2.0), Relevance(0.1, -2.0), Relevance(0.5, 0.0)], TEXTS
    )
    assert task.mistakes(statistics, TEXTS, 5) == (
        1,
        [Mistake("rows.csv, line 2", "film", "place 2: a movie", "place 1: the bank", None)],
    )
    (bars,) = task.figures(statistics)
    assert dict(bars.values) == {"place 1": 1, "place 2": 1}


def test_where_every_ranking_is_right_each_text_is_judged_by_itself():
    task = Reranking().learn(TEXTS)
    answers = [Relevance(0.7, 1.0), Relevance(0.8, 1.5), Relevance(0.9, 2.0)]
    assert task.mistakes(stacked(task, answers, TEXTS), TEXTS, 5) is None
    assert task.severity(answers[0], TEXTS[0]) == 0.7


def test_the_best_of_several_grades_is_the_right_text():
    rows = rows_of([{"query": "a", "text": ["b", "c", "d"], "label": [1, 2, 0]}])
    task = Reranking().learn(rows)
    statistics = stacked(task, [Ranking((0.5,) * 3, (3.0, 2.0, 1.0))], rows)
    assert statistics["right_place"].tolist() == [2]
    assert statistics["mrr@10"].tolist() == [1]


def test_an_anchor_s_worst_is_the_positive_of_another_row():
    task = SentenceEmbedding().learn(PAIRS)
    statistics = stacked(task, EMBEDDED, PAIRS)
    found = (1, [Mistake("rows.csv, line 2", "film", "place 2: a reel", "place 1: money", None)])
    assert task.mistakes(statistics, PAIRS, 5) == found
    (bars,) = task.figures(statistics)
    assert dict(bars.values) == {"place 1": 1, "place 2": 1}


def test_scored_pairs_are_judged_one_by_one():
    rows = rows_of([{"anchor": "a", "positive": "b", "score": n} for n in (0, 1)])
    task = SentenceEmbedding().learn(rows)
    assert task.mistakes({"true": np.ones(2), "predicted": np.ones(2)}, rows, 5) is None


def test_texts_farther_than_a_hundred_others_stand_beyond():
    values = [{"anchor": f"a{n}", "positive": f"b{n}"} for n in range(120)]
    rows, angles = rows_of(values), np.linspace(0.1, 3, 120)
    far = [[[1, 0], [np.cos(angle), np.sin(angle)]] for angle in angles]
    task = SentenceEmbedding().learn(rows)
    statistics = stacked(task, similarities(*far), rows)
    (bars,) = task.figures(statistics)
    assert dict(bars.values) == {
        **{"place 1": 1, "place 2": 1, "place 3": 1},
        **{"4 to 5": 2, "6 to 10": 5, "11 to 100": 90, "beyond 100": 20},
    }
    number, (worst,) = task.mistakes(statistics, rows, 1)
    assert (number, worst.true) == (119, "beyond place 100: b100")


@pytest.mark.parametrize("statistics", [{}, {"right_place": np.array([np.nan]),
                                             "query_row": np.array([0])}])  # fmt: skip
def test_without_a_right_text_nothing_is_drawn(statistics):
    assert place_bars(statistics) == []
