"""Two runs of any task are compared by what they answer."""

from __future__ import annotations

import json

import pytest

import tunewright as tw
from tests.tasks.examples import EXAMPLES


@pytest.mark.parametrize(
    ("task", "has_mcnemar"),
    [("multi-label-classification", False), ("multiple-choice", True), ("regression", False)],
)
def test_the_rows_where_answers_differ_are_found(task, has_mcnemar, tiny_folder, tmp_path):
    rows = EXAMPLES[task]
    runs = [
        tw.train(rows * 2, validation=rows, test=rows, task=task, model=tiny_folder("bert"),
                 folder=str(tmp_path), max_steps=steps, learning_rate=1e-2, num_resamples=20,
                 track=())
        for steps in (1, 12)
    ]  # fmt: skip
    found = tw.compare(*runs)
    answered = [
        [
            json.loads(line)["answered"]
            for line in (run.path / "evaluation" / "predictions.jsonl").read_text().splitlines()
        ]
        for run in runs
    ]
    differ = [place for place, (a, b) in enumerate(zip(*answered, strict=True)) if a != b]
    assert [row["row"] for row in found.rows] == differ
    assert len(differ) == found.num_different > 0
    assert (found.mcnemar is not None) == has_mcnemar
