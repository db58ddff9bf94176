from __future__ import annotations

import pytest

from tests.training.killed_saves import checkpoint
from tunewright.errors import RunError
from tunewright.training import saving
from tunewright.training.checkpoint import Checkpoints
from tunewright.training.events import NotSaved, Saved
from tunewright.training.saving import Saver


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(saving, "time", found)
    return found


@pytest.fixture
def store(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_by_updates(store, clock):
    saver = Saver(store, steps=5)
    assert [step for step in range(1, 21) if saver.is_due(step)] == [5, 10, 15, 20]


def test_by_time_since_the_last_save(store, clock):
    saver = Saver(store, seconds=60)
    clock.now += 59
    assert not saver.is_due(1)
    clock.now += 1
    assert saver.is_due(2)
    saver.save(checkpoint(2))
    assert not saver.is_due(3)
    clock.now += 60
    assert saver.is_due(4)


def test_by_neither(store, clock):
    saver = Saver(store)
    clock.now += 1e9
    assert not saver.is_due(1)


def test_slow_saves_wait_until_they_are_a_small_share_of_the_run(store, clock, monkeypatch):
    saver = Saver(store, seconds=60)

    class Slow(Checkpoints):
        def save(self, one):
            clock.now += 30
            return super().save(one)

    saver.store = Slow(store.folder)
    assert saver.save(checkpoint(1)).seconds == 30
    clock.now += 60
    assert not saver.is_due(2)
    clock.now += 30 / 0.02 - 60
    assert saver.is_due(3)


def test_a_save_says_what_it_wrote(store):
    saved = Saver(store).save(checkpoint(3))
    assert (type(saved), saved.step, saved.num_bytes) == (Saved, 3, checkpoint(3).num_bytes)


def test_two_failures_in_a_row_are_told_and_the_third_ends_the_run(store):
    saver = Saver(store)
    store.folder.write_text("a file where a folder has to be")
    for step in (1, 2):
        found = saver.try_to_save(checkpoint(step))
        assert isinstance(found, NotSaved)
        assert "could not be saved" in found.reason
    store.folder.unlink()
    assert isinstance(saver.try_to_save(checkpoint(3)), Saved)
    for path in store.folders():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    store.folder.rmdir()
    store.folder.write_text("again")
    for step in (4, 5):
        assert isinstance(saver.try_to_save(checkpoint(step)), NotSaved)
    with pytest.raises(RunError):
        saver.try_to_save(checkpoint(6))
