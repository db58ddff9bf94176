"""Translation: what a row may look like, and a translator from nothing, end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tests.tasks.examples import rows_of
from tunewright.answers import Generated
from tunewright.errors import DataError, SettingsError
from tunewright.metrics.translation import translation_metrics
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.run.config import compose
from tunewright.run.loaded import load
from tunewright.run.record import ABOUT
from tunewright.run.train import train
from tunewright.tasks.translation import Translation

PAIR = {"translation": {"en": "a dog", "de": "ein Hund"}}


def test_the_languages_of_a_translation_are_those_of_the_first_row():
    (row,) = rows_of([PAIR])
    task = Translation().learn([row])
    assert (task.source_language, task.target_language) == ("en", "de")
    assert (task.source_of(row), task.targets_of(row)) == ("a dog", ("ein Hund",))


def test_a_named_language_decides_what_is_read():
    (row,) = rows_of([PAIR])
    task = Translation(source_language="de").learn([row])
    assert (task.source_of(row), task.targets_of(row)) == ("ein Hund", ("a dog",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"translation": {"en": "a", "de": "b", "fr": "c"}},
            'rows.csv, line 2: its translation has the languages "en", "de", "fr". Which one is '
            "read and which one written? Name them: task.source_language=en "
            "task.target_language=de.",
        ),
        (
            {"translation": "a dog"},
            "rows.csv, line 2: its translation is 'a dog'. It is an object with a text for each "
            "language. Name the columns with data.columns.source and data.columns.target.",
        ),
        (
            {"source": "a dog", "target": " "},
            "rows.csv, line 2: its target is empty. Every row needs one to train. Remove these "
            "rows, or pass data.drop_unlabelled=true.",
        ),
    ],
)
def test_rows_that_cannot_be_learned_are_named(value, message):
    with pytest.raises(DataError) as caught:
        Translation().learn(rows_of([value]))
    assert str(caught.value) == message


def test_a_language_that_a_row_lacks_is_named():
    first, second = rows_of([PAIR, {"translation": {"en": "a dog"}}])
    task = Translation().learn([first])
    assert task.targets_of(second) == ()
    with pytest.raises(DataError, match=r'its translation has no text for "de"\. It has "en"'):
        Translation(source_language="de").source_of(second)


def test_a_smoothing_of_all_is_refused():
    with pytest.raises(SettingsError, match=r"task.label_smoothing is 1.0"):
        Translation(label_smoothing=1.0)


def test_a_target_stands_one_token_behind_its_labels(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("tunewright-transformer"))
    (features,) = Translation().encode(
        rows_of([{"source": "a", "target": "the film"}])[0], tokenizer
    )
    label = features.targets["label"].tolist()
    assert tokenizer.convert_ids_to_tokens(label) == ["the", "film", "</s>"]
    assert features.streams["target"].token_ids.tolist() == [1, *label[:-1]]


def test_long_texts_are_cut_and_counted_and_keep_their_end(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("tunewright-transformer"))
    task = Translation(max_length=4, max_target_length=3, prefix="a ")
    row = rows_of([{"source": "the film is good", "target": "the team is the game"}])[0]
    (features,) = task.encode(row, tokenizer)
    source, target = features.streams["source"], features.streams["target"]
    assert tokenizer.convert_ids_to_tokens(source.token_ids) == ["a", "the", "film", "</s>"]
    assert tokenizer.convert_ids_to_tokens(target.token_ids) == ["<s>", "the", "team"]
    assert (source.num_cut, target.num_cut) == (2, 3)


def test_several_references_count_together_and_the_first_is_learned(tiny_folder):
    (row,) = rows_of([{"source": "a", "target": ["the film", "the good film is"]}])
    task = Translation()
    statistics = task.stack([task.statistics(Generated("the good film is", 0.5), row)])
    assert task.reduce(statistics)["bleu"] == pytest.approx(100)
    assert task.compared(Generated("x", 0.5), row) == ("the film", "x")
    assert task.severity(Generated("the film", 0.5), row) is None
    assert task.severity(Generated("stock", 0.5), row) > 0.8


def test_chinese_is_cut_by_character_and_the_signature_says_so():
    task = Translation().learn(rows_of([{"source": "a dog", "target": "一只狗。"}]))
    assert task.words == "zh"
    assert "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp" in task.measured_as({})[0]


# End to end --------------------------------------------------------------------------------------


def pairs(count):
    """A language to learn in seconds: every word has one translation, in reverse order."""
    rng = np.random.default_rng(0)
    known = {"one": "eins", "two": "zwei", "cat": "Katze", "dog": "Hund", "red": "rot"}
    rows = []
    for _ in range(count):
        words = rng.choice(list(known), size=rng.integers(1, 4)).tolist()
        rows.append(
            {"source": " ".join(words), "target": " ".join(known[w] for w in reversed(words))}
        )
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = compose(
        {
            "task": {"name": "translation", "label_smoothing": 0.0},
            "model": {"name": "new:1x64", "new": {"vocab_size": 320, "positions": "rotary"}},
            "training": {
                "num_train_epochs": 20,
                "learning_rate": 5e-3,
                "batch_size": 32,
                "eval_steps": 60,
                "precision": "fp32",
                "dropout": 0.0,
            },
            "generation": {"num_beams": 3, "max_new_tokens": 10},
            "output": {"folder": str(tmp_path_factory.mktemp("runs"))},
        }
    )
    return train({"train": pairs(400)}, config)


def test_a_new_model_learns_to_translate(finished):
    assert finished.metrics["chrf"].value > 60
    about = json.loads((finished.path / ABOUT).read_text())
    assert about["route"] == "packed"
    assert any("tok:13a" in notice for notice in finished.result.notices)


def test_its_folder_writes_the_same_in_stock_transformers(finished):
    folder = finished.folder.model
    model = load(folder)
    assert model.predictor.generation == Generation(num_beams=3, max_new_tokens=10)
    texts = ["one red dog", "cat", "two cat"]
    stock, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    found = stock.generate(**tokenizer(texts, return_tensors="pt", padding=True))
    expected = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert [answer.text for answer in model.predict(texts)] == expected


def test_its_predictions_can_be_measured_again(finished):
    lines = (finished.folder.evaluation / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    task = Translation()
    statistics = task.stack(
        task.statistics(
            Generated(row["translation_text"], 0.0), rows_of([{"target": row["true"]}])[0]
        )
        for row in rows
    )
    found = translation_metrics(statistics)["chrf"]
    assert found == pytest.approx(finished.metrics["chrf"].value)


def test_a_new_model_is_the_same_from_the_same_seed(finished):
    start = finished.config.model.name
    weights = AutoModelForSeq2SeqLM.from_pretrained(start).state_dict()
    assert weights["embedding.weight"].std() == pytest.approx(64**-0.5, rel=0.1)
    assert torch.isfinite(weights["decoder.norm.weight"]).all()


def test_a_task_that_needs_a_model_refuses_a_new_one(tmp_path):
    config = compose({"model": {"name": "new:mini"}, "output": {"folder": str(tmp_path)}})
    with pytest.raises(SettingsError) as caught:
        train({"train": [{"text": "a", "label": "b"}]}, config)
    assert str(caught.value) == (
        'model "new:mini": text-classification needs a model that has read texts. Translation, '
        "summarization and image-captioning begin from nothing. Name a model, or make one first: "
        "tunewright pretrain TEXTS --model new:mini."
    )


def test_its_card_says_how_stock_transformers_comes_to_know_it(finished):
    card = (finished.folder.model / "README.md").read_text()
    assert "stock `transformers`, once Tunewright has made its architecture known there:" in card
    assert "import tunewright.models.transformer" in card
    assert Translation(model_type="t5").stock_lines().startswith("from transformers import")
