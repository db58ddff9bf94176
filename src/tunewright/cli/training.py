"""`train` and `demo`: a live progress bar, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from tunewright.cli import show
from tunewright.cli.words import config_of, sources_of


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
    seconds = time.monotonic() - started
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
    show.out.print(f"Done in {seconds:.0f} seconds.", markup=False)
    for name, path in (("model", run.folder.model), ("report", run.report)):
        show.out.print(f"{name:>7}  {path}", markup=False, soft_wrap=True)
    show.out.print(f"   next  tunewright predict {run.path}", markup=False, soft_wrap=True)


class Watcher:
    """Turns a run's events into a progress bar and lines above it."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.completed}/{task.total} updates"),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=show.err,
        )
        self._bar: TaskID | None = None
        self._roof = 1.0
        self._smooth: dict[str, float] = {}

    def __enter__(self) -> Watcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def hear(self, event: Any) -> None:
        """Shows one event of `tunewright.run.train`."""
        from tunewright.run.groundwork import Notice
        from tunewright.run.train import Started
        from tunewright.training.events import Evaluation, Finished, Step

        if isinstance(event, Notice):
            show.say(f"  {event.sentence}")
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Evaluation):
            self._evaluation(event)
        elif isinstance(event, Finished):
            self._finish(event)

    def _start(self, event: Any) -> None:
        show.findings(event.audit.findings())
        sizes = ", ".join(f"{number:,} {name}" for name, number in event.num_rows.items())
        show.say(f"Rows: {sizes}. Run folder: {event.folder}")
        show.say(
            f"Training on {event.device.description} in {event.device.precision}, "
            f"{event.route} batches; roof {event.roof / 1e12:.2f} TFLOP/s."
        )
        self._roof = event.roof
        self._bar = self._progress.add_task("", total=event.total_steps)

    def _step(self, event: Any) -> None:
        figures = {
            "loss": event.loss,
            "tokens": event.num_tokens / event.seconds,
            "mfu": event.flop / event.seconds / self._roof,
        }
        for name, value in figures.items():  # a bar that jumps cannot be read
            self._smooth[name] = 0.9 * self._smooth.get(name, value) + 0.1 * value
        shown = self._smooth
        assert self._bar is not None
        self._progress.update(
            self._bar,
            completed=event.step,
            description=f"loss {shown['loss']:.3f}  {shown['tokens']:,.0f} tokens/s  "
            f"MFU {shown['mfu']:.0%}",
        )

    def _evaluation(self, event: Any) -> None:
        name, value = next(iter(event.metrics.items()))
        best = " (best so far)" if event.is_best else ""
        show.say(f"  epoch {event.epoch:.2f}: validation {name} {value:.4f}{best}")

    def _finish(self, event: Any) -> None:
        show.say(f"Stopped after {event.step} updates ({event.reason}); weights of update "
                 f"{event.kept_step} are kept.")  # fmt: skip
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        show.say("Saving, checking parity, measuring ...")
