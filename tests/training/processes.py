"""Loops over tiny models in one process or several, each a process of its own.

    python -m tests.training.processes '{"ARCHITECTURE": "MODEL_FOLDER", ...}' ddp

trains several cases and prints as JSON, for the process that leads, the losses of each, the
rows and tokens of its updates, and a digest of its weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.tasks.examples import ARCHITECTURES, TRIED, rows_of
from tests.training.loops import build_loop
from tunewright.models.adapting.adapter_config import AdapterConfig
from tunewright.run.resuming.verify_resume import environments
from tunewright.tasks import find_task
from tunewright.training.events import Step
from tunewright.training.sharding import Shard
from tunewright.training.state import weights_of

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.2},
    "cut": {"dropout": 0.2, "max_tokens": 16},
    "clipped": {"max_grad_norm": 0.1, "l1": 1e-4, "weight_decay": 0.1, "ema_decay": 0.9},
    "fewer rows than processes": {"batch_size": 1},
    "recomputed": {"recompute": True, "max_tokens": 16},
}

# Models whose layers are put together in other ways than BERT's, by the task that tries them.
ON_MODELS = {
    "text-classification": (
        "albert", "deberta-v2", "distilbert", "gpt2", "modernbert", "mpnet", "qwen3", "roberta",
        "xlnet",
    ),
    "translation": ("bart", "marian", "mbart", "t5"),
}  # fmt: skip
# Texts whose windows pass apart, and share a loss: by task, what it is told.
WINDOW = 6
IN_WINDOWS: dict[str, dict[str, Any]] = {
    "text-classification": {},
    "token-classification": {"crf": True},
}
WITH_ADAPTERS = ("lora", "dora", "ia3", "bottleneck")


@dataclass(frozen=True)
class Case:
    """A training: its task, model, settings, ways of sharing it, and what else the task is told."""

    name: str
    task: str
    architecture: str
    settings: dict[str, Any]
    parallel: tuple[str, ...] = ("ddp", "fsdp")
    told: Mapping[str, Any] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    usual = {"dropout": 0.2, "max_tokens": 40}
    for name, (task, *_) in TRIED.items():
        yield Case(name, task, ARCHITECTURES.get(name, "bert"), usual)
    for name, settings in CASES.items():
        yield Case(name, "text-classification", "bert", settings)
    for task, architectures in ON_MODELS.items():
        for architecture in architectures:
            settings = {"max_tokens": 40}
            yield Case(f"{task} on {architecture}", task, architecture, settings, ("fsdp",))
    for task, own in IN_WINDOWS.items():
        told = {"long": "window", "max_length": WINDOW, "stride": 1, **own}
        settings = {"dropout": 0.2, "max_tokens": WINDOW}
        yield Case(f"{task} in windows", task, "bert", settings, told=told)
    short = {"steps": 3, "max_tokens": 120, "room": 16}
    yield Case("short of memory", "sentence-embedding", "bert", short, ("ddp",))
    for name in WITH_ADAPTERS:
        settings = {"max_tokens": 40, "adapter": AdapterConfig(name=name)}
        yield Case(f"with {name}", "text-classification", "bert", settings, ("fsdp",))


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


def told_by(size: int, folders: Mapping[str, str], parallel: str) -> dict[str, Any]:
    """Returns what the process that leads says of all cases, by the folder of each model."""
    processes = started(size, "-m", "tests.training.processes", json.dumps(folders), parallel)
    said = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(said[0][0])
    return found


def within(room: int, forward: Any, step: int, batch: Any) -> Any:
    """Runs a forward pass as a process does that has no memory for more tokens."""
    if batch.num_tokens > room:
        raise MemoryError
    return forward(step, batch)


def main(folders: Mapping[str, str], parallel: str) -> None:
    from tunewright.devices.processes import join_processes

    processes = join_processes()
    told = {}
    for case in cases():
        if parallel not in (*case.parallel, "alone"):
            continue
        _, examples, told_before = TRIED.get(case.name, TRIED[case.task])
        rows = rows_of(examples)
        task = find_task(case.task)(**told_before | case.told).within(128).learn(rows)
        settings = {"steps": 8, "batch_size": 3, "learning_rate": 1e-5, **case.settings}
        settings |= {"processes": processes, "is_sharded": parallel == "fsdp"}
        room = settings.pop("room", None)
        loop = build_loop(Path(folders[case.architecture]), task, rows, **settings)
        if room is not None and processes.rank == processes.size - 1:
            loop._forward = partial(within, room, loop._forward)
        events = [event for event in loop.run() if isinstance(event, Step)]
        digest = sha256()
        for held in weights_of(loop.model).values():
            weight = held.whole(processes) if isinstance(held, Shard) else held
            digest.update(weight.numpy().tobytes())
        told[case.name] = {
            "losses": [event.loss for event in events],
            "norms": [event.gradient_norm for event in events],
            "max_tokens": loop.max_tokens,
            "longest_row": max(sum(item.num_tokens for item in row) for row in loop.rows),
            "sizes": [[event.num_rows, event.num_tokens, event.flop] for event in events],
            "local_size": processes.local_size,
            "digests": processes.gather_json(digest.hexdigest()),
        }
    if processes.leads:
        print(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
