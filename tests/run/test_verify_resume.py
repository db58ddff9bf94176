"""Runs that are killed with SIGKILL, in processes of their own."""

from __future__ import annotations

import json

import pytest

from tunewright.errors import RunError
from tunewright.run.config import compose
from tunewright.run.resuming import verify_resume as module
from tunewright.run.resuming.verify_resume import verify_resume

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tiny_folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(60):
            label = ("good", "bad")[number % 2]
            file.write(json.dumps({"text": f"a {label} film {number}", "label": label}) + "\n")
    return compose(
        {
            "model": {"name": str(tiny_folder("bert"))},
            "data": {"train": str(rows)},
            "training": {"precision": "fp32", "batch_size": 4, "dropout": 0.1, "track": []},
            "evaluation": {"num_resamples": 10},
            "output": {"folder": str(tmp_path / "runs")},
        }
    )


def test_a_run_that_is_killed_ends_the_same_and_nothing_is_left(config, tmp_path):
    heard = []
    verdict = verify_resume(config, num_kills=3, seed=1, tell=heard.append)

    assert verdict.is_equal
    assert (len(verdict.kills), verdict.total_steps) == (3, 36)
    assert all(0 <= repeated <= verdict.save_steps for repeated in verdict.repeated)
    assert [said.split(":")[0] for said in heard if said.startswith("kill ")] == [
        "kill 1",
        "kill 2",
        "kill 3",
    ]
    assert heard[-1].endswith("ended the same")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_difference_is_named_and_the_runs_stay(config, tmp_path, monkeypatch):
    left_behind = module._left_behind

    def spoilt(run):
        return left_behind(run) | ({"task.json": "other"} if run.path.name == "killed-1" else {})

    monkeypatch.setattr(module, "_left_behind", spoilt)
    verdict = verify_resume(config, num_kills=1)

    assert not verdict.is_equal
    assert verdict.different == ["killed-1/task.json"]
    assert (tmp_path / "runs" / "verify-resume" / "killed-1" / "model").is_dir()


def test_a_training_that_fails_by_itself_is_told(config):
    poor = config.model_copy(update={"data": config.data.model_copy(update={"train": "none.csv"})})
    with pytest.raises(RunError, match=r"a training failed by itself.*there is no such file"):
        verify_resume(poor, num_kills=1)
