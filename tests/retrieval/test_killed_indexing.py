"""An indexing that gets SIGKILL, at every phase it has: what readers see, and how it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGKILLED = -9
NUM_NEW = 25  # passages of the second version that the first one has not
LEAST_KILLS = 120


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Returns what an undisturbed indexing finds, and what came of each that was killed."""
    words = [sys.executable, "-m", "tests.retrieval.killed_indexing"]
    done = subprocess.run(
        [*words, str(tmp_path_factory.mktemp("killed"))],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a child has not its parent's other threads
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    undisturbed, *kills = (json.loads(line) for line in done.stdout.splitlines())
    return undisturbed, kills


def test_every_child_was_killed_at_work(killed):
    undisturbed, kills = killed
    at_work = [kill for kill in kills if kill["ended"] == SIGKILLED]
    others = [kill for kill in kills if kill["ended"] != SIGKILLED]

    assert len(at_work) >= LEAST_KILLS
    # Into an empty folder there is nothing to remove: phases of removing never come.
    assert all(kill["is_new"] and kill["ended"] == 0 for kill in others)
    assert {kill["phase"] for kill in at_work} == set(undisturbed["phases"])
    assert undisturbed["phases"]["commit"] >= 8
    assert {"a step", "before renaming", "renamed", "flush .partial"} <= set(undisturbed["phases"])


def test_a_reader_sees_the_index_as_it_was_or_as_it_is_to_be(killed):
    undisturbed, kills = killed
    before, after = undisturbed["before"], undisturbed["after"]
    seen = [kill["found"] for kill in kills if not kill["is_new"]]

    assert before["documents"] != after["documents"]
    assert all(found in (before, after) for found in seen)
    assert before in seen
    assert after in seen


def test_an_index_that_was_never_finished_is_not_opened(killed):
    _, kills = killed
    seen = [kill["found"] for kill in kills if kill["is_new"]]

    assert None in seen
    assert all(found is None or found["integrity"] == "ok" for found in seen)


def test_indexing_again_completes_it(killed):
    undisturbed, kills = killed
    for kill in kills:
        finished = dict(kill["finished"])
        expected = dict(undisturbed["after"])
        if kill["is_new"]:
            finished.pop("generation")
            expected.pop("generation")
        assert finished == expected, kill["phase"]
        assert kill["left"] == {"unused": 0, "files": []}, kill["phase"]


def test_what_was_embedded_before_the_kill_is_not_embedded_again(killed):
    _, kills = killed
    again = [kill["embedded"] for kill in kills if not kill["is_new"]]

    assert max(again) == NUM_NEW
    assert 0 in again
    assert any(0 < num < NUM_NEW for num in again)
