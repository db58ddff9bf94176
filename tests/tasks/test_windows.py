"""Tasks that answer for a whole text read one that is too long in windows, each in the same way."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
import pytest
import torch

import tunewright as tw
from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU, build_loop, gradients, sizes_of_passes
from tunewright.errors import DataError
from tunewright.models.batch import pack
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.models.text.tokens import bare_ids, encode_long, encode_text
from tunewright.prediction.predictor import Predictor
from tunewright.server.served import raw_vectors
from tunewright.tasks import find_task
from tunewright.tasks.shared.windows import PLACE, texts_of
from tunewright.types import Row

LENGTH, STRIDE = 10, 2
LISTS = [  # long queries, long texts, and both
    {"query": "a film", "text": ["a fine film of the team " * 4, "card"], "label": [1, 0]},
    {"query": "the bank " * 7, "text": ["a card", "the phone service"], "label": [0, 1]},
    {"query": "the game " * 4, "text": ["the team won it " * 4, "a film " * 3], "label": [1, 0]},
]
SINGLE = [
    {"query": row["query"], "text": text, "label": label}
    for row in LISTS
    for text, label in zip(row["text"], row["label"], strict=True)
]
SCORED = [
    {"anchor": "a fine film " * 5, "positive": "a film", "score": 1},
    {"anchor": "the bank", "positive": "the team won the game " * 4, "score": 0},
    {"anchor": "the card " * 6, "positive": "the bank card " * 5, "score": 1},
]
CASES = {
    "text-classification": ("text-classification", {}, None),
    "largest of text-classification": ("text-classification", {"pooling": "max"}, None),
    "multi-label-classification": ("multi-label-classification", {}, None),
    "largest of multi-label": ("multi-label-classification", {"pooling": "max"}, None),
    "regression": ("regression", {}, None),
    "regression, both orders": ("regression", {"symmetric": True}, None),
    "multiple-choice": ("multiple-choice", {}, None),
    "mean of multiple-choice": ("multiple-choice", {"pooling": "mean"}, None),
    "reranking, lists": ("reranking", {}, LISTS),
    "reranking, one by one": ("reranking", {"pooling": "mean"}, SINGLE),
    "reranking, compared": ("reranking", {"objective": "listwise"}, SINGLE),
    "sentence-embedding": ("sentence-embedding", {}, None),
    "triplets": ("sentence-embedding", {"objective": "triplet", "normalize": False}, [
        {"anchor": "a film " * 6, "positive": "a fine film", "negative": "the bank " * 9},
        {"anchor": "a card", "positive": "the bank " * 8, "negative": "the team won the game"},
    ]),
    "similarities": ("sentence-embedding", {"objective": "cosine"}, SCORED),
    "near and far": ("sentence-embedding", {"objective": "contrastive"}, SCORED),
    "pairs in order": ("sentence-embedding", {"objective": "cosent"}, SCORED),
}  # fmt: skip


def task_and_rows(name, **settings):
    task, own, values = CASES[name]
    rows = rows_of(values or EXAMPLES[task])
    settings = {"max_length": LENGTH, "stride": STRIDE, "long": "window"} | own | settings
    return find_task(task)(**settings).learn(rows), rows


def answers(folder, task, rows, max_tokens=4096):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=None, seed=0)
    task.route(model)
    predictor = Predictor(task, model.eval(), tokenizer, CPU, max_tokens)
    return model, tokenizer, list(predictor.answers(rows))


def numbers(answer):
    """All numbers of an answer."""
    for name in ("vectors", "values", "logits"):
        if hasattr(answer, name):
            return np.ravel(getattr(answer, name))
    return np.array([answer.logit if hasattr(answer, "logit") else answer.value])


@pytest.mark.parametrize("name", CASES)
def test_every_token_is_read_and_counted_once(tiny_folder, name):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    task, rows = task_and_rows(name)
    whole, _ = task_and_rows(name, max_length=1000)
    several = 0
    for row in rows:
        windows, alone = task.encode(row, tokenizer), whole.encode(row, tokenizer)
        assert all(item.num_tokens <= LENGTH for item in windows)
        assert [item.window for item in windows] == list(range(len(windows)))
        read = sum(item.num_tokens - item.num_repeated for item in windows)
        cut = sum(item.num_cut for item in windows)
        assert read + cut == sum(item.num_tokens - item.num_repeated for item in alone)
        several += len(windows) > len(alone)
        places = [item.targets.get(PLACE, 0) for item in windows]
        assert len(list(groupby(places))) == len(set(places))  # those of a text stand together
    assert several >= 1


@pytest.mark.parametrize("name", CASES)
def test_longer_texts_are_cut_or_refused_as_wished(tiny_folder, name):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    cut, rows = task_and_rows(name, long="truncate")
    assert sum(item.num_cut for row in rows for item in cut.encode(row, tokenizer)) > 0
    assert all(PLACE not in item.targets for row in rows for item in cut.encode(row, tokenizer))
    with pytest.raises(DataError, match="The model reads 10 at once"):
        [task_and_rows(name, long="error")[0].encode(row, tokenizer) for row in rows]


@pytest.mark.parametrize(("architecture", "dropout"), [("bert", 0.2), ("mpnet", 0.0)])
@pytest.mark.parametrize("name", CASES)
def test_an_update_learns_the_same_however_it_is_cut(tiny_folder, name, architecture, dropout):
    folder = tiny_folder(architecture)  # packed, and padded
    task, rows = task_and_rows(name)
    loops = [build_loop(folder, task, rows, dropout=dropout, max_tokens=n) for n in (9999, LENGTH)]
    sizes = sizes_of_passes(loops[1])
    whole, cut = map(gradients, loops)
    assert max(sizes) <= LENGTH
    for parameter, gradient in whole.items():
        torch.testing.assert_close(cut[parameter], gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_pooled_from_its_windows_in_any_batch(tiny_folder, name):
    task, rows = task_and_rows(name)
    model, tokenizer, found = answers(tiny_folder("bert"), task, rows, max_tokens=LENGTH)
    _, _, together = answers(tiny_folder("bert"), task, rows)
    for row, answer, same in zip(rows, found, together, strict=True):
        assert numbers(answer) == pytest.approx(numbers(same), abs=1e-5)
        with torch.inference_mode():
            batch = pack(task.encode(row, tokenizer))
            outputs = next(iter(task.forward(model, batch).values()))
        pool = torch.amax if getattr(task, "pooling", "mean") == "max" else torch.mean
        by_hand = torch.stack([pool(outputs[own], 0) for own in texts_of(batch)])
        if task.name == "sentence-embedding" and task.normalize is not False:
            by_hand = torch.nn.functional.normalize(by_hand, dim=-1)
        if task.name == "regression":
            by_hand = by_hand.mean(0, keepdim=True) * task.scale + task.mean  # of both orders
        assert numbers(answer) == pytest.approx(by_hand.numpy().ravel(), abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_loss_sees_each_text_once(tiny_folder, name):
    """The loss of a row whose windows are copies of one is that of the one alone."""
    task, rows = task_and_rows(name)
    folder = tiny_folder("bert")
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=None, seed=0)
    once = [item for row in rows for item in first_of_each(task.encode(row, tokenizer))]
    thrice = [item for item in once for _ in range(3)]
    with torch.inference_mode():
        losses = []
        for features in (once, thrice):
            batch = pack(features)
            losses.append(task.loss(task.forward(model.eval(), batch), batch))
    assert losses[1].count == pytest.approx(losses[0].count)
    assert float(losses[1].sum) == pytest.approx(float(losses[0].sum), rel=1e-4)


def first_of_each(windows):
    seen = set()
    return [
        item
        for item in windows
        if (place := item.targets.get(PLACE, 0)) not in seen and not seen.add(place)
    ]


@pytest.mark.parametrize("name", CASES)
def test_the_card_says_that_others_do_not_pool(name):
    said, *others = task_and_rows(name)[0].limits()
    assert said.startswith("Texts of more than 10 tokens are read in windows of so many")
    assert "sentence-transformers" in said or "`transformers`" in said
    assert [*task_and_rows(name, long="truncate")[0].limits()] == others


def test_a_run_reads_windows_and_its_folder_answers_by_them(tiny_folder, tmp_path):
    values = [*EXAMPLES["sentence-embedding"], {"anchor": "a film " * 9, "positive": "the plot"}]
    run = tw.train(
        values * 3, task="sentence-embedding", model=str(tiny_folder("bert")), name="long",
        folder=str(tmp_path), max_length=LENGTH, stride=STRIDE, long="window", num_train_epochs=1,
    )  # fmt: skip
    model = tw.load(run.path)
    task = json.loads((run.path / "model" / "task.json").read_text())
    assert (task["long"], task["stride"]) == ("window", STRIDE)
    first, second = model.predict(["a film " * 9 + "the end", "a film " * 9])
    assert not np.allclose(first.values, second.values, atol=1e-4)  # the end has been read


def test_both_orders_of_a_pair_are_learnt_by_themselves_where_texts_may_have_windows(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    found = []
    for long in ("truncate", "window"):
        task, rows = task_and_rows("regression, both orders", long=long, max_length=100)
        batch = pack([item for row in rows for item in task.encode(row, tokenizer)])
        logits = torch.linspace(-1, 1, batch.num_sequences)
        found.append(task.loss({"logits": logits}, batch))
    assert found[0].count == found[1].count > len(rows)
    assert float(found[0].sum) == pytest.approx(float(found[1].sum))


@pytest.mark.parametrize("max_length", [3, 4])
def test_windows_are_never_longer_than_the_model_reads(tiny_folder, max_length):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    task, rows = task_and_rows("text-classification", max_length=max_length, stride=9)
    alone = [row for row in rows if "text_pair" not in row.values]
    lengths = [len(f.streams["text"]) for row in alone for f in task.encode(row, tokenizer)]
    assert max(lengths) == max_length


def test_a_server_s_vectors_are_those_of_training(tiny_folder):
    task, _ = task_and_rows("sentence-embedding")
    folder = tiny_folder("bert")
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=None, seed=0)
    task.route(model)
    predictor = Predictor(task, model.eval(), tokenizer, CPU)
    asked = [Row(place, {"anchor": "a fine film " * n}) for place, n in enumerate((1, 9, 20))]
    served = raw_vectors(predictor).answers(asked)
    for ours, raw in zip(predictor.answers(asked), served, strict=True):
        assert raw.values / np.linalg.norm(raw.values) == pytest.approx(ours.values, abs=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen3", "xlm-roberta"])
@pytest.mark.parametrize("num_words", [2, 40])
def test_a_prompt_begins_every_window(tiny_folder, architecture, num_words):
    tokenizer = load_tokenizer(tiny_folder(architecture))
    text, prompt = "the film is good and the team won " * num_words, "a new book: "
    settings = {"max_length": 32, "stride": 4, "long": "window"}
    windows = encode_long(tokenizer, text, prompt=prompt, **settings)
    whole = encode_text(tokenizer, prompt + text)
    begin = bare_ids(tokenizer, prompt.rstrip()).tolist()
    first = whole.token_ids.tolist().index(begin[0])
    for window in windows:
        assert len(window) <= 32
        assert window.token_ids[first : first + len(begin)].tolist() == begin
    assert sum(len(window) - window.num_repeated for window in windows) == len(whole)
    assert (len(windows) > 1) == (len(whole) > 32)


def test_a_prompt_that_leaves_no_room_begins_the_text_alone(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    prompt, text = "the film is good and the team won ", "a book " * 20
    windows = encode_long(tokenizer, text, prompt=prompt, max_length=12, stride=2, long="window")
    whole = encode_text(tokenizer, prompt + text)
    assert sum(len(window) - window.num_repeated for window in windows) == len(whole)
    assert windows[-1].token_ids[1] != windows[0].token_ids[1]
