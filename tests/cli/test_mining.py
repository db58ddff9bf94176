"""`mine` as users call it, and what bad input gets."""

from __future__ import annotations

import csv
import json

import pytest

from tests.tiny import tiny_sentence_model
from tunewright.mining import mine_negatives
from tunewright.models.files.sentence_folder import SentenceSettings
from tunewright.run.loaded import load

PAIRS = [
    ("good film", "a fine movie"),
    ("the bank card", "lose the card"),
    ("good film", "a great story"),
    ("a new book", "the plot of the book"),
]


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("asked", "told"), *PAIRS])
    return ["pairs.csv", "data.columns.anchor=asked", "data.columns.positive=told"]


@pytest.fixture(scope="module")
def tiny_sentences(tmp_path_factory):
    settings = SentenceSettings("mean", True, 32, "find: ", "")
    return str(tiny_sentence_model(tmp_path_factory.mktemp("mining") / "model", settings))


def rows_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_of_pairs_gets_negatives(command, pairs, tiny_sentences, tmp_path):
    asked = ["--negatives", "2", "--max-share", "inf", "precision=fp32"]
    ended = command("mine", *pairs, "--model", tiny_sentences, *asked, "--out", "mined.jsonl")
    assert ended.status == 0, ended.err
    assert ended.err.endswith("3 rows with 6 negatives.\n")
    assert "fewer" not in ended.err
    columns = {"anchor": "asked", "positive": "told"}
    model = load(tiny_sentences, "fp32")
    expected = mine_negatives(model, "pairs.csv", columns, num_negatives=2, max_share=float("inf"))
    assert rows_in(tmp_path / "mined.jsonl") == expected
    assert expected[0]["positive"] == ["a fine movie", "a great story"]


def test_other_documents_are_chosen_from_too(command, pairs, tiny_sentences, tmp_path):
    texts = ["shares", "", "the goal", "lose the card"]
    lines = (json.dumps({"said": text}) for text in texts)
    (tmp_path / "more.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked = ["--documents", "more.jsonl", "--text", "said", "--negatives", "9", "--json"]
    words = ["mine", *pairs, "--model", tiny_sentences, *asked, "--max-share", "inf"]
    ended = command(*words, "--out", "mined.jsonl")
    assert ended.json == {"rows": 3, "output": "mined.jsonl"}
    assert "3 of 3 rows got fewer than 9 negatives, 0 none." in ended.err
    found = {text for row in rows_in(tmp_path / "mined.jsonl") for text in row["negative"]}
    assert found == {answer for _, answer in PAIRS} | {"shares", "the goal"}


def test_what_was_guessed_is_said(command, tiny_sentences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": a, "answer": b} for a, b in PAIRS]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ended = command("mine", "faq.jsonl", "--model", tiny_sentences)
    assert 'faq.jsonl: the column "question" is taken as anchor.' in ended.err
    assert 'faq.jsonl: the column "answer" is taken as positive.' in ended.err


def test_what_is_mined_trains_a_reranker_from_either_kind_of_file(
    command, pairs, tiny_sentences, tiny_folder, tmp_path
):
    for name in ("mined.jsonl", "mined.csv"):
        asked = ["--max-share", "inf", "--out", name]
        assert command("mine", *pairs, "--model", tiny_sentences, *asked).status == 0
        settings = ["num_train_epochs=1", "data.split.test=0", "data.split.validation=0"]
        words = ["train", name, "--task", "reranking", "--model", tiny_folder("bert")]
        ended = command(*words, "--name", name, *settings, "--json")
        assert ended.status == 0, ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "command line: 0 sources are named. One is needed. Write, for example: tunewright "
             "mine pairs.csv --out mined.jsonl"),
        (["pairs.csv", "--skip", "100"],
         "skip: it is 100. It is less than depth, which is 100."),
        (["pairs.csv", "--max-share", "0"], "max_share: it is 0.0. It is more than 0."),
        (["pairs.csv", "--out", "mined.parquet"],
         "mined.parquet: this suffix is not one that is written. It has to end in .jsonl or .csv."),
        (["pairs.csv", "--out", "away/mined.csv"],
         "away/mined.csv: its folder does not exist. Make the folder first."),
    ],
)  # fmt: skip
def test_what_cannot_be_mined_is_one_sentence(command, pairs, tiny_sentences, words, message):
    ended = command("mine", *words, "encoding=utf-8", "--model", tiny_sentences)
    assert ended.status == 2
    assert ended.err.strip() == f"tunewright: {message}"
