"""What an evaluation says beside its metrics: slices by length and the worst mistakes."""

from __future__ import annotations

from tests.tasks.examples import rows_of
from tunewright.answers import Entities, Entity, Generated, Number, Ranking
from tunewright.run.judging.judge import Judge, Tally
from tunewright.run.pages import mistakes_of
from tunewright.tasks.multiple_choice import MultipleChoice
from tunewright.tasks.regression import Regression
from tunewright.tasks.reranking import Reranking
from tunewright.tasks.token_classification import TokenClassification
from tunewright.tasks.translation import Translation

TAGGED = rows_of(
    [
        {"tokens": ["Ada", "met", "Bo"], "tags": ["B-a", "O", "B-a"]},
        {"tokens": ["电", "影", "很", "好"], "tags": ["B-a", "I-a", "O", "O"]},
        {"text": "Ada left.", "entities": [[0, 3, "a"]]},
    ]
)


def judged(task, answers, rows):
    tally = Tally(task, 5)
    for row, answer in zip(rows, answers, strict=True):
        tally.add(row, answer)
    return Judge(num_resamples=10).measure(tally, rows, "test")


def test_the_text_of_words_is_shown_and_measured():
    task = TokenClassification().learn(TAGGED)
    nothing = [Entities((), ("O",) * 3), Entities((), ("O",) * 4), Entities((), None)]
    found = judged(task, nothing, TAGGED)
    assert [mistake.text for mistake in found.mistakes] == ["Ada met Bo", "电影很好", "Ada left."]
    assert [part.name for part in found.slices["text length"]] == [
        "4 characters",
        "9 characters",
        "10 characters",
    ]


def test_right_answers_are_no_mistakes():
    task = TokenClassification().learn(TAGGED)
    entities = Entity(0, 3, "a", 0.9, "Ada"), Entity(8, 10, "a", 0.9, "Bo")
    found = judged(task, [Entities(entities, ("B-a", "O", "B-a"))], TAGGED[:1])
    assert (found.num_mistakes, found.mistakes) == (0, [])


def test_the_source_of_a_translation_is_shown_in_whichever_form_it_comes():
    rows = rows_of([{"translation": {"en": "the film", "de": "der Film"}}])
    found = judged(Translation().learn(rows), [Generated("das Bild", 0.5)], rows)
    assert [mistake.text for mistake in found.mistakes] == ["the film"]


def test_lists_of_texts_are_shown_line_by_line():
    (row,) = rows_of([{"question": "a?", "choices": ["b", "c"], "label": 0}])
    assert MultipleChoice().learn([row]).shown(row) == "a?\nb\nc"


def test_a_report_writes_short_numbers():
    rows = rows_of([{"text": "a", "score": 123456.75}])
    found = judged(Regression().learn([*rows, *rows_of([{"text": "b", "score": 1}])]),
                   [Number(1 / 3)], rows)  # fmt: skip
    (mistake,) = mistakes_of(found)
    assert (mistake.label, mistake.predicted) == ("123457", "0.333333")


def test_what_only_all_rows_tell_takes_the_place_of_single_mistakes():
    rows = rows_of([{"query": "a", "positive": "b", "negative": "c"}])
    found = judged(Reranking().learn(rows), [Ranking((0.1, 0.9), (-2.0, 2.0))], rows)
    (mistake,) = found.mistakes
    assert (mistake.text, mistake.true, mistake.predicted) == ("a", "place 2: b", "place 1: c")
    assert found.num_mistakes == 1
