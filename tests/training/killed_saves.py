"""Saves that are killed: a process of its own, since it forks, and a child for each operation.

    python -m tests.training.killed_saves FOLDER

makes FOLDER/1, FOLDER/2, ... with a checkpoint of update 1 each, and kills the save of update 2 at
that operation on the disk. It prints how each child ended, until one was not killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.training.faults import Killed, watched
from tunewright.training.checkpoint import Checkpoint, Checkpoints


def checkpoint(step: int) -> Checkpoint:
    """A small checkpoint whose every tensor holds its step."""
    tensors = {
        name: {"a": torch.full((40, 10), float(step)), "b": torch.tensor(step)}
        for name in ("model", "optimizer")
    }
    return Checkpoint(step, tensors, {"best": {"value": 0.5, "step": step}})


def save_and_die(folder: Path, at: int) -> int:
    """Forks a child that is killed at the operation `at` of a save; returns how it ended."""
    child = os.fork()
    if child == 0:
        with watched(Killed(at), folder):
            Checkpoints(folder, limit=1).save(checkpoint(2))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for at in range(1, 1000):
        store = Checkpoints(Path(sys.argv[1]) / str(at), limit=1)
        store.save(checkpoint(1))
        ended = save_and_die(store.folder, at)
        print(ended)
        if ended == 0:
            break
