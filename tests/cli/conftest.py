"""A command line that is called in this process, on a tiny model and a small file."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tunewright.cli import run

GOOD = ["a good film", "a great film", "best movie ever", "fine acting, good plot", "i love it"]
BAD = ["a bad film", "an awful movie", "worst plot ever", "poor acting", "i hate it"]

# What makes a run of a tiny model quick and exact.
QUICK = [
    "num_train_epochs=1",
    "precision=fp32",
    "num_resamples=20",
    "track=[]",
    "batch_size=8",
]


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Returns a function that runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = run([str(word) for word in words])
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return call


@pytest.fixture
def reviews(tmp_path):
    """A CSV file of 60 reviews with the columns review, stars and shop."""
    lines = ["review,stars,shop"]
    for number in range(6):
        for good, bad in zip(GOOD, BAD, strict=True):
            lines.append(f'"{good}, {number}",good,{"north" if number % 2 else "south"}')
            lines.append(f'"{bad}, {number}",bad,{"north" if number % 2 else "south"}')
    file = tmp_path / "reviews.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def tiny(tiny_folder):
    return tiny_folder("bert")


@pytest.fixture
def trained(command, reviews, tiny):
    """A finished run of the reviews."""
    ended = command("train", reviews, "--model", tiny, "--text", "review", "--label", "stars",
                    "--name", "first", "--json", *QUICK)  # fmt: skip
    assert ended.status == 0, ended.err
    return ended.json
