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
from tunewright.data.chats import read_messages
from tunewright.models.tokenizers import load_tokenizer
from tunewright.tasks.text_generation import TextGeneration

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
