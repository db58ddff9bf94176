"""A run's events as a progress bar, and lines above it."""

from __future__ import annotations

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
from tunewright.errors import listed


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
        from tunewright.run.preparing.groundwork import Notice
        from tunewright.run.training import Started
        from tunewright.training.events import Evaluation, Finished, Spike, Step

        if isinstance(event, Notice):
            show.say(f"  {event.sentence}")
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Evaluation):
            self._evaluation(event)
        elif isinstance(event, Spike):
            self._spike(event)
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
        self._bar = self._progress.add_task("", total=event.total_steps, completed=event.step)

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

    def _spike(self, event: Any) -> None:
        show.say(
            f"  The loss of update {event.step:,} leapt to {event.loss:.3g}; the largest of those "
            f"before it is {event.usual:.3g}. Its rows: {listed(event.rows)}."
        )

    def _finish(self, event: Any) -> None:
        show.say(f"Stopped after {event.step} updates ({event.reason}); weights of update "
                 f"{event.kept_step} are kept.")  # fmt: skip
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        show.say("Saving, checking parity, measuring ...")
