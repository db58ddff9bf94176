from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import build_loop, weights
from tunewright.errors import OutOfMemory
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.events import Shrunk, Spike, Step
from tunewright.training.guards import WATCHED_UPDATES, LossWatch, is_out_of_memory

ROOT = Path(__file__).parents[2]
ROWS = rows_of(EXAMPLES["text-classification"])


def watch(losses):
    found = LossWatch()
    return found, [found.observe(loss) for loss in losses]


def test_a_loss_that_leaps_is_compared_with_the_largest_before_it():
    losses = [1.0] * WATCHED_UPDATES + [3.0, 3.1, 9.1, 9.2, 28.0]
    assert watch(losses)[1][WATCHED_UPDATES:] == [None, None, None, None, 9.2]


def test_nothing_leaps_before_there_is_enough_to_compare_with():
    assert watch([1.0] * (WATCHED_UPDATES - 1) + [100.0])[1][-1] is None


def test_losses_of_zero_tell_nothing():
    assert watch([0.0] * WATCHED_UPDATES + [5.0])[1][-1] is None


def test_a_watch_goes_on_from_what_it_knew():
    first, _ = watch([1.0] * WATCHED_UPDATES)
    second = LossWatch()
    second.recent = first.recent
    assert (second.observe(4.0), second.recent) == (1.0, [1.0] * (WATCHED_UPDATES - 1) + [4.0])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_refused_allocation_is_known_by_what_is_said(error, expected):
    assert is_out_of_memory(error) is expected


class Hungry(TextClassification):
    """Runs out of memory where a forward pass has more than so many tokens."""

    largest = 1_000_000

    def forward(self, model, batch):
        if batch.streams["text"].num_tokens > self.largest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().forward(model, batch)


@pytest.fixture
def loop(tiny_folder):
    def build(task, rows=ROWS, **settings):
        return build_loop(tiny_folder("bert"), task.within(128).learn(rows), rows, **settings)

    return build


def test_an_update_that_does_not_fit_is_repeated_in_smaller_passes(loop, monkeypatch):
    short = loop(Hungry(), steps=3, dropout=0.2)
    monkeypatch.setattr(Hungry, "largest", 40)
    events = list(short.run())
    assert [type(event) for event in events] == [Shrunk, Step, Step, Step]
    assert [event.num_rows for event in events[1:]] == [8, 8, 8]
    assert (events[0].step, events[0].max_tokens) == (1, short.max_tokens)
    from_the_start = loop(TextClassification(), steps=3, dropout=0.2, max_tokens=short.max_tokens)
    list(from_the_start.run())
    for name, tensor in weights(from_the_start.model).items():
        assert torch.equal(weights(short.model)[name], tensor), name


def test_a_single_sequence_that_does_not_fit_ends_the_run_before_the_update(loop, monkeypatch):
    one = loop(Hungry())
    monkeypatch.setattr(Hungry, "largest", 3)
    before = weights(one.model)
    with pytest.raises(OutOfMemory) as caught:
        list(one.run())
    assert str(caught.value) == (
        f"training: a single sequence of {max(i.num_tokens for row in one.rows for i in row)} "
        "tokens does not fit into memory. Its activations and the state of the optimizer need more "
        "than there is. Set gradient_checkpointing=true or a smaller task.max_length."
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(one.model).items())


def test_windows_of_a_text_have_to_fit_one_by_one(loop, monkeypatch):
    one = loop(Hungry(max_length=8, stride=2, long="window"))
    assert max(map(len, one.rows)) > 1
    monkeypatch.setattr(Hungry, "largest", 8)
    assert len([event for event in one.run() if isinstance(event, Step)]) == 2
    monkeypatch.setattr(Hungry, "largest", 7)
    with pytest.raises(OutOfMemory):
        list(loop(Hungry(max_length=8, stride=2, long="window")).run())


def test_another_error_is_not_taken_for_a_lack_of_memory(loop, monkeypatch):
    one = loop(Hungry())
    monkeypatch.setattr(Hungry, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(one.run())


def short_of(folder, megabytes):
    """Trains in a process that may have so many megabytes more, which is given back when freed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.short_of_memory", folder, str(megabytes)],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_process_that_the_system_gives_too_little_finds_the_budget_that_fits(tiny_folder):
    found = short_of(tiny_folder("bert"), 120)
    assert found["updates"] == [400, 400]
    assert found["budgets"]


def test_a_leap_names_its_rows(loop):
    one = loop(TextClassification(), steps=60, batch_size=4)
    events = []
    for event in one.run():
        events.append(event)
        if event.step == 55:
            one.watch.recent = [1e-9] * WATCHED_UPDATES
    (spike,) = (event for event in events if isinstance(event, Spike))
    assert (spike.step, spike.usual, len(spike.rows)) == (56, 1e-9, 4)
    assert events[events.index(spike) + 1].step == 56
