"""The rows of the sequence-level cases, in the columns that our tasks read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

Row = dict[str, Any]
Splits = dict[str, list[Row]]

NUM_CHOICES = 4
# Reading four answers a question is slow; as many rows tell two models apart by about 2 points.
NUM_QUESTIONS = {"train": 2000, "test": 1000}
NUM_TIMES = 3


def multiwoz_domains(root: Path) -> Splits:
    """Dialogues, their messages joined; the labels are the domains that they are about."""
    return {
        split: [
            {
                "text": "\n".join(message["content"] for message in row["messages"]),
                "labels": row["domains"],
            }
            for row in _read(root / "dialogue/multiwoz21" / f"{split}.jsonl.gz")
        ]
        for split in ("train", "validation", "test")
    }


def medical_rqe(root: Path) -> Splits:
    """Pairs of questions; does the answer of one answer the other?"""
    return {
        split: [
            {"text": row["text_a"], "text_pair": row["text_b"], "label": row["label"]}
            for row in _read(root / "similarity/medical_rqe" / f"{split}.jsonl.gz")
        ]
        for split in ("train", "test")
    }


def stsb(root: Path) -> Splits:
    """Pairs of sentences and how alike they are, 0 to 5."""
    return {
        split: [
            {"text": row["text_a"], "text_pair": row["text_b"], "score": row["score"]}
            for row in _read(root / "similarity/stsb" / f"{split}.jsonl.gz")
        ]
        for split in ("train", "test")
    }


def banking77(root: Path) -> Splits:
    """Questions to a bank, of 77 intents."""
    return {
        split: _read(root / "classification/banking77" / f"{split}.jsonl.gz")
        for split in ("train", "test")
    }


def medquad_choices(root: Path) -> Splits:
    """Questions with their answer and the three others of the split that are nearest to them.

    Near are answers whose words (TF-IDF, cosine) are the question's; where the right answer stands
    is drawn at random.
    """
    return {
        split: _with_choices(_read(root / "retrieval/medquad" / f"{split}.jsonl.gz"), limit)
        for split, limit in NUM_QUESTIONS.items()
    }


def medquad_choices_thrice(root: Path) -> Splits:
    """The same training rows; every test question three times, each with three other answers.

    These are the three nearest answers that are wrong, the next three, and the three after them.
    """
    test = _read(root / "retrieval/medquad/test.jsonl.gz")
    return {
        "train": medquad_choices(root)["train"],
        "test": _with_choices(test, len(test), NUM_TIMES),
    }


def _with_choices(rows: list[Row], limit: int, times: int = 1) -> list[Row]:
    answers = list(dict.fromkeys(row["positive"] for row in rows))
    right: dict[str, set[str]] = {}
    for row in rows:
        right.setdefault(row["query"], set()).add(row["positive"])
    words = TfidfVectorizer(sublinear_tf=True)
    answers_AV = words.fit_transform(answers)
    near_RA = (words.transform([row["query"] for row in rows[:limit]]) @ answers_AV.T).tocsr()
    rng = np.random.Generator(np.random.PCG64(42))
    made = []
    for row, scores in zip(rows, near_RA, strict=False):
        order = np.argsort(-scores.toarray()[0], kind="stable")
        wrong = [answers[a] for a in order if answers[a] not in right[row["query"]]]
        for time in range(times):
            choices = wrong[time * (NUM_CHOICES - 1) :][: NUM_CHOICES - 1]
            place = int(rng.integers(NUM_CHOICES))
            choices.insert(place, row["positive"])
            made.append({"question": row["query"], "choices": choices, "label": place})
    return made


def _read(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
