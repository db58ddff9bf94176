"""Loops over tiny models in one process or several, each a process of its own.

    python -m tests.training.processes '{"TASK": "MODEL_FOLDER", ...}'

trains several cases and prints as JSON, for the process that leads, the losses of each, the
rows and tokens of its updates, and a digest of its weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.tasks.examples import EXAMPLES, SETTINGS, rows_of
from tests.training.loops import build_loop
from tunewright.run.verify_resume import environments
from tunewright.tasks import TASKS, find_task

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.2},
    "cut": {"dropout": 0.2, "max_tokens": 16},
    "clipped": {"max_grad_norm": 0.1, "l1": 1e-4, "weight_decay": 0.1, "ema_decay": 0.9},
    "fewer rows than processes": {"batch_size": 1},
}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, {"dropout": 0.2, "max_tokens": 40}) for name in TASKS)
    yield from ((f"text-classification {name}", case) for name, case in CASES.items())


def started(size: int, *command: str) -> list[subprocess.Popen[str]]:
    """Starts a Python command in each of `size` processes."""
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for env in environments(size)
    ]


def told_by(size: int, folders: Mapping[str, str]) -> dict[str, Any]:
    """Returns what the process that leads says of all cases, by the folder of each task's model."""
    processes = started(size, "-m", "tests.training.processes", json.dumps(folders))
    said = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(said[0][0])
    return found


def main(folders: Mapping[str, str]) -> None:
    from tunewright.devices.processes import join_processes, leave_processes

    processes = join_processes()
    told = {}
    for name, case in cases():
        task_name = name.split()[0]
        rows = rows_of(EXAMPLES[task_name])
        task = find_task(task_name)(**SETTINGS.get(task_name, {})).within(128).learn(rows)
        settings = {"steps": 8, "batch_size": 3, "learning_rate": 2e-5, **case}
        loop = build_loop(Path(folders[task_name]), task, rows, **settings)
        loop.processes = processes
        events = list(loop.run())
        digest = sha256()
        for weight in loop.model.parameters():
            digest.update(weight.detach().numpy().tobytes())
        told[name] = {
            "losses": [event.loss for event in events],
            "norms": [event.gradient_norm for event in events],
            "sizes": [[event.num_rows, event.num_tokens, event.flop] for event in events],
            "digests": processes.gather_json(digest.hexdigest()),
        }
    if processes.leads:
        print(json.dumps(told))
    leave_processes()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
