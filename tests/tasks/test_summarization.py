"""Summarization: the columns it reads, its figures beside the first sentence, and other models."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tests.tasks.examples import rows_of
from tunewright.answers import Generated
from tunewright.data import resolve_columns
from tunewright.errors import DataError
from tunewright.run.config import compose
from tunewright.run.train import train
from tunewright.tasks.summarization import Summarization, first_sentence
from tunewright.types import Row

ROW = {"document": "The cat sat down. It slept.", "summary": "the cat slept"}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("The cat sat down. It slept.", "The cat sat down."),
        ("On 3.5 km of road! More", "On 3.5 km of road!"),
        ("猫坐下了。它睡了。", "猫坐下了。"),
        ("A title\nA text", "A title"),
        ("\n no end ", "no end"),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_at_a_mark_or_a_line(text, first):
    assert first_sentence(text) == first


def test_figures_stand_beside_those_of_the_first_sentence():
    (row,) = rows_of([ROW])
    task = Summarization()
    found = task.reduce(task.stack([task.statistics(Generated("a cat slept", 0.5), row)]))
    scorer = RougeScorer(["rouge1", "rougeL"])
    for prefix, text in (("", "a cat slept"), ("lead_", "The cat sat down.")):
        scores = scorer.score(ROW["summary"], text)
        for name, score in scores.items():
            assert found[f"{prefix}{name}"] == pytest.approx(100 * score.fmeasure)
    assert set(found) == {spec.name for spec in task.metrics}


@pytest.mark.parametrize(
    ("summary", "source", "found"),
    [
        ("the cat slept", "rows.csv", ("the cat slept",)),
        (["the cat slept", None, "it slept"], "rows.jsonl", ("the cat slept", "it slept")),
        ('["the cat slept", "it slept"]', "rows.csv", ('["the cat slept", "it slept"]',)),
        ([], "rows.jsonl", ()),
    ],
)
def test_the_references_are_the_texts_of_a_cell(summary, source, found):
    assert Summarization().targets_of(Row(0, {**ROW, "summary": summary}, source, 2)) == found


@pytest.mark.parametrize("odd", [1, {"text": "it slept"}, ["it slept"]])
def test_a_reference_that_is_no_text_is_not_made_one(odd):
    (row,) = rows_of([{**ROW, "summary": ["the cat slept", odd]}])
    with pytest.raises(DataError, match="which is no text"):
        Summarization().learn([row])


def test_a_summary_like_the_reference_is_no_mistake():
    (row,) = rows_of([ROW])
    task = Summarization()
    assert task.severity(Generated("the cat slept", 0.5), row) is None
    assert task.severity(Generated("a dog", 0.5), row) == 1


@pytest.mark.parametrize(
    "columns", [["article", "highlights"], ["text", "summary"], ["dialogue", "title"]]
)
def test_columns_go_by_the_names_of_known_data_sets(columns):
    found = resolve_columns(Summarization.roles, columns, {}, training=True, source="rows.csv")
    assert found.mapping == dict(zip(["document", "summary"], columns, strict=True))


@pytest.mark.parametrize("architecture", ["t5", "mbart"])
def test_models_of_the_library_are_trained_padded_and_saved_as_they_are(
    architecture, tiny_folder, tmp_path
):
    rows = [{"document": f"the film is good. {word}", "summary": word} for word in "abcdefgh"] * 4
    config = compose(
        {
            "task": {
                "name": "summarization",
                "language": "en" if architecture == "mbart" else None,
            },
            "model": {"name": str(tiny_folder(architecture))},
            "training": {"num_train_epochs": 2, "learning_rate": 1e-3, "precision": "fp32"},
            "generation": {"max_new_tokens": 4, "num_beams": 2},
            "output": {"folder": str(tmp_path)},
        }
    )
    run = train({"train": rows}, config)
    assert 0 <= run.metrics["rougeL"].value <= 100
    assert run.metrics["lead_rougeL"].value == 0
    assert len(run.predict(["the film is good. a"])[0].text) >= 0
    assert any("first sentence" in notice for notice in run.result.notices)
