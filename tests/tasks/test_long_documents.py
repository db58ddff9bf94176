"""Texts longer than a classifier reads at once: cut, refused, or read in windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.tasks.test_text_classification import ABC, LOGITS, decoded, learned, rows
from tests.training.loops import CPU, build_loop, gradients
from tunewright.errors import DataError
from tunewright.models.batch import Batch
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.models.text.tokens import encode_text
from tunewright.prediction.predictor import Predictor
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Row

LONG = "a fine film " * 20  # 60 tokens
WINDOWS = TextClassification(max_length=16, stride=4, long="window", labels=("a", "b"))


def long_rows():
    texts = [LONG, "a film", LONG[:80], "the worst book", LONG[:120]]
    return [Row(i, {"text": text, "label": "ab"[i % 2]}) for i, text in enumerate(texts)]


def counted(found):
    """Returns what the ledger adds up: the tokens that are read, overlaps once, and those cut."""
    return sum(f.num_tokens - f.num_repeated for f in found), sum(f.num_cut for f in found)


@pytest.mark.parametrize("stride", [0, 4, 13])
def test_windows_read_every_token_of_a_long_text_and_count_none_twice(tiny_folder, stride):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    task = TextClassification(max_length=16, stride=stride, long="window", labels=("a", "b"))
    found = task.encode(Row(0, {"text": LONG, "label": "b"}), tokenizer)
    assert counted(found) == (62, 0)
    assert max(len(f.streams["text"]) for f in found) <= 16
    assert [(f.window, f.targets["label"]) for f in found] == [(i, 1) for i in range(len(found))]


def test_a_text_that_fits_is_read_as_without_windows(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    for row in (Row(0, {"text": "a film"}), Row(0, {"text": "a", "text_pair": "b"})):
        (whole,) = TextClassification(max_length=16).encode(row, tokenizer)
        (window,) = WINDOWS.encode(row, tokenizer)
        for name in ("token_ids", "type_ids"):
            same = (getattr(each.streams["text"], name).tolist() for each in (whole, window))
            assert len(set(map(tuple, same))) == 1
        assert window.streams["text"].offsets is None


def test_the_first_text_of_a_pair_stands_before_every_window_of_the_second(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    first = encode_text(tokenizer, "good book").token_ids.tolist()
    found = WINDOWS.encode(Row(0, {"text": "good book", "text_pair": LONG}), tokenizer)
    assert len(found) > 5
    assert all(f.streams["text"].token_ids[:4].tolist() == first for f in found)


def test_a_long_text_is_cut_and_counted_or_refused(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    row = Row(0, {"text": LONG}, "a.csv", 2)
    assert counted(TextClassification(max_length=16).encode(row, tokenizer)) == (16, 46)
    with pytest.raises(DataError) as caught:
        TextClassification(max_length=16, long="error").encode(row, tokenizer)
    assert str(caught.value) == (
        "a.csv, line 2: it has 62 tokens. The model reads 16 at once. Cut it, or choose "
        'task.long="truncate" or "window".'
    )


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("weights", [None, {"a": 3.0}])
def test_the_loss_of_a_row_is_that_of_its_pooled_logits(pooling, weights):
    task = learned(*ABC, long="window", pooling=pooling, class_weights=weights)
    batch = Batch({}, {"label": torch.tensor([0, 0, 0, 2])}, (7, 7, 7, 9))
    found = task.loss({"logits": LOGITS}, batch)
    pooled_RC = torch.stack(
        [LOGITS[:3].amax(0) if pooling == "max" else LOGITS[:3].mean(0), LOGITS[3]]
    )
    weight_C = torch.tensor([3.0 if weights else 1.0, 1.0, 1.0])
    expected = nn.functional.cross_entropy(
        pooled_RC, torch.tensor([0, 2]), weight_C, reduction="sum"
    )
    assert float(found.sum) == pytest.approx(float(expected))
    assert found.count == float(weight_C[0]) + 1


@pytest.mark.parametrize(("pooling", "pool"), [("mean", np.mean), ("max", np.max)])
def test_an_answer_is_that_of_the_pooled_logits(pooling, pool):
    task = learned(*ABC, long="window", pooling=pooling, temperature=2.0)
    joined = task.join(decoded(task), rows("a")[0])
    (expected,) = decoded(task, torch.tensor(pool(LOGITS.numpy(), axis=0))[None])
    assert joined.logits == pytest.approx(expected.logits)
    assert dict(joined.scores) == pytest.approx(dict(expected.scores))
    assert task.join(decoded(task)[:1], rows("a")[0]) == decoded(task)[0]


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_windows_of_a_text_learn_together_however_an_update_is_cut(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    whole, cut = (
        gradients(build_loop(folder, WINDOWS, long_rows(), max_tokens=size)) for size in (9999, 20)
    )
    assert max(map(len, build_loop(folder, WINDOWS, long_rows()).rows)) > 4
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [16, 4096])
def test_answers_to_long_texts_do_not_depend_on_the_batch(tiny_folder, max_tokens):
    folder = tiny_folder("bert")
    tokenizer = load_tokenizer(folder)
    model, _ = WINDOWS.build(folder, tokenizer, dropout=None, seed=0)
    WINDOWS.route(model)
    found = list(Predictor(WINDOWS, model, tokenizer, CPU, max_tokens).answers(long_rows()))
    alone = Predictor(WINDOWS, model, tokenizer, CPU)
    for row, answer in zip(long_rows(), found, strict=True):
        parts = [
            next(iter(alone.answer_encoded([row], [[item]])))
            for item in WINDOWS.encode(row, tokenizer)
        ]
        assert answer.logits == pytest.approx(np.mean([p.logits for p in parts], 0), abs=1e-5)


@pytest.mark.parametrize(
    ("pooling", "words"), [("mean", "the mean of"), ("max", "the largest, class by class, of")]
)
def test_the_model_card_says_that_stock_libraries_pool_no_windows(pooling, words):
    task = TextClassification(max_length=16, stride=4, long="window", pooling=pooling)
    assert task.limits() == (
        "Texts of more than 16 tokens are read in windows of so many, each of which shares at most "
        f"4 with the one before; a text is answered by {words} its windows' logits. Stock "
        "`transformers` gives the same logits for a window, and does not pool them.",
    )
    assert TextClassification().limits() == ()
