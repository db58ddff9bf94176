"""A training that says step by step what it does, for a process that is meant to be killed.

Each message is an update and what is done after it: `12 updated`, `12 saving`, `12 saved`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from tunewright.run.config import compose, read_config

Say = Callable[[str, int], None]


def main(verb: str, path: str, place: Mapping[str, str], says: Connection, errors: str) -> None:
    """Trains as a TOML file says (`train`), or goes on with a run (`resume`).

    `place` are environment variables that say which of several processes this is; of those one
    `says` what it does. What goes wrong is written to the file `errors`.
    """
    import torch

    os.environ.update(place)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if "OMP_NUM_THREADS" in place:  # which torch, being imported already, reads no more
        torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    say = _sayer(says) if place.get("RANK", "0") == "0" else lambda _, __: None
    say("reading", 0)
    if verb == "resume":
        from tunewright.run.resuming.resume import resume

        resume(path, tell=lambda event: _hear(event, say))
    else:
        from tunewright.run.train import train

        config = compose(read_config(Path(path)), where=path)
        splits = {"train", "validation", "test"}
        sources = config.data.model_dump(include=splits)
        train(sources, config, tell=lambda event: _hear(event, say))
    say("finished", 0)


def _sayer(says: Connection) -> Say:
    return lambda what, step: says.send_bytes(f"{step} {what}".encode())


def _hear(event: object, say: Say) -> None:
    from tunewright.run.training import Started
    from tunewright.training.events import Phase, Saved, Step

    if isinstance(event, Started):
        say("started", event.step)
    elif isinstance(event, Step):
        say("updated", event.step)
    elif isinstance(event, Phase):
        say(event.name, event.step)
    elif isinstance(event, Saved):
        say("saved", event.step)
