from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU
from tunewright.models.heads import choose_route
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction import predictor as module
from tunewright.prediction.predictor import Predictor
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Features, Row

ROWS = rows_of(EXAMPLES["text-classification"])


def build(folder, task=None, **settings):
    task = task or TextClassification().within(128).learn(ROWS)
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=None, seed=0)
    choose_route(model)
    return Predictor(task, model, tokenizer, CPU, **settings)


@pytest.fixture
def predictor(tiny_folder):
    return build(tiny_folder("bert"))


def texts(*values):
    return [Row(index, {"text": value}) for index, value in enumerate(values)]


def logits(answers):
    return np.array([answer.logits for answer in answers])


def test_answers_come_in_the_order_of_the_rows(predictor):
    words = ["a " * n for n in (9, 1, 30, 4, 17)]
    together = logits(predictor.answers(texts(*words)))
    alone = np.concatenate([logits(predictor.answers(texts(word))) for word in words])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "mpnet", "qwen2"])
def test_alone_a_text_has_in_bf16_the_answer_of_a_batch_to_the_bits_that_bf16_has(
    tiny_folder, architecture
):
    wide = build(tiny_folder(architecture))
    narrow = replace(wide, device=replace(CPU, precision="bf16"))
    words = [row.values["text"] for row in ROWS] + ["good film " * n for n in (3, 11, 40)]
    expected = logits(wide.answers(texts(*words)))
    together = logits(narrow.answers(texts(*words)))
    alone = np.concatenate([logits(narrow.answers(texts(word))) for word in words])
    largest = np.abs(expected).max()
    assert not np.array_equal(together, expected)
    np.testing.assert_allclose(together, alone, atol=2**-8 * largest)


def test_no_rows_give_no_answers(predictor):
    assert list(predictor.answers([])) == []


def test_rows_are_read_as_they_are_needed(predictor, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WINDOW_ROWS", 2)
    read = []

    def stream():
        for row in texts("a", "b", "c", "d", "e"):
            read.append(row.id)
            yield row

    answers = predictor.answers(stream())
    next(answers)
    assert read == [0, 1]
    assert len(list(answers)) == 4


def test_a_window_ends_at_its_characters_too(predictor, monkeypatch):
    monkeypatch.setattr(module, "WINDOW_CHARACTERS", 10)
    windows = list(module._windows(texts("a" * 6, "b" * 6, "c" * 30, "d")))
    assert [[row.id for row in window] for window in windows] == [[0, 1], [2], [3]]
    turns = [Row(n, {"messages": [{"role": "user", "content": "a" * 2}]}) for n in range(4)]
    lists = [Row(n, {"text": ("a" * 4, ["b" * 4])}) for n in range(4)]
    for rows in (turns, lists):
        assert [len(window) for window in module._windows(rows)] == [2, 2]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_answers_do_not_depend_on_the_window(predictor, monkeypatch, window):
    expected = logits(predictor.answers(ROWS))
    monkeypatch.setattr(module, "WINDOW_ROWS", window)
    np.testing.assert_allclose(logits(predictor.answers(ROWS)), expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_predicting_runs_without_dropout_and_leaves_the_model_s_mode(predictor, training):
    predictor.model.train(training)
    first, second = (logits(predictor.answers(ROWS)) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert predictor.model.training is training


def test_predicting_keeps_no_gradients(predictor):
    list(predictor.answers(ROWS))
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen2", "gpt2", "mpnet", "xlnet"])
def test_blank_texts_are_answered_like_any_other(tiny_folder, architecture):
    predictor = build(tiny_folder(architecture))
    blank, *_ = alone = list(predictor.answers(texts("")))
    mixed = list(predictor.answers(texts("a fine film", "", "the worst book", "")))
    assert len(alone) == 1
    for answer in (mixed[1], mixed[3]):
        assert answer.logits == pytest.approx(blank.logits, abs=1e-5)


def test_a_text_past_the_model_s_length_is_cut(predictor):
    said = []
    long, cut = predictor.answers(texts("a " * 5000, "a " * 126), said.append)
    assert long.logits == pytest.approx(cut.logits, abs=1e-5)
    assert said == [5000 - 126]


class Halves(TextClassification):
    """Cuts every text in two windows and answers with both."""

    def encode(self, row, processor):
        words = row.values["text"].split()
        middle = (len(words) + 1) // 2
        parts = [words[:middle], words[middle:]]
        found = [super(Halves, self).encode(Row(row.id, {"text": " ".join(p)}), processor)[0]
                 for p in parts]  # fmt: skip
        return [Features(row.id, f.streams, {}, window) for window, f in enumerate(found)][::-1]

    def join(self, parts, row):
        return parts


def test_the_windows_of_a_row_are_joined_in_their_order(tiny_folder):
    task = Halves(labels=("a", "b"), max_length=64)
    predictor = build(tiny_folder("bert"), task)
    (first, second), _ = predictor.answers(texts("a fine film the worst book", "old new"))
    whole = TextClassification(labels=("a", "b"), max_length=64)
    plain = Predictor(whole, predictor.model, predictor.tokenizer, CPU)
    expected = logits(plain.answers(texts("a fine film", "the worst book")))
    np.testing.assert_allclose(logits([first, second]), expected, atol=1e-5)


def test_a_pass_holds_no_more_tokens_than_allowed(tiny_folder):
    sizes = []

    class Watched(TextClassification):
        def forward(self, model, batch):
            sizes.append(batch.num_tokens)
            return super().forward(model, batch)

    predictor = build(tiny_folder("bert"), Watched(labels=("a", "b"), max_length=64), max_tokens=20)
    list(predictor.answers(texts(*["a " * n for n in (3, 50, 4, 7, 5, 6)])))
    assert sizes == [5 + 6 + 7, 8 + 9, 52]


def test_what_a_device_waits_for_is_read_meanwhile_by_a_tokenizer_of_its_own(
    predictor, monkeypatch
):
    monkeypatch.setattr(module, "FIRST_WINDOW_ROWS", 2)
    words = ["a " * n for n in (9, 1, 30, 4, 17, 2, 2, 8)]
    expected = logits(predictor.answers(texts(*words)))
    monkeypatch.setattr(Predictor, "ahead", property(lambda _: True))
    np.testing.assert_array_equal(logits(predictor.answers(texts(*words))), expected)
    assert list(predictor.answers([])) == []

    def broken():
        yield from texts("a", "b", "c")
        raise KeyError("no more")

    answers = predictor.answers(broken())
    assert [next(answers).label, next(answers).label]
    with pytest.raises(KeyError, match="no more"):
        next(answers)
