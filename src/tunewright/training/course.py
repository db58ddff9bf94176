"""A course of training: the loop, judged now and then, keeping its best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.errors import SettingsError, listed, nearest
from tunewright.training.events import Evaluation, Event, Finished, Step
from tunewright.training.loop import Loop

Judge = Callable[[], Mapping[str, float]]
Keep = Callable[[int], None]


def check_metric(name: str, known: Iterable[str]) -> None:
    """Raises SettingsError, with the nearest name, when there is no such metric."""
    names = list(known)
    if name in names:
        return
    hint = nearest(name, names)
    raise SettingsError(
        "training.metric_for_best_model",
        f'there is no metric "{name}"',
        f"The task has {listed(names, 30)}.",
        f'Did you mean "{hint}"?' if hint else "",
    )


@dataclass
class Best:
    """The best evaluation so far, and how long ago it was.

    An evaluation is progress when it is better by more than `threshold`. A metric that is not
    finite never is.
    """

    metric: str
    higher_is_better: bool
    threshold: float = 0.0
    value: float = math.nan
    step: int = 0
    stale: int = 0

    def observe(self, metrics: Mapping[str, float], step: int) -> bool:
        """Takes in an evaluation; returns whether it is the best so far.

        Raises SettingsError when the metric is not among them.
        """
        check_metric(self.metric, metrics)
        found = metrics[self.metric]
        gain = (found - self.value) if self.higher_is_better else (self.value - found)
        first = math.isnan(self.value)
        if math.isfinite(found) and (first or gain > self.threshold):
            self.value, self.step, self.stale = found, step, 0
            return True
        self.stale += 1
        return False


@dataclass
class Course:
    """Runs a loop to its end, with evaluations, best weights and early stopping.

    `judge` returns the validation metrics of the weights that the model holds; `keep` stores them
    as those of a step and `restore` brings them back.
    """

    loop: Loop
    judge: Judge | None
    keep: Keep
    restore: Keep
    best: Best
    eval_steps: int | None = None
    patience: int | None = None
    load_best: bool = True

    def run(self) -> Iterator[Event]:
        """Yields every update and evaluation, and at the end why it stopped.

        Afterwards the model holds the kept weights, in evaluation mode.
        """
        started, last, reason = time.perf_counter(), 0, "all updates done"
        for event in self.loop.run():
            yield event
            last = event.step
            if self.judge is not None and self._is_due(event):
                evaluation = self._evaluate(event)
                yield evaluation
                if self.patience is not None and self.best.stale >= self.patience:
                    reason = f"no progress in {self.patience} evaluations"
                    break
        kept = self._settle(last)
        yield Finished(last, reason, kept, time.perf_counter() - started)

    def _is_due(self, event: Step) -> bool:
        interval = self.eval_steps or self.loop.steps_per_epoch
        return event.step % interval == 0 or event.step == event.total_steps

    def _evaluate(self, event: Step) -> Evaluation:
        started = time.perf_counter()
        assert self.judge is not None
        with _averaged(self.loop):
            metrics = self.judge()
            is_best = self.best.observe(metrics, event.step)
            if is_best and self.load_best:
                self.keep(event.step)
        self.loop.schedule.observe(is_best)
        return Evaluation(event.step, event.epoch, metrics, is_best, time.perf_counter() - started)

    def _settle(self, last: int) -> int:
        """Puts the kept weights into the model; returns their step."""
        if self.load_best and self.best.step:
            if self.best.step != last or self.loop.average is not None:
                self.restore(self.best.step)
            kept = self.best.step
        else:
            if self.loop.average is not None:
                self.loop.average.swap()
            kept = last
        self.loop.model.eval()
        return kept


class _averaged:  # noqa: N801  (used like a function)
    """Holds the moving average in the model, where there is one, for the time of a block."""

    def __init__(self, loop: Loop) -> None:
        self._average = loop.average

    def __enter__(self) -> None:
        if self._average is not None:
            self._average.swap()

    def __exit__(self, *_: Any) -> None:
        if self._average is not None:
            self._average.swap()


def total_steps(num_rows: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Returns the number of updates of a run; a part of an epoch is rounded up."""
    return max_steps or math.ceil(epochs * math.ceil(num_rows / batch_size))
