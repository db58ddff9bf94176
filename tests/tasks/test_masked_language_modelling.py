"""Words are hidden by words, anew in each epoch, and the same ones in each evaluation."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import EXAMPLES, rows_of
from tests.tiny import tiny_model
from tests.training.loops import CPU
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.models.batch import pack
from tunewright.models.heads import token_outputs
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks.masked_language_modelling import NOT_HIDDEN, MaskedLanguageModelling
from tunewright.types import Row

LONG = "the plot of the film is not very good and the acting is awful " * 9
CHINESE = "酒店的服务非常好，电影很差"


@pytest.fixture(scope="module")
def folder(tiny_folder):
    return tiny_folder("bert")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def task_of(**settings) -> MaskedLanguageModelling:
    task = MaskedLanguageModelling(**({"window_length": 32} | settings))
    return task.within(128).learn(rows_of([{"text": "a film"}]))


def encoded(text, tokenizer, **settings):
    return task_of(**settings).encode(Row(0, {"text": text}), tokenizer)


def hidden_words(item):
    """The word numbers of the tokens that a window hides."""
    mask_id, _ = item.targets["ids"]
    return np.asarray(item.targets["word"])[item.streams["text"].token_ids == mask_id]


def rng(seed):
    return np.random.Generator(np.random.Philox(seed))


def test_each_window_counts_as_a_row_of_an_update(tokenizer):
    rows = [encoded(text, tokenizer) for text in ("a film", LONG, "")]
    units = task_of().units(rows)
    assert len(units) == 2 + len(rows[1]) > 5
    assert [item for (item,) in units] == [item for row in rows for item in row]


@pytest.mark.parametrize("whole_words", [True, False])
def test_no_token_of_a_long_text_is_dropped(tokenizer, whole_words):
    windows = encoded(LONG, tokenizer, whole_words=whole_words)
    true = [i for w in windows for i in w.targets["true"] if i not in tokenizer.all_special_ids]
    assert true == tokenizer(LONG, add_special_tokens=False)["input_ids"]
    assert [item.num_tokens for item in windows[:-1]] == [32] * (len(windows) - 1)
    assert [item.window for item in windows] == list(range(len(windows)))
    assert sum(item.num_cut for item in windows) == 0


@given(st.text(alphabet="abc 电影酒.,1", max_size=80), st.integers(0, 9))
def test_words_are_hidden_whole_and_special_tokens_never(tokenizer, text, seed):
    task = task_of(mask_fraction=0.4)
    for item in task.encode(Row(0, {"text": text}), tokenizer):
        label_N = task.vary(item, rng(seed)).targets["label"]
        word_N = np.asarray(item.targets["word"])
        hidden_N = label_N != NOT_HIDDEN
        assert not set(word_N[hidden_N]) & set(word_N[~hidden_N])
        assert (label_N[hidden_N] == np.asarray(item.targets["true"])[hidden_N]).all()
        assert hidden_N.any() == (word_N >= 0).any()


def test_an_evaluation_hides_the_same_words_whatever_the_row(tokenizer):
    task = task_of()
    first, again = (task.encode(Row(row, {"text": LONG}), tokenizer) for row in (0, 7))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.streams["text"].token_ids, two.streams["text"].token_ids)
    assert len({tuple(hidden_words(item)) for item in first}) > 1


def test_training_hides_other_words_in_each_epoch(tokenizer):
    (item, *_) = encoded(LONG, tokenizer)
    task = task_of()
    varied = [tuple(task.vary(item, rng(epoch)).targets["label"]) for epoch in range(20)]
    assert len(set(varied)) > 15
    assert varied[0] == tuple(task.vary(item, rng(0)).targets["label"])


def test_hidden_tokens_are_masked_replaced_or_left_as_bert_was_trained(tokenizer):
    (item,) = encoded(LONG, tokenizer, window_length=128, mask_fraction=0.5)[:1]
    task, became, count = task_of(mask_fraction=0.5), Counter(), 0
    true_N = np.asarray(item.targets["true"])
    for seed in range(100):
        varied = task.vary(item, rng(seed))
        hidden_N = varied.targets["label"] != NOT_HIDDEN
        token_N = varied.streams["text"].token_ids
        became["mask"] += int((token_N[hidden_N] == tokenizer.mask_token_id).sum())
        became["same"] += int((token_N[hidden_N] == true_N[hidden_N]).sum())
        count += int(hidden_N.sum())
        assert (token_N[~hidden_N] == true_N[~hidden_N]).all()
    assert became["mask"] / count == pytest.approx(0.8, abs=0.02)
    assert became["same"] / count == pytest.approx(0.1, abs=0.02)


def test_chinese_characters_are_hidden_one_by_one_without_a_segmenter(tokenizer):
    (item,) = encoded(CHINESE, tokenizer, chinese_words="characters")
    word_N = np.asarray(item.targets["word"])
    assert len(set(word_N[word_N >= 0])) == (word_N >= 0).sum()


def test_chinese_words_are_hidden_whole_with_one(tokenizer):
    pytest.importorskip("rjieba")
    (item,) = encoded(CHINESE, tokenizer, chinese_words="jieba")
    pairs = Counter(word for word in item.targets["word"] if word >= 0).values()
    assert max(pairs) == 2


def test_the_loss_is_the_librarys_own(folder, tokenizer):
    task = task_of()
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    assert task.route(model) == "packed"
    rows = rows_of(EXAMPLES[task.name])
    features = [task.vary(w, rng(r.id)) for r in rows for w in task.encode(r, tokenizer)]
    batch = pack(features)
    loss = task.loss(task.forward(model, batch), batch)
    (logits_NV,) = token_outputs(model, batch.streams["text"], "logits")
    expected = torch.nn.functional.cross_entropy(
        logits_NV, batch.targets["label"], ignore_index=-100, reduction="sum"
    )
    torch.testing.assert_close(loss.sum, expected, rtol=1e-5, atol=1e-5)
    assert loss.count == int((batch.targets["label"] != -100).sum())


def answers_of(folder, texts, **settings):
    task, tokenizer = task_of(**settings), load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    task.route(model)
    rows = rows_of([{"text": text} for text in texts])
    return task, rows, list(Predictor(task, model, tokenizer, CPU).answers(rows))


def test_a_text_with_masks_is_filled_in_there(folder):
    _, _, (answer,) = answers_of(folder, ["the [MASK] is not [MASK]!"])
    first, second = answer.guesses
    assert (first.start, first.end, second.start, second.end) == (4, 10, 18, 24)
    assert first.true is first.loss is first.right is None
    assert answer.text == f"the {first.token} is not {second.token}!".replace("##", "")
    assert first.score == max(first.choices.values())
    assert json.loads(json.dumps(answer.to_json()))["filled"] == str(answer)


def test_guesses_of_windows_stand_where_their_words_stood(folder):
    _, _, (answer,) = answers_of(folder, [LONG])
    assert len(answer.guesses) > 10
    assert answer.guesses[-1].start > len(LONG) // 2
    assert sorted(answer.guesses, key=lambda guess: guess.start) == list(answer.guesses)
    for guess in answer.guesses:
        assert LONG[guess.start : guess.end] == guess.true.removeprefix("##")


def test_figures_of_a_row_count_what_is_known(folder):
    task, rows, answers = answers_of(folder, [LONG, "the [MASK]", ""])
    figures = [task.statistics(*pair) for pair in zip(answers, rows, strict=True)]
    guesses = answers[0].guesses
    assert figures[0]["hidden"] == len(guesses)
    assert figures[0]["loss"] == pytest.approx(sum(guess.loss for guess in guesses))
    for empty in figures[1:]:
        assert not any(np.any(value) for value in empty.values())
    assert task.severity(answers[0], rows[0]) == pytest.approx(figures[0]["loss"] / len(guesses))
    assert task.severity(answers[2], rows[2]) is None
    assert len(task.compared(answers[0], rows[0])[0].split()) == len(guesses)


def test_a_right_guess_is_told_by_the_token(folder):
    task, (row,), (answer,) = answers_of(folder, ["a film"])
    right = replace(answer.guesses[0], right=True)
    assert task.statistics(replace(answer, guesses=(right,)), row)["right"] == 1
    assert task.severity(replace(answer, guesses=(right,)), row) is None


def test_the_report_tells_rare_tokens_from_common_ones(folder):
    task, rows, answers = answers_of(folder, [LONG, "a film", ""])
    statistics = task.stack(task.statistics(*pair) for pair in zip(answers, rows, strict=True))
    assert {len(values) for values in statistics.values()} == {3}
    (table,) = task.figures(statistics)
    assert sum(line[1] for line in table.rows) == statistics["hidden"].sum()
    guesses = [guess.true for answer in answers for guess in answer.guesses]
    once = [token for token, times in Counter(guesses).items() if times == 1]
    assert table.rows[0][:2] == ("once", len(once))
    empty = task.stack([task.statistics(answers[2], rows[2])])
    assert task.figures(empty) == task.figures({}) == ()


def test_the_models_own_dropout_stays_in_its_configuration(folder, tokenizer):
    model, _ = task_of().build(folder, tokenizer, dropout=0.0, seed=0)
    assert model.config.hidden_dropout_prob == 0.1
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_a_window_is_no_longer_than_the_model_reads():
    assert MaskedLanguageModelling().within(128).window_length == 128
    assert MaskedLanguageModelling().within(512).window_length == 256
    with pytest.raises(SettingsError) as caught:
        MaskedLanguageModelling(window_length=200).within(128)
    assert str(caught.value) == (
        "[task]: task.window_length is 200. The model reads at most 128 tokens. "
        "Use task.window_length=128 or a model that reads more."
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_share_of_hidden_words_outside_0_and_1_is_refused(fraction):
    with pytest.raises(SettingsError) as caught:
        MaskedLanguageModelling(mask_fraction=fraction)
    assert str(caught.value) == (
        f"[task]: task.mask_fraction is {fraction}. It must be more than 0 and less than 1."
    )


def test_texts_that_are_all_blank_teach_nothing():
    with pytest.raises(DataError) as caught:
        MaskedLanguageModelling().learn([Row(0, {"text": " "}, "rows.csv", 2)])
    assert str(caught.value) == (
        "rows.csv: all its texts are blank. There is nothing to learn from."
    )


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path):
    folder = tiny_model("gpt2", tmp_path)
    with pytest.raises(ModelError) as caught:
        encoded("a film", load_tokenizer(folder))
    assert str(caught.value) == (
        "the tokenizer: it has no mask token. Hidden words need one. Use an encoder such as BERT, "
        "RoBERTa or ModernBERT."
    )
