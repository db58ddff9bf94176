"""Runs on real data that the machine may have; each says why it is skipped where it has not."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

import tunewright as tw
from tunewright.data import read_table
from tunewright.data.cells.chats import read_messages
from tunewright.models.files.folder import find_model
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.question_answering import QuestionAnswering
from tunewright.tasks.text_classification import TextClassification
from tunewright.tasks.text_generation import TextGeneration
from tunewright.types import Row

ROOT = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="TUNEWRIGHT_BENCHMARK_DATA names no folder"),
]


def test_chinese_hotel_reviews_from_a_gb18030_csv_come_through_whole(tmp_path):
    source = Path(ROOT, "classification/chnsenticorp/train.jsonl.gz")
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:600]
    file = tmp_path / "酒店评论.csv"
    with file.open("w", encoding="gb18030", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["评论", "情感"])
        writer.writerows([row["text"], row["label"]] for row in rows)

    run = tw.train(file, text="评论", label="情感", folder=str(tmp_path / "runs"),
                   max_length=64, num_train_epochs=1, slices=("情感",))  # fmt: skip
    page = run.report.read_text(encoding="utf-8")
    texts = {row["text"] for row in rows}
    shown = json.loads((run.folder.evaluation / "mistakes.json").read_text(encoding="utf-8"))

    answers = run.predict([rows[0]["text"], rows[1]["text"]])
    assert {answer.label for answer in answers} <= {"positive", "negative"}
    assert shown["shown"]
    assert all(mistake["text"] in texts for mistake in shown["shown"])
    assert shown["shown"][0]["text"][:10] in page


@pytest.mark.parametrize("name", ["multiwoz21", "crosswoz"])
def test_every_reply_of_real_dialogues_is_learnt(name, tiny_folder):
    path = Path(ROOT, "dialogue", name, "validation.jsonl.gz")
    rows = list(read_table(path).rows({"messages": "messages"}))
    tokenizer = load_tokenizer(tiny_folder("llama"))
    task = TextGeneration(max_length=100_000).learn(rows).within(100_000)
    assert len(rows) >= 50
    for row in rows:
        (features,) = task.encode(row, tokenizer)
        stream = features.streams["text"]
        ids, marks = np.asarray(stream.token_ids), np.asarray(stream.type_ids)
        starts = np.flatnonzero(np.diff(marks, prepend=0) == 1)
        ends = np.flatnonzero(np.diff(marks, append=0) == -1) + 1
        said = [
            tokenizer.decode(ids[start:end], skip_special_tokens=True).strip()
            for start, end in zip(starts, ends, strict=True)
        ]
        turns = read_messages(row.values["messages"], row.where)
        assert said == [t.content.strip() for t in turns[1:] if t.role == "assistant"]
        assert features.num_cut == 0


def first_rows(name: str, number: int) -> list[Row]:
    with gzip.open(Path(ROOT, name), "rt", encoding="utf-8") as lines:
        return [Row(place, json.loads(line)) for place, line in zip(range(number), lines)]  # noqa: B905


@pytest.mark.parametrize("max_length", [64, 128, 256])
def test_windows_read_every_token_of_film_reviews(max_length):
    tokenizer = load_tokenizer(find_model("starter"))
    rows = first_rows("classification/imdb_2k/train.jsonl.gz", 200)
    whole = TextClassification(max_length=100_000).learn(rows)
    cut = TextClassification(max_length=max_length).learn(rows)
    windows = TextClassification(max_length=max_length, long="window", stride=16).learn(rows)
    lost = 0
    for row in rows:
        (review,), (first,) = whole.encode(row, tokenizer), cut.encode(row, tokenizer)
        read = windows.encode(row, tokenizer)
        assert sum(item.num_tokens - item.num_repeated for item in read) == review.num_tokens
        assert first.num_tokens + first.num_cut == review.num_tokens
        assert sum(item.num_cut for item in read) == 0
        lost += first.num_cut
    assert lost > 5000  # film reviews are long


def test_an_answer_of_real_questions_is_learnt_from_some_window():
    tokenizer = load_tokenizer(find_model("starter"))
    rows = first_rows("qa/squad_v1/train.jsonl.gz", 300)
    task = QuestionAnswering(max_length=96, stride=48).learn(rows)
    num_windows = 0
    for row in rows:
        found = task.encode(row, tokenizer)
        num_windows += len(found)
        assert sum(item.num_cut for item in found) == 0
        answer = row.values["answers"][0]
        places = {
            (stream.offsets[item.targets["start"]][0], stream.offsets[item.targets["end"]][1])
            for item in found
            for stream in [item.streams["text"]]
            if item.targets["start"]
        }
        start, end = answer["start"], answer["start"] + len(answer["text"])
        assert places
        for first, last in places:  # of whole tokens, which an answer may cut
            assert first <= start < end <= last
            assert not any(each.isspace() for each in row.values["context"][first:start])
            assert not any(each.isspace() for each in row.values["context"][end:last])
    assert num_windows > 2 * len(rows)
