"""A training that says line by line what it does, for a process that is meant to be killed.

    python -m tunewright.run.killable train RUN.toml
    python -m tunewright.run.killable resume RUN_FOLDER

Each line is an update and what is done after it: `12 updated`, `12 saving`, `12 saved`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tunewright.run.config import compose, read_config


def main(verb: str, path: str) -> None:
    """Trains as the TOML file says, or goes on with the run."""
    _say("reading", 0)
    if verb == "resume":
        from tunewright.run.resume import resume

        resume(path, tell=_hear)
    else:
        from tunewright.run.train import train

        config = compose(read_config(Path(path)), where=path)
        splits = {"train", "validation", "test"}
        train(config.data.model_dump(include=splits), config, tell=_hear)
    _say("finished", 0)


def _hear(event: object) -> None:
    from tunewright.run.train import Started
    from tunewright.training.events import Phase, Saved, Step

    if isinstance(event, Started):
        _say("started", event.step)
    elif isinstance(event, Step):
        _say("updated", event.step)
    elif isinstance(event, Phase):
        _say(event.name, event.step)
    elif isinstance(event, Saved):
        _say("saved", event.step)


def _say(what: str, step: int) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(step, what, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
