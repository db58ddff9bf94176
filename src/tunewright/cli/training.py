"""`train`, `demo` and `resume`: they show how it goes, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.cli import show
from tunewright.cli.watching import Watcher
from tunewright.cli.words import config_of, sources_of
from tunewright.run.config import overrides


def train_and_show(
    words: Sequence[str],
    base: Mapping[str, Any],
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
    as_json: bool,
) -> None:
    """Trains, showing how it goes, and prints the figures and where everything is."""
    config = config_of(words, base, columns, named)
    sources = sources_of(config)
    show.say("Reading the data ...")
    started = time.monotonic()
    from tunewright.run.train import train  # torch is imported here, after the first message

    with Watcher() as watcher:
        run = train(sources, config, tell=watcher.hear)
    show_run(run, time.monotonic() - started, as_json)


def resume_and_show(run: str, words: Sequence[str], as_json: bool) -> None:
    """Goes on with a run, showing how it goes, and prints the same as `train`."""
    settings = overrides(words)
    show.say("Reading the run and its data ...")
    started = time.monotonic()
    from tunewright.run.resuming.resume import resume

    with Watcher() as watcher:
        finished = resume(run, settings=settings, tell=watcher.hear)
    show_run(finished, time.monotonic() - started, as_json)


def show_run(run: Any, seconds: float, as_json: bool, next_step: str = "") -> None:
    """Prints the figures of a finished run, where everything is, and what can come next."""
    result = run.result
    if as_json:
        show.print_json(
            {
                "run": str(run.path),
                "model": str(run.folder.model),
                "report": str(run.report),
                "seconds": seconds,
                "evaluation": result.to_json() if result else None,
            }
        )
        return
    if result is not None:
        title = f"{result.split}: {result.num_rows:,} rows"
        show.out.print(show.metrics_table(title, result.metrics, show.HEADLINES))
        for sentence in result.notices:
            show.say(f"  {sentence}")
    show.out.print(f"Done in {seconds:.0f} seconds.", markup=False)
    for name, path in (("model", run.folder.model), ("report", run.report)):
        show.out.print(f"{name:>7}  {path}", markup=False, soft_wrap=True)
    next_step = next_step or f"tunewright predict {run.path}"
    show.out.print(f"   next  {next_step}", markup=False, soft_wrap=True)
