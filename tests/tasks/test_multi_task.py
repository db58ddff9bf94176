"""Several tasks over one backbone. What every task promises is tested in test_contract.py."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import tunewright as tw
from tests.tasks.examples import EXAMPLES, SETTINGS, rows_of
from tunewright.errors import DataError, SettingsError
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.run.judging.judge import lines_of
from tunewright.tasks.multi_task import MultiTask
from tunewright.types import Features, TokenStream

ROWS = rows_of(EXAMPLES["multi-task"])
PARTS = SETTINGS["multi-task"]["parts"]


@pytest.fixture
def task():
    return MultiTask(**SETTINGS["multi-task"]).within(64).learn(ROWS)


def encoded(sizes):
    """Rows of the parts `topic` and `mood` as they are after encoding, all of one token."""
    names = [name for name, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    return [
        [Features(i, {f"{name}/text": TokenStream(np.array([1]))})] for i, name in enumerate(names)
    ]


def updates_of(rows, batch_size, seed=0, **settings):
    order = np.random.default_rng(seed).permutation(len(rows))
    task = MultiTask(parts=PARTS, **settings)
    return list(task.updates(order, rows, batch_size))


def owners(rows, update):
    return {next(iter(rows[i][0].streams)) for i in update}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sampling": "size"}, {"topic/text": 32, "mood/text": 8}),
        ({"sampling": "temperature"}, {"topic/text": 27, "mood/text": 13}),
        ({"sampling": "round-robin"}, {"topic/text": 20, "mood/text": 20}),
    ],
)
def test_sampling_divides_the_updates(settings, expected):
    rows = encoded((320, 80))
    names = [owners(rows, update).pop() for update in updates_of(rows, 10, **settings)]
    assert {name: names.count(name) for name in expected} == expected


def test_the_parts_take_turns_in_an_order_that_follows_from_the_rows_order():
    rows = encoded((40, 40))
    first, again, other = (updates_of(rows, 4, seed=seed) for seed in (1, 1, 2))
    assert [list(u) for u in first] == [list(u) for u in again]
    names = [[owners(rows, update).pop() for update in epoch] for epoch in (first, other)]
    assert names[0] != names[1]
    assert names[0] != sorted(names[0])


def test_the_backbone_is_one_and_the_heads_are_two(task, tiny_folder):
    folder = tiny_folder("bert")
    model, _ = task.build(folder, load_tokenizer(folder), dropout=0.0, seed=0)
    topic, mood = model.heads.values()
    assert topic.base_model.embeddings.word_embeddings.weight is (
        mood.base_model.embeddings.word_embeddings.weight
    )
    assert topic.classifier.weight.shape[0] == 2
    assert mood.classifier.weight.shape[0] == 2
    one = sum(p.numel() for p in topic.parameters())
    extra = sum(p.numel() for p in [*mood.classifier.parameters(), *mood.bert.pooler.parameters()])
    assert sum(p.numel() for p in model.parameters()) == one + extra


def test_both_routes_are_packed(task, tiny_folder):
    folder = tiny_folder("bert")
    model, _ = task.build(folder, load_tokenizer(folder), dropout=0.0, seed=0)
    assert task.route(model) == "packed"


def test_a_run_keeps_one_stock_folder_per_head_and_answers_again(tiny_folder, tmp_path):
    run = tw.train(
        EXAMPLES["multi-task"] * 6,
        task="multi-task",
        model=tiny_folder("bert"),
        settings={"task": {"parts": PARTS}},
        folder=str(tmp_path),
        max_steps=3,
        num_resamples=20,
        track=(),
    )
    assert {"mean", "topic/accuracy", "mood/f1"} <= set(run.metrics)
    written = [line["task"] for line in lines_of(run.folder.evaluation / "predictions.jsonl")]
    assert set(written) == {"topic", "mood"}
    report = run.folder.report.read_text(encoding="utf-8")
    parts = re.findall('<h3 class="part"><bdi>(.*?)</bdi>', report)
    assert parts == ["topic", "mood"] * 3  # classes, curves and calibration of each
    assert report.count("<h3>Confusion matrix</h3>") == 2
    model = tw.load(run.folder.path)
    asked = [{"task": "topic", "text": "a fine film"}, {"task": "mood", "text": "a fine film"}]
    topic, mood = model.predict(asked)
    assert topic.label in ("film", "book")
    assert mood.label in (0, 1)
    odd = [{"task": "topic", "text": "rain", "label": "weather"}, *EXAMPLES["multi-task"]]
    assert run.evaluate(odd).notices == (
        "list: 1 of 5 rows of topic have a label that the model does not know; each counts as a "
        "wrong answer.",
    )
    alone = tw.load(run.folder.model / "parts" / "mood").predict(["a fine film"])[0]
    assert alone.logits == pytest.approx(mood.logits, abs=1e-5)


def test_rows_of_an_unknown_part_are_named(task):
    row = rows_of([{"task": "weather", "text": "rain"}])[0]
    with pytest.raises(DataError) as caught:
        task.encode(row, None)
    assert str(caught.value) == (
        'rows.csv, line 2: its task is \'weather\'. The parts are "topic", "mood".'
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"parts": {"a": {"name": "text-classification"}}},
            "[task]: task.parts names 1 tasks. At least two are needed, by names of yours, each "
            'with the name of its task. Write parts.similarity = { name = "regression" }.',
        ),
        (
            {"parts": {**PARTS, "c": {}}},
            '[task.parts.c]: it has no name. Name its task: name = "text-classification".',
        ),
        (
            {"parts": {**PARTS, "c": {"name": "text-classification", "labls": []}}},
            "[task.parts.c]: task.labls is not a setting of text-classification. "
            "Did you mean task.labels?",
        ),
        (
            {"parts": {**PARTS, "c": {"name": "multi-task"}}},
            "[task.parts.c]: a part cannot be a multi-task itself.",
        ),
        ({"parts": PARTS, "temperature": 0.0}, "[task]: task.temperature is 0.0. It must be more "
         "than 0."),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(SettingsError) as caught:
        MultiTask(**settings)
    assert str(caught.value) == message


def test_the_mean_counts_lower_is_better_as_negative(task, tiny_folder):
    assert task.metrics[0].name == "mean"
    statistics = task.stack(
        [
            {"topic/true": 0, "topic/predicted": 0, "topic/probabilities": np.eye(3)[0]},
            {"mood/true": 0, "mood/predicted": 1, "mood/probabilities": np.eye(2)[1]},
        ]
    )
    found = task.reduce(statistics)
    assert (found["topic/accuracy"], found["mood/accuracy"], found["mean"]) == (1.0, 0.0, 0.5)
    assert torch.tensor(found["mean"]).isfinite()


def test_windows_of_a_part_stay_together_and_the_card_names_the_part():
    parts = {name: {**settings, "max_length": 16} for name, settings in PARTS.items()}
    whole, windows = (
        MultiTask(parts=parts),
        MultiTask(parts=parts | {"mood": {**parts["mood"], "long": "window"}}),
    )
    assert (whole.scope, windows.scope) == ("row", "document")
    places = (
        "To other libraries each part is a model by itself: topic (text-classification) is this "
        "folder, mood (text-classification) is this folder/parts/mood."
    )
    assert whole.limits() == [places]
    assert windows.limits()[0] == places
    assert [sentence.split(" ")[0] for sentence in windows.limits()[1:]] == ["mood:"]
