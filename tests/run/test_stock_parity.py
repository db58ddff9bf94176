"""A folder that a run leaves answers in stock transformers as it does here."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tunewright.run.config import compose
from tunewright.run.loaded import load
from tunewright.run.train import train

TRAIN = [
    {"text": text, "label": label}
    for text, label in [
        ("a fine film, and the plot is very good", "film"),
        ("the worst film ever", "film"),
        ("fine acting in the movie", "film"),
        ("the movie is slow", "film"),
        ("a new book", "book"),
        ("slow book, awful story, and not very good at that", "book"),
        ("the old book", "book"),
        ("a story to love", "book"),
        ("the team won the game", "sport"),
        ("lose the match", "sport"),
        ("new goal of the best team", "sport"),
        ("a match to like", "sport"),
    ]
]
TEXTS = [
    "a very fine film of the old book",
    "the game",
    "Music, stock and 24 shares!",
    "the market of the bank is slow, and the phone service is poor, and the price is not good",
    "电影很好",
]
ARCHITECTURES = (
    "bert",
    "distilbert",
    "electra",
    "gpt2",
    "llama",
    "modernbert",
    "mpnet",
    "qwen2",
    "roberta",
    "xlm-roberta",
    "xlnet",
)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def run(request, tiny_folder, tmp_path_factory):
    config = compose(
        {
            "training": {
                "precision": "fp32",
                "max_steps": 2,
                "batch_size": 6,
                "learning_rate": 1e-2,
                "warmup_steps": 0,
                "track": [],
            },
            "task": {"max_length": 32},
            "model": {"name": str(tiny_folder(request.param))},
            "evaluation": {"num_resamples": 20},
            "output": {"folder": str(tmp_path_factory.mktemp("runs"))},
        }
    )
    return train({"train": TRAIN, "validation": TRAIN[::3], "test": TRAIN[::2]}, config)


@pytest.fixture(scope="module")
def model(run):
    return load(run.path, "fp32")


def test_stock_transformers_reads_the_same_logits(run, model):
    folder = run.path / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        expected_BC = stock(**inputs).logits
    found_BC = torch.tensor([answer.logits for answer in model.predict(TEXTS, say=len)])
    torch.testing.assert_close(found_BC, expected_BC, atol=1e-4, rtol=0)


def test_the_pipeline_of_transformers_gives_the_same_labels(run, model):
    stock = pipeline("text-classification", model=str(run.path / "model"), device="cpu")
    expected = [answer["label"] for answer in stock(TEXTS, truncation=True)]
    assert [answer.label for answer in model.predict(TEXTS, say=len)] == expected


def test_the_run_measured_the_parity_and_its_weights_had_moved(run, tiny_folder):
    about = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    parity = about["parity"]
    assert parity["against"] == "stock transformers"
    assert parity["largest_difference"] < 1e-4 <= parity["tolerance"]
    assert (parity["flipped_fraction"], parity["num_sequences"]) == (0.0, 4)
    steps = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(steps[-1])["step"] == 2


def test_answers_after_loading_are_those_that_were_judged(run, model):
    lines = (run.path / "evaluation" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    judged = [json.loads(line) for line in lines]
    again = model.predict([row["text"] for row in TRAIN[::2]])
    assert [answer.label for answer in again] == [line["label"] for line in judged]
    for answer, line in zip(again, judged, strict=True):
        assert answer.logits == pytest.approx(line["logits"], abs=1e-4)
