"""The table of tasks, and tasks that others bring along."""

from __future__ import annotations

import sys

import pytest

from tunewright.errors import SettingsError, listed
from tunewright.tasks import TASKS, find_task

MODULE = '''
from typing import ClassVar
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from tunewright.tasks.text_classification import TextClassification


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Mood(TextClassification):
    """One mood for a text."""

    name: ClassVar[str] = "mood"
'''


@pytest.fixture
def installed_mood(tmp_path, monkeypatch):
    """A package of somebody else's that brings the task `mood` through its entry point."""
    (tmp_path / "mood_task.py").write_text(MODULE)
    about = tmp_path / "mood_task-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mood-task\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tunewright.tasks]\nmood = mood_task:Mood\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mood_task", None)


def test_a_task_of_somebody_elses_is_found_by_its_entry_point(installed_mood):
    assert find_task("mood").name == "mood"


def test_a_task_of_somebody_elses_trains_and_comes_back(installed_mood, tiny_folder, tmp_path):
    import tunewright as tw

    run = tw.train((["a good film", "a bad film"] * 10, ["up", "down"] * 10), task="mood",
                   model=tiny_folder("bert"), folder=str(tmp_path), max_steps=1, num_resamples=0,
                   track=())  # fmt: skip

    assert tw.load(run.folder.model).predictor.task.name == "mood"


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(SettingsError) as caught:
        find_task("text-clasification")

    assert str(caught.value) == (
        f'task: there is no task "text-clasification". There is {listed(TASKS)}. '
        'Did you mean "text-classification"?'
    )
