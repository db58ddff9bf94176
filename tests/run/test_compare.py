"""Two runs of any task are compared by what they answer."""

from __future__ import annotations

import json

import pytest

import tunewright as tw
from tests.tasks.examples import EXAMPLES
from tunewright.errors import SettingsError


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


def test_other_rows_of_memory_are_other_rows(tiny_folder, tmp_path):
    rows = [{"text": f"film {place}", "label": "ab"[place % 2]} for place in range(12)]
    runs = [
        tw.train(rows, model=tiny_folder("bert"), folder=str(tmp_path), max_steps=1, track=(),
                 num_resamples=20, settings={"data": {"split": {"seed": seed}}})
        for seed in (1, 2)
    ]  # fmt: skip
    assert tw.compare(runs[0], runs[0]).num_different == 0
    with pytest.raises(SettingsError, match="they were judged on different rows"):
        tw.compare(*runs)


def test_runs_that_read_other_columns_are_told_apart(tiny_folder, tmp_path):
    rows = [{"review": f"film {place}", "text": "no", "label": "ab"[place % 2]}
            for place in range(12)]  # fmt: skip
    runs = [
        tw.train(rows, text=column, model=tiny_folder("bert"), folder=str(tmp_path), max_steps=1,
                 track=(), num_resamples=20)
        for column in ("review", "text")
    ]  # fmt: skip
    found = tw.compare(*runs, rows)
    assert found.notices == ("A and B have read different texts as text on 12 rows.",)
